import numpy as np
import pytest

from vim_tf.models.patches import patchify, unpatchify


def make_images(height, width, channels=3):
    shape = (2, height, width, channels)
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize(("height", "width", "patch"), [(8, 8, 4), (6, 10, 2), (12, 4, 4)])
def test_patches_are_slices_in_raster_order(height, width, patch):
    images = make_images(height, width)
    patches = np.asarray(patchify(images, patch))
    columns = width // patch
    assert patches.shape == (2, height // patch * columns, patch * patch * 3)
    for number in range(patches.shape[1]):
        top, left = patch * (number // columns), patch * (number % columns)
        cut = images[:, top : top + patch, left : left + patch]
        np.testing.assert_array_equal(patches[:, number], cut.reshape(2, -1))


@pytest.mark.parametrize("channels", [3, 6])
@pytest.mark.parametrize(("height", "width", "patch"), [(8, 8, 4), (6, 10, 2), (5, 3, 1)])
def test_unpatchify_is_the_inverse(height, width, patch, channels):
    images = make_images(height, width, channels)
    grid = (height // patch, width // patch)
    np.testing.assert_array_equal(unpatchify(patchify(images, patch), patch, grid), images)


@pytest.mark.parametrize("size", [(8, 10), (10, 8)])
def test_sides_that_do_not_divide_are_refused(size):
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} and patch_size is 4"):
        patchify(make_images(*size), 4)
