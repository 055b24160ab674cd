import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from vim_tf import UserError
from vim_tf.metrics.image_metrics import NeighbourDifferences, ssim


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


# Differences of neighbouring pixels -------------------------------------------------------------


def smooth_noise(count=4, height=24, width=36, seed=0):
    """Images [B,H,W,3] in [0,1] with structures of a few pixels."""
    noise = np.random.default_rng(seed).normal(size=(count, height, width, 3))
    noise = scipy.ndimage.gaussian_filter(noise, (0, 1, 1, 0))
    return (noise - noise.min()) / (noise.max() - noise.min())


def neighbours(images, patch_size=4, batch_size=3):
    found = NeighbourDifferences(patch_size)
    for start in range(0, len(images), batch_size):
        found.add(images[start : start + batch_size])
    return found


def differences_one_by_one(images, patch_size):
    """(seam ratio, energy) by a loop over pixels."""
    seams, inside = [], []
    _, height, width, _ = images.shape
    for image in images:
        for y in range(height):
            for x in range(width):
                if y + 1 < height:
                    pair = seams if y // patch_size != (y + 1) // patch_size else inside
                    pair.extend(image[y + 1, x] - image[y, x])
                if x + 1 < width:
                    pair = seams if x // patch_size != (x + 1) // patch_size else inside
                    pair.extend(image[y, x + 1] - image[y, x])
    ratio = np.mean(np.abs(seams)) / np.mean(np.abs(inside))
    return ratio, np.mean(np.square([*seams, *inside]))


@pytest.mark.parametrize("patch_size", [2, 4, 12])
def test_neighbours_are_compared_as_by_the_definition(patch_size):
    images = np.random.default_rng(0).random((5, 12, 24, 3))
    images *= np.linspace(0, 1, 5)[:, None, None, None]
    found = neighbours(tf.constant(images, tf.float32), patch_size)
    expected = differences_one_by_one(images, patch_size)
    assert (found.seam_ratio, found.energy) == pytest.approx(expected, rel=1e-6)


def test_rounding_is_no_difference():
    """A resized white image is not exactly white."""
    noise = np.random.default_rng(0).uniform(-1e-6, 0, (2, 8, 8, 3))
    found = neighbours((1 + noise).astype("float32"))
    assert found.energy == 0 and found.seam_ratio is None


def test_a_drawn_grid_is_a_seam():
    images = smooth_noise()
    chessboard = (np.indices((24, 36)) // 4).sum(0) % 2
    tinted = images + 0.3 * chessboard[..., None]
    assert neighbours(tinted).seam_ratio > 2 * neighbours(images).seam_ratio
    shifted = np.roll(tinted, (2, 2), (1, 2))  # borders are inside patches now
    assert neighbours(shifted).seam_ratio < neighbours(images).seam_ratio


def test_blur_has_less_energy_and_no_seam():
    images = smooth_noise(height=96, width=96)
    blurred = scipy.ndimage.gaussian_filter(images, (0, 1, 1, 0))
    assert neighbours(blurred).energy < 0.7 * neighbours(images).energy
    assert neighbours(blurred).seam_ratio == pytest.approx(neighbours(images).seam_ratio, rel=0.1)


def test_sets_without_differences_have_no_seam_ratio():
    white = neighbours(np.ones((3, 8, 8, 3)))
    assert (white.seam_ratio, white.energy) == (None, 0)
    patches = np.random.default_rng(0).random((3, 2, 2, 3)).repeat(4, 1).repeat(4, 2)
    assert neighbours(patches).seam_ratio is None
    assert neighbours(patches).energy > 0
    assert neighbours(smooth_noise(height=4, width=4)).seam_ratio == 0  # no border
    assert neighbours(smooth_noise(height=8, width=8), patch_size=1).seam_ratio is None
    assert neighbours(np.ones((3, 1, 1, 3)), patch_size=1).energy == 0
