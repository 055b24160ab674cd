import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from vim_tf.config.sections import AugmentationConfig
from vim_tf.data import hashing, transforms


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pillow_window(image, window, size):
    """Pillow's bicubic resize of a window, in float, channel by channel."""
    top, left, height, width = (float(value) for value in window)
    box = (left, top, left + width, top + height)
    channels = [
        Image.fromarray(image[..., channel].astype(np.float32)).resize(
            (size[1], size[0]), Image.BICUBIC, box=box
        )
        for channel in range(3)
    ]
    return np.clip(np.stack([np.array(channel) for channel in channels], -1), 0, 255)


def run_in_dataset(function, *arguments):
    """Runs a transform as in training: in the graph of a tf.data map, with unknown shapes."""
    spec = [tf.TensorSpec([None, None, 3], tf.uint8)] + [
        tf.TensorSpec(np.shape(argument), tf.float32) for argument in arguments[1:]
    ]
    dataset = tf.data.Dataset.from_generator(lambda: [arguments], output_signature=tuple(spec))
    return next(dataset.map(function).as_numpy_iterator())


WINDOWS = [(0, 0, 40, 60), (3.25, 7.5, 20.5, 11.75), (0, 12, 5, 48), (39, 59, 1, 1)]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("size", [(16, 16), (24, 8), (64, 90)])
def test_windows_are_resized_as_pillow_does(window, size):
    image = random_image(40, 60)
    expected = pillow_window(image, window, size)
    window = np.array(window, np.float32)
    one = transforms.resize_window(tf.constant(image), tf.constant(window), size)
    assert one.dtype == tf.float32 and one.shape == (*size, 3)
    np.testing.assert_allclose(one, expected, atol=0.02)
    batch = transforms.resize_window(
        tf.constant(image[None].repeat(2, 0)), tf.constant(window[None].repeat(2, 0)), size
    )
    np.testing.assert_allclose(batch, [expected] * 2, atol=0.02)
    inside = run_in_dataset(
        lambda image, window: transforms.resize_window(image, window, size), image, window
    )
    np.testing.assert_allclose(inside, expected, atol=0.02)


def test_a_batch_gets_a_window_for_each_image():
    images = np.stack([random_image(20, 30, seed) for seed in range(3)])
    windows = np.array([[0, 0, 20, 30], [5, 1, 10, 10], [2.5, 3, 7, 21]], np.float32)
    batch = transforms.resize_window(tf.constant(images), tf.constant(windows), (8, 12))
    for image, window, got in zip(images, windows, batch, strict=True):
        np.testing.assert_allclose(got, pillow_window(image, window, (8, 12)), atol=0.02)


def test_an_image_of_the_target_size_is_kept_exactly():
    pixels = random_image(32, 48)
    expected = pixels / 127.5 - 1
    for images in (pixels, pixels[None]):
        image = transforms.transform_for_evaluation(tf.constant(images), (32, 48))
        np.testing.assert_allclose(image, expected.reshape(image.shape), atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (9, 100), (16, 16)])
@pytest.mark.parametrize("size", [(16, 16), (8, 24)])
def test_evaluation_resizes_the_shorter_side_and_cuts_the_centre(shape, size):
    pixels = random_image(*shape)
    scale = max(size[0] / shape[0], size[1] / shape[1])
    height, width = size[0] / scale, size[1] / scale
    window = ((shape[0] - height) / 2, (shape[1] - width) / 2, height, width)
    expected = pillow_window(pixels, window, size) / 127.5 - 1
    image = run_in_dataset(lambda image: transforms.transform_for_evaluation(image, size), pixels)
    np.testing.assert_allclose(image, expected, atol=2e-4)
    assert image.min() >= -1 and image.max() <= 1


@pytest.mark.parametrize("shape", [(3, 500), (1, 800), (20, 300)])
@pytest.mark.parametrize("left", [0.0, 100.3, 1.0])  # 1 means as far to the right as it fits
def test_a_long_image_is_resized_as_pillow_does(monkeypatch, shape, left):
    image, size = random_image(*shape), (16, 24)
    width = shape[0] * 1.5
    left = shape[1] - width if left == 1 else left
    window = np.array([0, left, shape[0], width], np.float32)
    expected = pillow_window(image, window, size)
    assert shape[1] > transforms._LONG * width
    cut = transforms.resize_window(tf.constant(image), tf.constant(window), size)
    np.testing.assert_allclose(cut, expected, atol=0.02)
    monkeypatch.setattr(transforms, "_LONG", shape[1])
    whole = transforms.resize_window(tf.constant(image), tf.constant(window), size)
    np.testing.assert_allclose(cut, whole, atol=0.05)


def test_columns_that_no_window_reaches_are_left_out(quick):
    """[H, w, 3] float32 would take 3 GB here."""
    pixels = np.zeros((1, 1_000_000, 3), np.uint8)
    pixels[0, 499_990:500_010] = 255
    image = quick(lambda: transforms.transform_for_evaluation(tf.constant(pixels), (256, 256)))
    np.testing.assert_allclose(image, 1.0, atol=1e-5)


def test_normalize_maps_0_to_minus_1_and_255_to_1():
    values = tf.constant([0, 51, 255], tf.uint8)
    np.testing.assert_allclose(transforms.normalize(values), [-1, -0.6, 1], atol=1e-6)


def many_draws(count=4000):
    position = tf.range(count, dtype=tf.int64)
    return tf.split(
        hashing.draw_uniform(transforms.DRAWS, 1, position), [1, 2, 2 * transforms.TRIES], -1
    )


