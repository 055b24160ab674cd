import numpy as np
import pytest
import scipy.signal

from vim_tf.models.precision import computing_in
from vim_tf.models.refinement import Refinement


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def make_layer(channels=5):
    """A layer for images of two channels; all of its weights have an effect."""
    layer = Refinement(channels)
    layer.build((None, None, None, 2))
    for i, weight in enumerate(layer.weights):
        weight.assign(0.3 * normal(*weight.shape, seed=i))
    return layer


def convolve(images, kernel, bias):
    """Sums of products over 3 x 3 pixels; beyond the border are zeros: [B,H,W,C] -> [B,H,W,D]."""
    outputs = np.zeros((*images.shape[:3], kernel.shape[-1])) + bias
    for row, image in enumerate(images):
        for (i, j), _ in np.ndenumerate(kernel[0, 0]):
            outputs[row, ..., j] += scipy.signal.correlate2d(
                image[..., i], kernel[..., i, j], mode="same"
            )
    return outputs


def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_it_adds_three_convolutions():
    layer, images = make_layer(), normal(3, 6, 7, 2)
    first, first_bias, second, second_bias, last, last_bias = (w.numpy() for w in layer.weights)
    assert (first.shape, second.shape, last.shape) == ((3, 3, 2, 5), (3, 3, 5, 5), (3, 3, 5, 2))
    x = gelu(convolve(images, first, first_bias))
    added = convolve(gelu(convolve(x, second, second_bias)), last, last_bias)
    assert np.std(added) > 0.1
    np.testing.assert_allclose(layer(images), images + added, atol=1e-5)


def test_a_new_layer_changes_nothing_and_can_learn():
    layer, images = Refinement(5), normal(3, 6, 7, 2)
    np.testing.assert_array_equal(layer(images), images)
    kernels = [weight.numpy() for weight in layer.weights if len(weight.shape) == 4]
    deviations = [kernel.std() for kernel in kernels]
    # A truncated normal of this deviation keeps the variance of its inputs.
    assert deviations[:2] == pytest.approx([(9 * 2) ** -0.5, (9 * 5) ** -0.5], rel=0.2)
    assert deviations[2] == 0


def test_images_of_any_size():
    layer = make_layer()
    images = normal(1, 9, 12, 2)
    whole, part = layer(images), layer(images[:, :8, :7])
    np.testing.assert_allclose(part[:, :5, :4], whole[:, :5, :4], atol=1e-5)


def test_in_bfloat16():
    exact = make_layer()
    with computing_in("mixed_bfloat16"):
        half = Refinement(5)
        half.build((None, None, None, 2))
    half.set_weights(exact.get_weights())
    images = normal(3, 6, 7, 2)
    found = half(images)
    assert found.dtype == "bfloat16"
    errors = np.abs(np.asarray(found, "float32") - np.asarray(exact(images)))
    assert 0 < errors.max() < 0.1
