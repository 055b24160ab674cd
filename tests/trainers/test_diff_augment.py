"""DiffAugment equals NumPy, draws by rows, and has gradients of the second order."""

import numpy as np
import pytest
import tensorflow as tf

from vim_tf.models.seeded_dropout import row_bits, row_keys
from vim_tf.trainers import diff_augment
from vim_tf.trainers.diff_augment import DRAWS, augment

KEYS = tf.constant(np.arange(40) * 7919 + 1, tf.uint32)


def images(rows=40, height=16, width=24):
    return np.random.default_rng(0).uniform(0.1, 1, (rows, height, width, 3)).astype("float32")


def run(x, salt=5, geometry=True, colour=False, keys=KEYS):
    with row_keys(keys[: x.shape[0]]):
        return augment(tf.constant(x), salt, geometry, colour).numpy()


def draws(rows, salt=5):
    bits = row_bits(KEYS[:rows], salt, tf.range(DRAWS)).numpy()
    return (bits >> 8) / 2**24


def shift_and_cut(image, down, right, middle, centre):
    """The definition, pixel by pixel."""
    height, width, _ = image.shape
    dy = int(down * (2 * round(height / 8) + 1)) - round(height / 8)
    dx = int(right * (2 * round(width / 8) + 1)) - round(width / 8)
    top = int(middle * (height + 1)) - round(height / 2) // 2
    left = int(centre * (width + 1)) - round(width / 2) // 2
    found = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            inside = 0 <= y + dy < height and 0 <= x + dx < width
            hole = top <= y < top + round(height / 2) and left <= x < left + round(width / 2)
            if inside and not hole:
                found[y, x] = image[y + dy, x + dx]
    return found


def test_shift_and_square_equal_the_definition():
    x = images()
    expected = [
        shift_and_cut(image, *numbers[:4]) for image, numbers in zip(x, draws(40), strict=True)
    ]
    np.testing.assert_array_equal(run(x), expected)


def test_every_shift_and_place_occurs():
    shifts = (draws(40)[:, 0] * 5).astype(int)  # 16 pixels: from -2 to 2
    assert set(shifts) == {0, 1, 2, 3, 4}
    empty = (run(np.ones((40, 16, 24, 3), "float32")) == 0).mean((1, 2, 3))
    assert empty.max() > 0.25 > empty.min() > 0  # a square inside and a shift; one cut at a border


def test_colours_equal_the_definition():
    x = images()
    expected = []
    for image, numbers in zip(x, draws(40), strict=True):
        brightness, saturation, contrast = numbers[4:]
        image = image + brightness - 0.5
        grey = image.mean(2, keepdims=True)
        image = grey + 2 * saturation * (image - grey)
        expected.append(image.mean() + (0.5 + contrast) * (image - image.mean()))
    np.testing.assert_allclose(run(x, geometry=False, colour=True), expected, atol=2e-5)


def test_a_row_is_changed_by_its_key_and_the_salt_alone():
    x = images()
    np.testing.assert_array_equal(run(x[3:5], keys=KEYS[3:5]), run(x)[3:5])
    assert np.any(run(x) != run(x, salt=6))


@pytest.mark.parametrize("kind", ["geometry", "colour"])
def test_gradients_of_the_second_order_equal_differences(kind):
    """As in R1: the gradient of |d D(augment(x)) / dx|^2 by a weight of D, a cubic function."""
    x = tf.constant(images(3, 8, 8))
    kinds = {"geometry": kind == "geometry", "colour": kind == "colour"}

    def penalty(weight):
        with tf.GradientTape() as inner, row_keys(KEYS[:3]):
            inner.watch(x)
            logits = tf.reduce_sum((weight * augment(x, 1, **kinds)) ** 3)
        return tf.reduce_sum(tf.square(inner.gradient(logits, x)))

    weight = tf.constant(0.8)
    with tf.GradientTape() as tape:
        tape.watch(weight)
        value = penalty(weight)
    slope = tape.gradient(value, weight)
    # The penalty is proportional to weight^6.
    np.testing.assert_allclose(slope, 6 * value / 0.8, rtol=1e-4)
    assert diff_augment.SHIFT * 8 >= 1