@pytest.mark.parametrize("shape", [(50, 50), (50, 70), (90, 60)])
@pytest.mark.parametrize("size", [(32, 32), (16, 32)])
def test_random_resized_windows_are_of_the_promised_area_and_aspect(shape, size):
    _, place, tries = many_draws()
    image_size = np.tile(np.float32(shape), (len(place), 1))
    windows = transforms.random_resized_window(image_size, size, 0.5, place, tries).numpy()
    top, left, height, width = windows.T
    assert (windows >= 0).all()
    assert (top + height <= shape[0] + 1e-3).all() and (left + width <= shape[1] + 1e-3).all()
    aspect = width / height / (size[1] / size[0])
    assert aspect.min() >= 0.75 - 1e-4 and aspect.max() <= 4 / 3 + 1e-4
    area = height * width / (shape[0] * shape[1])
    share = (area >= 0.5 - 1e-4).mean()
    widest = min(shape[0] * 0.75 * size[1] / size[0], shape[1])  # for the tallest allowed shape
    possible = widest * min(widest / (0.75 * size[1] / size[0]), shape[0])
    if possible < 0.5 * shape[0] * shape[1]:  # 2:1 from an upright image: always the fallback
        assert share == 0 and np.ptp(area) < 1e-4
    else:
        assert share > 0.95  # for the rest, none of ten tries fitted
    if shape == (50, 50) and size == (32, 32):
        assert share == 1.0
        assert aspect.std() > 0.1 and area.max() > 0.95
        assert aspect.min() < 0.8 and aspect.max() > 1.25
        # Uniform over the possible places.
        spare = top / np.maximum(50 - height, 1e-6)
        assert np.abs(np.histogram(spare, 5, (0, 1))[0] / len(spare) - 0.2).max() < 0.03


def test_a_panorama_gives_its_largest_window():
    _, place, tries = many_draws(50)
    image_size = np.tile(np.float32([10, 100]), (50, 1))
    windows = transforms.random_resized_window(image_size, (8, 8), 0.5, place, tries).numpy()
    np.testing.assert_allclose(windows[:, 2:], np.tile([10, 10 * 4 / 3], (50, 1)), rtol=1e-5)
    assert windows[:, 1].std() > 10


def test_min_area_1_takes_the_whole_of_a_square():
    image_size = np.tile(np.float32([50, 50]), (20, 1))
    _, place, tries = many_draws(20)
    tries = tries * [0] * transforms.TRIES + [0.5] * (2 * transforms.TRIES)
    windows = transforms.random_resized_window(image_size, (8, 8), 1.0, place, tries).numpy()
    np.testing.assert_allclose(windows, np.tile([0, 0, 50, 50], (20, 1)), atol=1e-4)


def test_random_windows_are_the_centre_window_shrunk_and_moved():
    _, place, _ = many_draws(500)
    image_size = np.tile(np.float32([40, 60]), (500, 1))
    windows = transforms.random_window(image_size, (16, 16), 0.25, place).numpy()
    np.testing.assert_allclose(windows[:, 2:], 20, rtol=1e-5)
    np.testing.assert_allclose(windows[:, :2], place * [20, 40], atol=1e-3)


@pytest.mark.parametrize("crop", ["random_resized", "random", "center"])
def test_one_image_and_a_batch_get_the_same_augmentation(crop):
    augmentation = AugmentationConfig(crop=crop, min_area=0.4)
    images = np.stack([random_image(30, 40, seed) for seed in range(2)])
    draws = hashing.draw_uniform(transforms.DRAWS, 0, tf.range(2, dtype=tf.int64)).numpy()
    batch = transforms.transform_for_training(
        tf.constant(images), (16, 24), augmentation, tf.constant(draws)
    )
    for pixels, draw, expected in zip(images, draws, batch, strict=True):
        image = run_in_dataset(
            lambda *arguments: transforms.transform_for_training(
                arguments[0], (16, 24), augmentation, arguments[1]
            ),
            pixels,
            draw,
        )
        np.testing.assert_allclose(image, expected, atol=3e-4)


@pytest.mark.parametrize("flip", [True, False])
def test_flip_mirrors_about_half_of_the_images_and_can_be_switched_off(flip):
    augmentation = AugmentationConfig(crop="center", flip=flip)
    image = random_image(8, 8)
    draws = hashing.draw_uniform(transforms.DRAWS, 0, tf.range(400, dtype=tf.int64))
    images = transforms.transform_for_training(
        tf.constant(image[None].repeat(400, 0)), (8, 8), augmentation, draws
    ).numpy()
    plain = image / 127.5 - 1
    kept = np.abs(images - plain).max((1, 2, 3)) < 1e-5
    mirrored = np.abs(images - plain[:, ::-1]).max((1, 2, 3)) < 1e-5
    assert (kept ^ mirrored).all()
    assert (0.42 < mirrored.mean() < 0.58) if flip else kept.all()


@pytest.mark.parametrize("crop", ["random_resized", "random", "center"])
def test_smallest_window_bounds_every_crop_of_a_square(crop):
    augmentation = AugmentationConfig(crop=crop, min_area=0.3)
    flip, place, tries = many_draws()
    image_size = np.ones((len(place), 2), np.float32)
    windows = {
        "random_resized": transforms.random_resized_window(image_size, (8, 8), 0.3, place, tries),
        "random": transforms.random_window(image_size, (8, 8), 0.3, place),
        "center": transforms.center_window(image_size, (8, 8)),
    }[crop].numpy()
    least = transforms.smallest_window(augmentation)
    assert least - 1e-5 <= windows[:, 2:].min() <= least * 1.05
    assert math.isclose(transforms.smallest_window(AugmentationConfig(crop="center")), 1)
