"""The processes that train one model together, one a machine: which one writes, what they share.

A strategy of one process has one worker, which is the chief and agrees with itself.
"""

import contextlib
import zlib

import tensorflow as tf

from vim_tf.distribution.replicas import local_replicas
from vim_tf.errors import Interrupted, UserError


class Workers:
    """The workers of a strategy. Whatever is called here waits until all of them have called it.

    Args:
        strategy: a `tf.distribute` strategy.

    Attributes:
        count: number of workers.
        index: this one's place among them, in the order of the replicas.
        is_chief: whether this one writes the run's folder; one does.
    """

    def __init__(self, strategy):
        self._strategy = strategy
        replicas = local_replicas(strategy)
        self._local = len(replicas)
        self.count = strategy.num_replicas_in_sync // self._local
        self.index = min(replicas) // self._local
        self.is_chief = strategy.extended.should_checkpoint
        self._sum = tf.function(self._add_up, autograph=False)

    def _add_up(self, number):
        def share(number):
            context = tf.distribute.get_replica_context()
            first = tf.equal(context.replica_id_in_sync_group % self._local, 0)
            number = tf.where(first, number, tf.zeros_like(number))
            return context.all_reduce(tf.distribute.ReduceOp.SUM, number)

        sums = self._strategy.run(share, (number,))
        return self._strategy.experimental_local_results(sums)[0]

    def sum(self, number):
        """Returns the sum of each worker's integer, an int64 scalar; in a graph or outside."""
        number = tf.cast(number, tf.int64)
        return number if self.count == 1 else self._sum(number)

    def any(self, flag):
        """Returns whether it is true on any worker, a bool scalar; in a graph or outside."""
        return self.sum(flag) > 0

    def chiefs(self, number):
        """Returns the chief's integer; that of the others does not matter."""
        return int(self.sum(number if self.is_chief else 0))

    def wait(self):
        """Returns once all have called it."""
        self.sum(0)

    @contextlib.contextmanager
    def chief_first(self):
        """Runs the body on the chief while the others wait, and then on them."""
        if not self.is_chief:
            self.wait()
        yield
        if self.is_chief:
            self.wait()

    @contextlib.contextmanager
    def watched(self):
        """Raises `Interrupted` out of the body when another worker is gone.

        TensorFlow finds out by heartbeats, within seconds.
        """
        try:
            yield
        except tf.errors.OpError as error:
            if "Collective ops is aborted" not in error.message:
                raise
            raise Interrupted(
                "another worker is gone, its own last lines may say why; start all workers again "
                "with the same command, and it goes on from what was saved last"
            ) from error

    def check_same(self, what, text):
        """Raises UserError on every worker unless all have the same text as the chief."""
        mine = zlib.crc32(text.encode())
        differs = self.chiefs(mine) != mine
        others = int(self.sum(differs))
        if differs:
            raise UserError(f"{what} of this worker is not that of the chief; give all the same")
        if others:
            raise UserError(
                f"{what} of {others} of {self.count} workers is not that of the chief; give all "
                "the same"
            )
