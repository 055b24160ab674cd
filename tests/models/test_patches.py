import numpy as np
import pytest

from vim_tf.models.patches import add_overlapping, patchify, unpatchify


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


def overlapping_by_definition(patches, patch, grid):
    """Each pixel as the weighted mean of the patches over it; patches [rows*columns,2P,2P,C]."""
    found = np.zeros((grid[0] * patch, grid[1] * patch, patches.shape[-1]))
    for y, x in np.ndindex(*found.shape[:2]):
        total = 0
        for row, column in np.ndindex(*grid):
            # Distances of the centres of pixel and patch, in patches.
            down = abs(y + 0.5 - row * patch - corner(patch)) / patch
            right = abs(x + 0.5 - column * patch - corner(patch)) / patch
            weight = max(1 - down, 0) * max(1 - right, 0)
            place = (y - row * patch + patch // 2, x - column * patch + patch // 2)
            if weight and 0 <= min(place) and max(place) < 2 * patch:
                found[y, x] += weight * patches[row * grid[1] + column][place]
                total += weight
        found[y, x] /= total
    return found


def corner(patch):
    """From the upper or left border of a patch of side P to the centre of its larger patch."""
    return patch - patch // 2


@pytest.mark.parametrize("channels", [3, 6])
@pytest.mark.parametrize(("grid", "patch"), [((2, 3), 4), ((3, 1), 3), ((1, 1), 2), ((2, 2), 1)])
def test_overlapping_patches_are_weighted_means(grid, patch, channels):
    side = 2 * patch
    shape = (2, grid[0] * grid[1], side, side, channels)
    patches = np.random.default_rng(0).normal(size=shape).astype("float32")
    upper, lower = np.split(patches, 2, axis=2)
    quarters = [part for half in (upper, lower) for part in np.split(half, 2, axis=3)]
    flat = np.concatenate([q.reshape(*shape[:2], -1) for q in quarters], axis=-1)
    expected = [overlapping_by_definition(image, patch, grid) for image in patches]
    np.testing.assert_allclose(add_overlapping(flat, patch, grid), expected, atol=1e-5)


def test_overlapping_patches_have_no_borders():
    """Patches of one random colour each make a surface without steps."""
    colours = np.random.default_rng(0).uniform(-1, 1, (1, 12, 1)).astype("float32")
    image = np.asarray(add_overlapping(colours.repeat(4 * 64, axis=-1), 8, (3, 4)))[0, ..., 0]
    for axis in (0, 1):
        assert np.abs(np.diff(image, axis=axis)).max() < 2.01 / 8
