"""The workers: the processes that train one model together, one per machine.

A strategy of one process has one worker, the chief.
"""

import contextlib
import zlib
from collections.abc import Iterator

import tensorflow as tf

from vim_tf.annotations import Tensor
from vim_tf.distribution.replicas import local_replicas
from vim_tf.errors import Interrupted, UserError


class Workers:
    """The workers of a strategy. Every method waits until all workers have called it.

    Args:
        strategy: the strategy of the workers.

    Attributes:
        count: number of workers.
        index: index of this worker, in the order of the replicas.
        is_chief: whether this worker writes the run's folder; only the chief does.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        replicas = local_replicas(strategy)
        self._local = len(replicas)
        self.count = strategy.num_replicas_in_sync // self._local
        self.index = min(replicas) // self._local
        self.is_chief = strategy.extended.should_checkpoint
        self._sum = tf.function(self._add_up, autograph=False)

    def _add_up(self, number: Tensor) -> Tensor:
        def share(number: Tensor) -> Tensor:
            context = tf.distribute.get_replica_context()
            first = tf.equal(context.replica_id_in_sync_group % self._local, 0)
            number = tf.where(first, number, tf.zeros_like(number))
            return context.all_reduce(tf.distribute.ReduceOp.SUM, number)

        sums = self._strategy.run(share, (number,))
        return self._strategy.experimental_local_results(sums)[0]

    def sum(self, number: Tensor | int) -> Tensor:
        """Returns the sum of all workers' integers, an int64 scalar; in a graph or outside."""
        number = tf.cast(number, tf.int64)
        return number if self.count == 1 else self._sum(number)

    def any(self, flag: Tensor | bool) -> Tensor:
        """Returns whether `flag` is true on any worker, a bool scalar; in a graph or outside."""
        return self.sum(flag) > 0

    def chiefs(self, number: Tensor | int) -> int:
        """Returns the chief's integer; those of the other workers are ignored."""
        return int(self.sum(number if self.is_chief else 0))

    def wait(self) -> None:
        """Returns when all workers have called it."""
        self.sum(0)

    @contextlib.contextmanager
    def chief_first(self) -> Iterator[None]:
        """Runs the body on the chief while the other workers wait, and then on them."""
        if not self.is_chief:
            self.wait()
        yield
        if self.is_chief:
            self.wait()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Raises `Interrupted` instead of the body's error when another worker is gone.

        TensorFlow detects this by heartbeats, within seconds.
        """
        try:
            yield
        except tf.errors.OpError as error:
            if "Collective ops is aborted" not in error.message:
                raise
            raise Interrupted(
                "another worker has stopped, its last lines may say why; start all workers again "
                "with the same command to resume from the last checkpoint"
            ) from error

    def check_same(self, what: str, text: str) -> None:
        """Raises UserError on every worker unless all workers have the chief's text.

        Args:
            what: name of the text, for the error.
            text: the text of this worker.
        """
        mine = zlib.crc32(text.encode())
        differs = self.chiefs(mine) != mine
        others = int(self.sum(differs))
        if differs:
            raise UserError(
                f"{what} of this worker differs from that of the chief; give all workers the same"
            )
        if others:
            raise UserError(
                f"{what} of {others} of {self.count} workers differs from that of the chief; give "
                "all workers the same"
            )
