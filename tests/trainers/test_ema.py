import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf.trainers.ema import ExponentialMovingAverage

STEPS = 20
SHAPES = ((3, 2), (2,))


def values(step):
    rng = np.random.default_rng(step)
    return [rng.normal(size=shape).astype("float32") for shape in SHAPES]


def numpy_average(decay):
    average = values(0)
    for step in range(STEPS):
        keep = min(decay, (1 + step) / (10 + step))
        average = [
            keep * old + (1 - keep) * new
            for old, new in zip(average, values(step + 1), strict=True)
        ]
    return average


def variables(start):
    return [keras.Variable(value, trainable=True) for value in start]


def average_of(strategy, decay, where, compiled):
    """Runs 20 steps that change the sources and then update the average."""
    with strategy.scope():
        sources, targets = variables(values(0)), variables(values(99))
        average = ExponentialMovingAverage(sources, targets, decay)

    update = tf.function(average.update) if compiled else average.update
    if where == "replica":
        inner = update

        def update(step):
            strategy.run(average.update if compiled else inner, args=(step,))

        update = tf.function(update) if compiled else update

    for step in range(STEPS):
        for source, value in zip(sources, values(step + 1), strict=True):
            source.assign(value)
        update(tf.constant(step, tf.int64))
    return targets


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("where", ["replica", "outside"])
@pytest.mark.parametrize("name", ["none", "one device", "two replicas"])
def test_average_equals_numpy(name, where, compiled, two_replicas):
    strategy = {
        "none": tf.distribute.get_strategy(),
        "one device": tf.distribute.OneDeviceStrategy("CPU:0"),
        "two replicas": two_replicas,
    }[name]
    targets = average_of(strategy, 0.6, where, compiled)
    for target, expected in zip(targets, numpy_average(0.6), strict=True):
        for copy in strategy.experimental_local_results(target.value):
            np.testing.assert_allclose(copy, expected, rtol=1e-5, atol=1e-6)


def test_decay_grows_with_the_step_up_to_its_value():
    """Within the 20 steps of the test above, (1 + t) / (10 + t) passes 0.6."""
    assert (1 + 0) / (10 + 0) < 0.6 < (1 + STEPS) / (10 + STEPS)
    late, never = numpy_average(0.6), numpy_average(0.999)
    assert np.abs(late[0] - never[0]).max() > 1e-2


def test_it_starts_at_the_sources():
    sources, targets = variables(values(1)), variables(values(2))
    ExponentialMovingAverage(sources, targets, 0.9)
    for source, target in zip(sources, targets, strict=True):
        np.testing.assert_array_equal(source, target)


def test_it_follows_an_optimizer_inside_one_replica_step(two_replicas):
    """One compiled strategy.run updates the weights and their average, as in trainers."""
    with two_replicas.scope():
        source, target = variables([values(0)[0]] * 2)
        optimizer = keras.optimizers.SGD(0.5)
        optimizer.build([source])
        average = ExponentialMovingAverage([source], [target], 0.9)

    @tf.function
    def run():
        def step():
            count = optimizer.iterations + 0
            optimizer.apply([tf.ones((3, 2)) / 2])  # Keras sums over the two replicas
            average.update(count)

        two_replicas.run(step)

    expected = weight = values(0)[0]
    for step in range(3):
        run()
        weight = weight - 0.5
        keep = (1 + step) / (10 + step)
        expected = keep * expected + (1 - keep) * weight
    np.testing.assert_allclose(source, weight, rtol=1e-5)
    np.testing.assert_allclose(target, expected, rtol=1e-5)


def test_models_that_differ_are_refused():
    with pytest.raises(ValueError, match="built alike"):
        ExponentialMovingAverage(variables(values(0)), variables(values(0)[::-1]), 0.9)
