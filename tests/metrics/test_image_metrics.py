import numpy as np
import pytest
import tensorflow as tf

from vim_tf import UserError
from vim_tf.metrics.image_metrics import ssim


def make_pair(kind, height=14, width=17, noise=0.02):
    random = np.random.default_rng(0)
    start = {
        "noise": random.random((2, height, width, 3)),
        "white": np.ones((2, height, width, 3)),
        "grey": np.full((2, height, width, 3), 0.5),
        "black": np.zeros((2, height, width, 3)),
    }[kind]
    return start, np.clip(start + noise * random.normal(size=start.shape), 0, 1)


def definition(a, b):
    """SSIM of one image, window by window, channel by channel."""
    weights = np.array(
        [[np.exp(-(y * y + x * x) / 4.5) for x in range(-5, 6)] for y in range(-5, 6)]
    )
    weights /= weights.sum()
    values = []
    for top in range(a.shape[0] - 10):
        for left in range(a.shape[1] - 10):
            for channel in range(3):
                x, y = (p[top : top + 11, left : left + 11, channel] for p in (a, b))
                mean_x, mean_y = np.sum(weights * x), np.sum(weights * y)
                variance_x = np.sum(weights * (x - mean_x) ** 2)
                variance_y = np.sum(weights * (y - mean_y) ** 2)
                covariance = np.sum(weights * (x - mean_x) * (y - mean_y))
                values.append(
                    (2 * mean_x * mean_y + 1e-4)
                    * (2 * covariance + 9e-4)
                    / (mean_x**2 + mean_y**2 + 1e-4)
                    / (variance_x + variance_y + 9e-4)
                )
    return np.mean(values)


@pytest.mark.parametrize("kind", ["noise", "white", "grey", "black"])
def test_ssim_is_its_definition(kind):
    a, b = make_pair(kind)
    expected = [definition(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(ssim(a, b), expected, rtol=1e-10)


def test_ssim_equals_tensorflows():
    a, b = make_pair("noise", 32, 40, noise=0.3)
    expected = tf.image.ssim(tf.constant(a, tf.float32), tf.constant(b, tf.float32), max_val=1.0)
    np.testing.assert_allclose(ssim(a, b), expected, rtol=1e-5)


def test_ssim_of_equal_and_of_opposite_images():
    a, _ = make_pair("noise")
    np.testing.assert_allclose(ssim(a, a), 1.0, rtol=1e-12)
    assert np.all(ssim(a, 1 - a) < -0.5)
    float32 = tf.constant(a, tf.float32)
    np.testing.assert_allclose(ssim(float32, float32), 1.0, rtol=1e-12)


def test_the_smallest_image_has_one_window():
    a, b = make_pair("noise", 11, 11)
    np.testing.assert_allclose(ssim(a, b), [definition(*p) for p in zip(a, b, strict=True)])
    with pytest.raises(UserError, match="SSIM of images of 10 x 11"):
        ssim(a[:, :10], b[:, :10])


@pytest.mark.parametrize("scale", [-1.0, 255.0, np.nan])
def test_another_range_is_refused(scale):
    a, b = make_pair("noise")
    with pytest.raises(ValueError, match=r"SSIM takes \[0,1\]"):
        ssim(a, scale * b)


def test_other_shapes_are_refused():
    a, b = make_pair("noise")
    with pytest.raises(ValueError, match="the shapes are"):
        ssim(a, b[:1])
