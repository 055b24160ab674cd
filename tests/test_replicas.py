import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf.replicas import assign_everywhere


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
