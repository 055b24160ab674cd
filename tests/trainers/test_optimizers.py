"""The optimizers, compared with their definitions in NumPy."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf.config.sections import OptimizerConfig
from vim_tf.trainers.optimizers import FactoredAdamW, make_optimizer
from vim_tf.trainers.schedules import learning_rate_schedule


def config(**changes):
    values = {"learning_rate": 2e-3, "warmup_steps": 10, "final_ratio": 0.1}
    return OptimizerConfig(**{**values, **changes})


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


@pytest.mark.parametrize("second_moment", ["full", "factored"])
def test_weight_decay_is_decoupled_and_for_kernels_only(second_moment):
    changes = {"learning_rate": 0.1, "weight_decay": 0.5, "second_moment": second_moment}
    optimizer = make_optimizer(config(schedule="constant", warmup_steps=0, **changes), steps=10)
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
        # Gradients are tiny: with Keras' default epsilon of 1e-7 the steps would be half as long.
        gradient = 1e-7 * rng.normal(size=(3, 2))
        rate = float(learning_rate_schedule(config(warmup_steps=4), 12)(step))
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        corrected = math.sqrt(1 - 0.95 ** (step + 1)) / (1 - 0.8 ** (step + 1))
        weight = weight * (1 - rate * 0.3)
        weight = weight - rate * corrected * mean / (np.sqrt(square) + 1e-8)
        optimizer.apply([tf.constant(gradient, tf.float32)])
    np.testing.assert_allclose(variable, weight, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("second_moment", ["full", "factored"])
@pytest.mark.parametrize("as_variable", [False, True])
def test_weights_that_start_late_move_as_if_the_run_began_there(second_moment, as_variable):
    """The steps before the start have no gradients, as those of a discriminator."""
    late = 40
    moved = {}
    for start in (0, late):
        given = tf.Variable(start, dtype=tf.int64) if as_variable else start
        changes = {"schedule": "constant", "warmup_steps": 2, "second_moment": second_moment}
        optimizer = make_optimizer(config(**changes), 100, given)
        variables = list(weights().values())
        optimizer.build(variables)
        for _ in range(start):
            optimizer.apply([tf.zeros(variable.shape) for variable in variables])
        rng = np.random.default_rng(0)
        for _ in range(4):
            gradients = [rng.normal(size=variable.shape) for variable in variables]
            optimizer.apply([tf.constant(gradient, tf.float32) for gradient in gradients])
        moved[start] = [variable.numpy() - 2 for variable in variables]
    for early, later in zip(*moved.values(), strict=True):
        assert np.abs(early).max() > 1e-4
        np.testing.assert_allclose(later, early, rtol=1e-4, atol=1e-7)


def test_optimizer_never_clips_by_itself():
    optimizer = make_optimizer(config(clip_norm=1.0), steps=100)
    assert optimizer.global_clipnorm is optimizer.clipnorm is optimizer.clipvalue is None


@pytest.mark.parametrize("second_moment", ["full", "factored"])
def test_optimizer_survives_serialisation(second_moment):
    optimizer = make_optimizer(config(weight_decay=0.3, second_moment=second_moment), steps=100)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(copy) is type(optimizer)
    np.testing.assert_array_equal(copy.learning_rate, optimizer.learning_rate)


SHAPES = {"kernel": (3, 2), "embeddings": (4, 5), "convolution": (2, 2, 3, 4), "bias": (3,)}


def test_a_factored_second_moment_equals_numpy():
    """The second moment is Adafactor's algorithm 4; first moment and corrections are AdamW's."""
    optimizer = make_optimizer(
        config(warmup_steps=4, beta_1=0.8, beta_2=0.95, second_moment="factored"), 12
    )
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    variables = [keras.Variable(value.astype("float32")) for value in weights.values()]
    optimizer.build(variables)
    momentum = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    means = {name: [0.0, 0.0] for name in SHAPES}
    for step in range(12):
        rate = float(learning_rate_schedule(config(warmup_steps=4), 12)(step))
        gradients = {name: 1e-7 * rng.normal(size=shape) for name, shape in SHAPES.items()}
        for name, gradient in gradients.items():
            momentum[name] = 0.8 * momentum[name] + 0.2 * gradient
            if name == "bias":
                means[name][0] = second = 0.95 * means[name][0] + 0.05 * gradient**2
            else:
                for i, axis in enumerate((-1, -2)):
                    mean = np.mean(gradient**2, axis)
                    means[name][i] = 0.95 * means[name][i] + 0.05 * mean
                rows, columns = means[name]
                second = np.einsum("...r,...c->...rc", rows, columns)
                second /= rows.mean(-1)[..., None, None]
            corrected = math.sqrt(1 - 0.95 ** (step + 1)) / (1 - 0.8 ** (step + 1))
            weights[name] -= rate * corrected * momentum[name] / (np.sqrt(second) + 1e-8)
        optimizer.apply([tf.constant(gradient, tf.float32) for gradient in gradients.values()])
    for variable, (name, expected) in zip(variables, weights.items(), strict=True):
        np.testing.assert_allclose(variable, expected, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_matrix_of_rank_one_has_its_whole_second_moment():
    """Its factors lose nothing, so both optimizers give the same steps."""
    moved = []
    for second_moment in ("full", "factored"):
        optimizer = make_optimizer(config(warmup_steps=0, second_moment=second_moment), 12)
        variable = keras.Variable(np.ones((3, 4), "float32"))
        optimizer.build([variable])
        rng = np.random.default_rng(0)
        direction = np.outer(rng.normal(size=3), rng.normal(size=4)).astype("float32")
        for factor in (1.0, -0.3, 0.7):
            optimizer.apply([tf.constant(factor * direction)])
        moved.append(variable.numpy())
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-5)
    assert np.abs(moved[0] - 1).min() > 1e-4


def test_factors_are_small_and_the_codebook_has_none():
    optimizer = make_optimizer(config(second_moment="factored"), 12)
    assert type(optimizer) is FactoredAdamW
    shapes = {"kernel": (300, 200), "bias": (7,), "codebook": (50, 4)}
    optimizer.build([keras.Variable(np.zeros(shape), name=n) for n, shape in shapes.items()])
    sizes = sorted(int(np.prod(v.shape)) for v in optimizer.variables if len(v.shape))
    assert sizes == sorted([300 * 200, 300, 200, 7, 7, 50 * 4, 50 * 4])


def test_a_row_without_gradient_stays():
    optimizer = make_optimizer(config(warmup_steps=0, second_moment="factored"), 12)
    variable = keras.Variable(np.ones((3, 4), "float32"))
    optimizer.build([variable])
    optimizer.apply([tf.zeros((3, 4))])
    np.testing.assert_array_equal(variable, np.ones((3, 4)))
    optimizer.apply([tf.constant(np.eye(3, 4, dtype="float32"))])
    assert np.all(np.isfinite(variable))
    np.testing.assert_array_equal(variable.numpy()[~np.eye(3, 4, dtype=bool)], 1)
