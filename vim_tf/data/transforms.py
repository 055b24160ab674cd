"""Images of any size -> [..., H, W, 3] float32 in [-1, 1], for evaluation and for training.

Every crop is a window: [..., 4] float32 (top, left, height, width) in pixels of the image, with
fractions. So cropping and resizing are one resampling, and even a very long and thin image is never
enlarged to an intermediate size. All functions take one image, or a batch of images of one size.
"""

import math

import numpy as np
import tensorflow as tf

from vim_tf.annotations import Tensor
from vim_tf.config.sections import AugmentationConfig

# Random-resized crop: aspect ratios are relative to that of the target, and the first try that fits
# into the image is used (arXiv 1409.4842, section 6).
MAX_ASPECT = 4 / 3
TRIES = 10
DRAWS = 3 + 2 * TRIES  # uniform numbers per augmented image
_LONG = 4  # an image of more than this many times the window's width is cut before it is resized


def transform_for_evaluation(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes the shorter side (antialiased), crops the centre and normalises.

    Args:
        images: [..., h, w, 3] uint8 or float32, values 0..255.
        size: (H, W) integers.

    Returns:
        [..., H, W, 3] float32 in [-1, 1].
    """
    return normalize(resize_window(images, center_window(_size_of(images), size), size))


def transform_for_training(
    pixels: Tensor, size: tuple[int, int], augmentation: AugmentationConfig, draws: Tensor
) -> Tensor:
    """Crops, resizes, flips and normalises, as `augmentation` says.

    Args:
        pixels: [..., h, w, 3] uint8 or float32, values 0..255.
        size: (H, W) integers.
        augmentation: the section `data.augmentation` of a config.
        draws: [..., DRAWS] float32, uniform in [0, 1); the same draws give the same result.

    Returns:
        [..., H, W, 3] float32 in [-1, 1].
    """
    flip, place, tries = tf.split(draws, [1, 2, 2 * TRIES], -1)
    image_size = _size_of(pixels)
    if augmentation.crop == "random_resized":
        window = random_resized_window(image_size, size, augmentation.min_area, place, tries)
    elif augmentation.crop == "random":
        window = random_window(image_size, size, augmentation.min_area, place)
    else:
        window = center_window(image_size, size)
    images = normalize(resize_window(pixels, window, size))
    if augmentation.flip:
        images = _flip(images, flip[..., 0] < 0.5)
    return images


def _flip(images: Tensor, which: Tensor) -> Tensor:
    """Mirrors [H, W, 3] if the scalar `which` is true, or each of [B, H, W, 3] by `which` [B]."""
    # Not [..., ::-1, :]: it takes longer than cropping and resizing.
    if images.shape.rank == 3:
        return tf.cond(which, lambda: tf.reverse(images, [1]), lambda: images)
    return tf.where(which[:, tf.newaxis, tf.newaxis, tf.newaxis], tf.reverse(images, [2]), images)


def normalize(images: Tensor) -> Tensor:
    """Returns values 0..255 of any dtype as float32 in [-1, 1]."""
    return tf.cast(images, tf.float32) / 127.5 - 1.0


def to_uint8(images: Tensor) -> np.ndarray:
    """Images [...] in [-1,1] -> NumPy uint8 of the same shape: the inverse of `normalize`."""
    return np.clip(np.rint((np.asarray(images) + 1) * 127.5), 0, 255).astype("uint8")


def center_window(image_size: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns the largest window of the target's aspect ratio, at the centre of the image.

    It gives the same as resizing the shorter side to the target and cropping the centre.

    Args:
        image_size: [..., 2] float32, height and width of the image.
        size: (H, W) of the target.
    """
    return _place(image_size, _largest_size(image_size, size[1] / size[0]), 0.5)


def random_window(
    image_size: Tensor, size: tuple[int, int], min_area: float, place: Tensor
) -> Tensor:
    """Returns `center_window` with its sides times `min_area ** 0.5`, at a random place.

    Args:
        image_size: [..., 2] float32, height and width of the image.
        size: (H, W) of the target.
        min_area: above 0, at most 1.
        place: [..., 2] float32, uniform in [0, 1).
    """
    window_size = _largest_size(image_size, size[1] / size[0]) * math.sqrt(min_area)
    return _place(image_size, window_size, place)


def random_resized_window(
    image_size: Tensor, size: tuple[int, int], min_area: float, place: Tensor, tries: Tensor
) -> Tensor:
    """Returns a window of random area, aspect ratio and place.

    The area is uniform from `min_area` of the image to all of it. The aspect ratio is log-uniform
    from 3/4 to 4/3 of that of the target. If no try fits into the image (a panorama), the largest
    window within these ratios is used, at a random place.

    Args:
        image_size: [..., 2] float32, height and width of the image.
        size: (H, W) of the target.
        min_area: above 0, at most 1.
        place: [..., 2] float32, uniform in [0, 1).
        tries: [..., 2 * TRIES] float32, uniform in [0, 1).
    """
    height, width = image_size[..., :1], image_size[..., 1:]
    area, ratio = tf.split(tries, 2, -1)  # [..., tries] each
    area = (min_area + (1 - min_area) * area) * height * width
    target = size[1] / size[0]
    aspect = target * MAX_ASPECT ** (2 * ratio - 1)  # [..., tries], width / height
    sizes = tf.stack([tf.sqrt(area / aspect), tf.sqrt(area * aspect)], -1)  # [..., tries, 2]
    fits = tf.reduce_all(sizes <= image_size[..., tf.newaxis, :], -1)  # [..., tries]
    nearest = tf.clip_by_value(width / height, target / MAX_ASPECT, target * MAX_ASPECT)
    fallback = _largest_size(image_size, nearest[..., 0])
    # The fallback comes after the tries and always fits.
    sizes = tf.concat([sizes, fallback[..., tf.newaxis, :]], -2)
    fits = tf.concat([fits, tf.ones_like(fits[..., :1])], -1)
    first = tf.one_hot(tf.argmax(fits, -1), TRIES + 1)  # [..., tries + 1]
    return _place(image_size, tf.reduce_sum(sizes * first[..., tf.newaxis], -2), place)


def smallest_window(augmentation: AugmentationConfig) -> float:
    """Returns the smallest side of a training crop as a share of the image's side.

    Panoramas are excepted: no crop of `min_area` fits into an image much longer than the target.
    """
    least = {
        "random_resized": math.sqrt(augmentation.min_area / MAX_ASPECT),
        "random": math.sqrt(augmentation.min_area),
        "center": 1.0,
    }
    return least[augmentation.crop]


def resize_window(images: Tensor, window: Tensor, size: tuple[int, int]) -> Tensor:
    """Crops a window of each image and resizes it.

    The filter is antialiased bicubic with a = -1/2, as Pillow's BICUBIC, the usual filter for
    reference images. It is sharper than bilinear. It overshoots at edges, so the result is clipped.

    Args:
        images: [h, w, 3] or [B, h, w, 3], uint8 or float32, values 0..255.
        window: [4] or [B, 4] float32, inside the image.
        size: (H, W) integers.

    Returns:
        [H, W, 3] or [B, H, W, 3] float32, values 0..255.
    """
    if images.shape.rank == 3:
        resized = _resample_one(images, window, size)
    else:
        resized = _resample_batch(images, window, size)
    return tf.clip_by_value(resized, 0.0, 255.0)


def _resample_one(image: Tensor, window: Tensor, size: tuple[int, int]) -> Tensor:
    # ScaleAndTranslate resizes the rows first, at the full width of the image: [H, w, 3] float32.
    # For an image of 1 x 1,000,000 pixels and H = 256, that is 3 GB.
    width = tf.cast(tf.shape(image)[1], tf.float32)
    image, window = tf.cond(
        width > _LONG * window[3],
        lambda: _cut_columns(image, window, size),
        lambda: (image, window),
    )
    scale = tf.constant(size, tf.float32) / window[2:]
    resized = tf.raw_ops.ScaleAndTranslate(
        images=image[tf.newaxis],
        size=size,
        scale=scale,
        translation=-window[:2] * scale,
        kernel_type="keyscubic",
        antialias=True,
    )
    return tf.ensure_shape(resized[0], [*size, 3])  # [1, H, W, 3] -> [H, W, 3]


def _cut_columns(image: Tensor, window: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Returns the columns that a window and its kernel need, and the window relative to them."""
    reach = 2.0 * tf.maximum(window[3] / size[1], 1.0) + 1.0
    start = tf.maximum(tf.floor(window[1] - reach), 0.0)
    stop = tf.math.ceil(window[1] + window[3] + reach)
    columns = image[:, tf.cast(start, tf.int32) : tf.cast(stop, tf.int32)]
    return columns, tf.stack([window[0], window[1] - start, window[2], window[3]])


def _resample_batch(images: Tensor, window: Tensor, size: tuple[int, int]) -> Tensor:
    # ScaleAndTranslate has one window for a whole batch. For small images in memory, two products
    # with [out, in] matrices are seven times faster than resampling one by one.
    batch, (height, width) = tf.shape(images)[0], images.shape[1:3]
    rows = _cubic_matrix(window[:, 0], window[:, 2], height, size[0])  # [B, H, h]
    columns = _cubic_matrix(window[:, 1], window[:, 3], width, size[1])  # [B, W, w]
    pixels = tf.reshape(tf.cast(images, tf.float32), [batch, height, width * 3])
    pixels = tf.matmul(rows, pixels)  # [B, H, w * 3]
    pixels = tf.reshape(pixels, [batch, size[0], width, 3])
    pixels = tf.reshape(tf.transpose(pixels, [0, 2, 1, 3]), [batch, width, size[0] * 3])
    pixels = tf.matmul(columns, pixels)  # [B, W, H * 3]
    pixels = tf.reshape(pixels, [batch, size[1], size[0], 3])
    return tf.transpose(pixels, [0, 2, 1, 3])  # [B, H, W, 3]


def _cubic_matrix(start: Tensor, length: Tensor, inputs: int, outputs: int) -> Tensor:
    """Returns the weights [B, outputs, inputs] of the kernel of `_resample_one`."""
    scale = (length / outputs)[:, tf.newaxis]  # [B, 1]
    centers = start[:, tf.newaxis] + (tf.range(outputs, dtype=tf.float32) + 0.5) * scale
    distance = centers[..., tf.newaxis] - (tf.range(inputs, dtype=tf.float32) + 0.5)
    x = tf.abs(distance) / tf.maximum(scale, 1.0)[..., tf.newaxis]  # [B, outputs, inputs]
    near = ((1.5 * x - 2.5) * x) * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    weights = tf.where(x < 1.0, near, tf.where(x < 2.0, far, 0.0))
    return weights / tf.reduce_sum(weights, -1, keepdims=True)


def _largest_size(image_size: Tensor, aspect: Tensor | float) -> Tensor:
    height, width = tf.unstack(image_size, axis=-1)
    return tf.stack([tf.minimum(height, width / aspect), tf.minimum(width, height * aspect)], -1)


def _place(image_size: Tensor, window_size: Tensor, place: Tensor | float) -> Tensor:
    return tf.concat([place * (image_size - window_size), window_size], -1)


def _size_of(images: Tensor) -> Tensor:
    size = tf.cast(tf.shape(images)[-3:-1], tf.float32)
    if images.shape.rank == 4:
        size = tf.repeat(size[tf.newaxis], tf.shape(images)[0], 0)  # [B, 2]
    return size
