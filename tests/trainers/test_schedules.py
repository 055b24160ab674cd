import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf.config.sections import OptimizerConfig
from vim_tf.trainers.schedules import (
    WarmupDecay,
    learning_rate_schedule,
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
    """It is 4.5e-4 after 5k steps, then from step 80k on exponential to 1e-5 (section 3.4)."""
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
