import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf.config import OptimizerConfig
from vim_tf.trainers.schedules import (
    WarmupDecay,
    learning_rate_schedule,
    make_optimizer,
    ramp,
    start_step,
)


def config(**changes):
    values = {"learning_rate": 2e-3, "warmup_steps": 10, "final_ratio": 0.1}
    return OptimizerConfig(**{**values, **changes})


def test_warmup_is_linear_from_zero():
    schedule = learning_rate_schedule(config(decay_start=50), steps=100)
    for step in range(11):
        np.testing.assert_allclose(schedule(step), 2e-3 * step / 10, rtol=1e-6)


def test_without_warmup_the_first_step_has_the_peak():
    schedule = learning_rate_schedule(config(warmup_steps=0), steps=100)
    np.testing.assert_allclose(schedule(0), 2e-3, rtol=1e-6)


def test_plateau_lasts_until_the_start_of_the_decay():
    schedule = learning_rate_schedule(config(decay_start=50), steps=100)
    for step in (10, 30, 50):
        np.testing.assert_allclose(schedule(step), 2e-3, rtol=1e-6)
    assert schedule(51) < 2e-3


@pytest.mark.parametrize("decay_start", [0, 10, 60])
def test_cosine(decay_start):
    schedule = learning_rate_schedule(config(decay_start=decay_start), steps=100)
    start = max(decay_start, 10)
    for step in range(start, 101, 10):
        share = (1 + math.cos(math.pi * (step - start) / (100 - start))) / 2
        np.testing.assert_allclose(schedule(step), 2e-3 * (0.1 + 0.9 * share), rtol=1e-5)


@pytest.mark.parametrize("decay_start", [0, 10, 60])
def test_exponential(decay_start):
    schedule = learning_rate_schedule(
        config(schedule="exponential", decay_start=decay_start), steps=100
    )
    start = max(decay_start, 10)
    for step in range(start, 101, 10):
        np.testing.assert_allclose(
            schedule(step), 2e-3 * 0.1 ** ((step - start) / (100 - start)), rtol=1e-5
        )


def test_constant_keeps_the_peak():
    schedule = learning_rate_schedule(config(schedule="constant"), steps=100)
    np.testing.assert_allclose([schedule(step) for step in (10, 60, 100)], 2e-3, rtol=1e-6)


@pytest.mark.parametrize("kind", ["cosine", "exponential"])
def test_final_ratio_is_reached_at_the_last_step_and_kept(kind):
    schedule = learning_rate_schedule(config(schedule=kind), steps=100)
    np.testing.assert_allclose([schedule(100), schedule(500)], 2e-4, rtol=1e-5)


def test_papers_schedule_of_stage_two():
    """4.5e-4 after 5k steps, exponential to 1e-5 from step 80k on (section 3.4)."""
    schedule = WarmupDecay(4.5e-4, 450_000, 5_000, 80_000, 1e-5 / 4.5e-4, "exponential")
    np.testing.assert_allclose(schedule(80_000), 4.5e-4, rtol=1e-6)
    np.testing.assert_allclose(schedule(265_000), math.sqrt(4.5e-4 * 1e-5), rtol=1e-5)
    np.testing.assert_allclose(schedule(450_000), 1e-5, rtol=1e-5)


def test_plateau_may_last_for_the_whole_run():
    schedule = learning_rate_schedule(config(warmup_steps=100, decay_start=100), steps=100)
    np.testing.assert_allclose([schedule(50), schedule(100)], [1e-3, 2e-3], rtol=1e-6)


def test_schedule_survives_serialisation_and_int64_steps():
    schedule = learning_rate_schedule(config(schedule="exponential"), steps=100)
    copy = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    step = tf.constant(37, tf.int64)
    assert copy(step).dtype == tf.float32
    np.testing.assert_array_equal(copy(step), schedule(step))


def weights():
    return {
        name: keras.Variable(np.full(shape, 2.0, "float32"), name=name)
        for name, shape in (
            ("kernel", (3, 2)),
            ("bias", (2,)),
            ("gamma", (2,)),
            ("embeddings", (4, 3)),
            ("codebook", (4, 3)),
        )
    }


def test_weight_decay_is_decoupled_and_for_kernels_only():
    optimizer = make_optimizer(
        config(schedule="constant", warmup_steps=0, learning_rate=0.1, weight_decay=0.5), steps=10
    )
    variables = weights()
    optimizer.build(list(variables.values()))
    for _ in range(2):
        optimizer.apply([tf.zeros(variable.shape) for variable in variables.values()])
    for name, variable in variables.items():
        expected = 2.0 * (1 - 0.1 * 0.5) ** 2 if name == "kernel" else 2.0
        np.testing.assert_allclose(variable, expected, rtol=1e-6, err_msg=name)


def test_adam_equals_numpy():
    optimizer = make_optimizer(
        config(schedule="cosine", warmup_steps=4, beta_1=0.8, beta_2=0.95, weight_decay=0.3), 12
    )
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 2))
    variable = keras.Variable(weight.astype("float32"), name="kernel")
    optimizer.build([variable])
    mean, square = np.zeros((3, 2)), np.zeros((3, 2))
    for step in range(12):
        # Tiny gradients: with Keras' default epsilon of 1e-7 the steps would be half as long.
        gradient = 1e-7 * rng.normal(size=(3, 2))
        rate = float(learning_rate_schedule(config(warmup_steps=4), 12)(step))
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        corrected = math.sqrt(1 - 0.95 ** (step + 1)) / (1 - 0.8 ** (step + 1))
        weight = weight * (1 - rate * 0.3)
        weight = weight - rate * corrected * mean / (np.sqrt(square) + 1e-8)
        optimizer.apply([tf.constant(gradient, tf.float32)])
    np.testing.assert_allclose(variable, weight, rtol=2e-5, atol=1e-6)


def test_optimizer_never_clips_by_itself():
    optimizer = make_optimizer(config(clip_norm=1.0), steps=100)
    assert optimizer.global_clipnorm is optimizer.clipnorm is optimizer.clipvalue is None


def test_optimizer_survives_serialisation():
    optimizer = make_optimizer(config(weight_decay=0.3), steps=100)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(copy) is type(optimizer)
    np.testing.assert_array_equal(copy.learning_rate, optimizer.learning_rate)


@pytest.mark.parametrize(
    ("start", "expected"), [(0, 0), (0.25, 250), (0.9999, 1000), (1, 1), (3.0, 3), (700, 700)]
)
def test_start_is_a_share_below_one_and_a_step_from_one_on(start, expected):
    step = start_step(start, steps=1000)
    assert step == expected
    assert isinstance(step, int)


@pytest.mark.parametrize("start", [0, 7])
@pytest.mark.parametrize("ramp_steps", [0, 1, 4])
def test_ramp(start, ramp_steps):
    for step in range(20):
        expected = min(max((step - start + 1) / (ramp_steps + 1), 0), 1)
        np.testing.assert_allclose(ramp(step, start, ramp_steps), expected, rtol=1e-6)
    assert ramp(start, start, ramp_steps) > 0
    assert ramp(start + ramp_steps, start, ramp_steps) == 1
    assert start == 0 or ramp(start - 1, start, ramp_steps) == 0


def test_ramp_in_a_graph():
    weight = tf.function(lambda step: ramp(step, 10, 3))
    np.testing.assert_allclose(weight(tf.constant(11, tf.int64)), 0.5)
