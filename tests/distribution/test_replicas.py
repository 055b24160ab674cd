import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf.distribution.replicas import assign_everywhere, over_replicas, share_batches


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_replicas_share_rows(count, two_replicas):
    """Uneven numbers, fewer rows than replicas, arguments that are None, nested answers."""
    rows = np.arange(2 * count, dtype="float32").reshape(count, 2)
    shares = []

    def function(rows, factors, missing):
        assert missing is None
        shares.append(rows.shape[0])
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return {
            "product": rows * factors[:, None] * variable,
            "by": [tf.fill([rows.shape[0]], replica)],
        }

    factors = np.arange(count, dtype="float32") + 1
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        with strategy.scope():
            variable = tf.Variable(3.0)
            shared = over_replicas(function)
        for _ in range(2):
            answer = shared(rows, tf.constant(factors), None)
            np.testing.assert_array_equal(answer["product"], 3 * rows * factors[:, None])
    half = -(-count // 2)
    assert shares == [count, half, half]  # each is traced once
    assert list(answer["by"][0]) == [0] * half + [1] * (count - half)


def test_replicas_get_contiguous_rows_of_each_batch(two_replicas):
    def make(worker, workers):
        assert (worker, workers) == (0, 1)
        return tf.data.Dataset.range(24).batch(8)

    parts = iter(share_batches(two_replicas, make, 8))
    for step in range(3):
        halves = two_replicas.experimental_local_results(next(parts))
        assert [half.numpy().tolist() for half in halves] == [
            [*range(8 * step, 8 * step + 4)],
            [*range(8 * step + 4, 8 * step + 8)],
        ]


@pytest.mark.parametrize("kind", ["none", "one", "two"])
@pytest.mark.parametrize("inside", [True, False])
def test_every_copy_gets_the_value(kind, inside, two_replicas):
    strategy = {
        "none": tf.distribute.get_strategy(),
        "one": tf.distribute.OneDeviceStrategy("CPU:0"),
        "two": two_replicas,
    }[kind]
    with strategy.scope():
        variables = [keras.Variable(np.zeros(3, "float32")), tf.Variable(0, trainable=False)]

    def step(x):
        assign_everywhere(variables, [x, tf.constant(5)])

    @tf.function
    def run(x):
        if inside:
            strategy.run(step, (x,))
        else:
            step(x)

    if inside or kind == "none":
        run(tf.constant([1.0, 2.0, 3.0]))
    else:
        with strategy.scope():
            run(tf.constant([1.0, 2.0, 3.0]))
    for copy in strategy.experimental_local_results(variables[0].value):
        np.testing.assert_array_equal(copy, [1, 2, 3])
    for copy in strategy.experimental_local_results(variables[1]):
        assert copy.numpy() == 5
