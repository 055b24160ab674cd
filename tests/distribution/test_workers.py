"""One process is one worker, also with two replicas. For two workers: test_two_workers.py."""

import pytest
import tensorflow as tf

from vim_tf.distribution.workers import Workers
from vim_tf.errors import Interrupted


@pytest.mark.parametrize("kind", ["none", "one", "two"])
def test_a_process_is_one_worker(kind, two_replicas):
    strategy = {
        "none": tf.distribute.get_strategy(),
        "one": tf.distribute.OneDeviceStrategy("CPU:0"),
        "two": two_replicas,
    }[kind]
    workers = Workers(strategy)
    assert (workers.count, workers.is_chief) == (1, True)
    assert int(workers.sum(5)) == workers.chiefs(5) == 5
    assert [bool(workers.any(flag)) for flag in (True, tf.constant(False))] == [True, False]
    assert bool(tf.function(workers.any)(tf.constant(True)))
    workers.wait()
    workers.check_same("the config", "text")
    with workers.chief_first():
        pass


def test_only_a_worker_that_is_gone_is_called_so():
    workers = Workers(tf.distribute.get_strategy())
    gone = tf.errors.UnavailableError(None, None, "Collective ops is aborted by: Connection reset")
    with pytest.raises(Interrupted, match="another worker has stopped") as told, workers.watched():
        raise gone
    assert told.value.__cause__ is gone
    with pytest.raises(tf.errors.UnavailableError, match="elsewhere"), workers.watched():
        raise tf.errors.UnavailableError(None, None, "elsewhere")
