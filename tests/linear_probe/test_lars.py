import keras
import numpy as np
import pytest

from vim_tf.linear_probe.lars import LARS
from vim_tf.trainers.schedules import WarmupDecay

SHAPES = {"kernel": (4, 3), "convolution": (2, 3, 1, 2), "bias": (3,), "scale": ()}


def rate(step):
    return 0.5 * (step + 1)


def make_variables(random, dtype="float32"):
    return {
        name: keras.Variable(random.normal(size=shape), name=name, dtype=dtype)
        for name, shape in SHAPES.items()
    }


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_twenty_steps_equal_the_papers_algorithm(decay):
    """Algorithm 1 of arXiv 1708.03888 in float64, with a different learning rate at each step."""
    random = np.random.default_rng(0)
    variables = make_variables(random)
    weights = {name: np.array(v.numpy(), "float64") for name, v in variables.items()}
    velocities = dict.fromkeys(weights, 0.0)
    optimizer = LARS(
        WarmupDecay(10.0, 20, 20, 0, 1.0, "constant"),  # from 0, plus 0.5 at each step
        momentum=0.8,
        trust_coefficient=0.02,
        weight_decay=decay,
    )
    optimizer.build(list(variables.values()))
    for step in range(20):
        gradients = {name: random.normal(size=shape) for name, shape in SHAPES.items()}
        for name, gradient in gradients.items():
            weight, local, direction = weights[name], 1.0, gradient
            if name in ("kernel", "convolution"):
                length = np.sqrt(np.sum(weight**2))
                local = 0.02 * length / (np.sqrt(np.sum(gradient**2)) + decay * length)
                direction = gradient + decay * weight
            velocities[name] = 0.8 * velocities[name] + rate(step - 1) * local * direction
            weights[name] = weight - velocities[name]
        optimizer.apply([keras.ops.convert_to_tensor(g, "float32") for g in gradients.values()])
        for name, variable in variables.items():
            np.testing.assert_allclose(variable.numpy(), weights[name], rtol=2e-5, atol=1e-5)


def test_the_step_does_not_depend_on_the_scale_of_the_gradient():
    moved = []
    for scale in (1.0, 1e4):
        kernel = keras.Variable(np.ones((2, 2)), name="kernel")
        optimizer = LARS(1.0)
        optimizer.build([kernel])
        optimizer.apply([keras.ops.convert_to_tensor([[scale, 0.0], [0.0, 0.0]])])
        moved.append(1 - kernel.numpy())
    # The norm of the weights is 2, and the paper's trust coefficient is 0.001.
    np.testing.assert_allclose(moved, [[[0.002, 0], [0, 0]]] * 2, rtol=1e-4, atol=1e-9)


def test_weights_of_zero_take_a_plain_step_and_gradients_of_zero_none():
    zeros = keras.Variable(np.zeros((2, 3)), name="zeros")
    ones = keras.Variable(np.ones((2, 3)), name="ones")
    optimizer = LARS(0.5)
    optimizer.build([zeros, ones])
    optimizer.apply([keras.ops.full((2, 3), 4.0), keras.ops.zeros((2, 3))])
    np.testing.assert_array_equal(zeros.numpy(), np.full((2, 3), -2.0))
    np.testing.assert_array_equal(ones.numpy(), np.ones((2, 3)))


def test_velocities_are_float32_for_bfloat16_weights():
    weight = keras.Variable(np.full((2, 2), 1.0), name="kernel", dtype="bfloat16")
    optimizer = LARS(1.0, momentum=0.9, trust_coefficient=0.01)
    optimizer.build([weight])
    gradient = keras.ops.cast([[1.0, 0.0], [0.0, 0.0]], "bfloat16")
    optimizer.apply([gradient])
    assert optimizer.velocities[0].dtype == "float32"
    np.testing.assert_allclose(optimizer.velocities[0].numpy()[0, 0], 0.01 * 2, rtol=1e-6)
    assert weight.dtype == "bfloat16"
    assert float(weight.numpy()[0, 0]) == pytest.approx(0.98, abs=4e-3)


def test_serialisation_keeps_every_argument():
    schedule = WarmupDecay(10.0, 20, 20, 0, 1.0, "constant")
    optimizer = LARS(schedule, momentum=0.7, trust_coefficient=0.02, weight_decay=0.3, name="x")
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(copy) is LARS
    assert copy.get_config() == optimizer.get_config()
    assert (copy.momentum, copy.trust_coefficient, copy.coupled_decay) == (0.7, 0.02, 0.3)
