"""Images of any size -> [..., H, W, 3] float32 in [-1, 1], for evaluation and for training.

Every crop is a window: [..., 4] float32 (top, left, height, width) in pixels of the image, with
fractions. Cutting and resizing are then one resampling, and no image is ever blown up to an
intermediate size, however long and thin it is. Everything takes one image, or a batch of
images of one size.
"""

import math

import numpy as np
import tensorflow as tf

# Random-resized crop: aspect ratios are relative to the target's, and the first of these tries
# that fits into the image is taken (arXiv 1409.4842, section 6).
MAX_ASPECT = 4 / 3
TRIES = 10
DRAWS = 3 + 2 * TRIES  # uniform numbers that an image's augmentation uses
_LONG = 4  # images of more than so many times the window's width are cut before they are resized


def transform_for_evaluation(images, size):
    """Resizes the shorter side (antialiased), cuts out the centre and normalises.

    Args:
        images: [..., h, w, 3] uint8 or float32, values 0..255.
        size: (H, W) integers.

    Returns:
        [..., H, W, 3] float32 in [-1, 1].
    """
    return normalize(resize_window(images, center_window(_size_of(images), size), size))


def transform_for_training(pixels, size, augmentation, draws):
    """Cuts, resizes, flips and normalises as `augmentation` says.

    Args:
        pixels: [..., h, w, 3] uint8 or float32, values 0..255.
        size: (H, W) integers.
        augmentation: a `vim_tf.config.sections.AugmentationConfig`.
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


def _flip(images, which):
    """Mirrors [H, W, 3] if `which`, a scalar, is true; or those of [B, H, W, 3] where it is."""
    # Not [..., ::-1, :], which takes longer than cutting and resizing.
    if images.shape.rank == 3:
        return tf.cond(which, lambda: tf.reverse(images, [1]), lambda: images)
    return tf.where(which[:, tf.newaxis, tf.newaxis, tf.newaxis], tf.reverse(images, [2]), images)


def normalize(images):
    """Returns values 0..255 of any dtype as float32 in [-1, 1]."""
    return tf.cast(images, tf.float32) / 127.5 - 1.0


def to_uint8(images):
    """Images [...] in [-1,1] -> NumPy uint8 of the same shape: the inverse of `normalize`."""
    return np.clip(np.rint((np.asarray(images) + 1) * 127.5), 0, 255).astype("uint8")


def center_window(image_size, size):
    """The largest window of the target's aspect ratio, in the middle of the image.

    The same as resizing the shorter side to the target and cutting out the centre.

    Args:
        image_size: [..., 2] float32, height and width of the image.
        size: (H, W) of the target.
    """
    return _place(image_size, _largest_size(image_size, size[1] / size[0]), 0.5)


def random_window(image_size, size, min_area, place):
    """`center_window` with sides shorter by `min_area ** 0.5`, at a random place.

    Args:
        image_size: [..., 2] float32, height and width of the image.
        size: (H, W) of the target.
        min_area: above 0, at most 1.
        place: [..., 2] float32, uniform in [0, 1).
    """
    window_size = _largest_size(image_size, size[1] / size[0]) * math.sqrt(min_area)
    return _place(image_size, window_size, place)


def random_resized_window(image_size, size, min_area, place, tries):
    """A window of random area, aspect ratio and place.

    The area is uniform from `min_area` of the image's to all of it, the aspect ratio
    log-uniform from 3/4 to 4/3 of the target's. An image into which no try fits (a panorama)
    gives its largest window within these ratios, at a random place.

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


def smallest_window(augmentation):
    """Returns the least share of an image's side that a training crop cuts out, on a side.

    Panoramas aside: into an image much longer than the target, no crop of `min_area` fits.
    """
    least = {
        "random_resized": math.sqrt(augmentation.min_area / MAX_ASPECT),
        "random": math.sqrt(augmentation.min_area),
        "center": 1.0,
    }
    return least[augmentation.crop]


def resize_window(images, window, size):
    """Cuts a window out of each image and resizes it.

    Antialiased bicubic with a = -1/2, as Pillow's BICUBIC, with which the field prepares its
    reference images: sharper than bilinear. It overshoots at edges, hence the clip.

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


def _resample_one(image, window, size):
    # ScaleAndTranslate resizes the rows first, at the full width of the image: [H, w, 3] float32.
    # Of an image of 1 x 1,000,000 pixels, that is 3 GB for H = 256.
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


def _cut_columns(image, window, size):
    """Returns the columns that a window and its kernel reach, and the window within them."""
    reach = 2.0 * tf.maximum(window[3] / size[1], 1.0) + 1.0
    start = tf.maximum(tf.floor(window[1] - reach), 0.0)
    stop = tf.math.ceil(window[1] + window[3] + reach)
    columns = image[:, tf.cast(start, tf.int32) : tf.cast(stop, tf.int32)]
    return columns, tf.stack([window[0], window[1] - start, window[2], window[3]])


def _resample_batch(images, window, size):
    # ScaleAndTranslate has one window for a whole batch. Small images in memory are cut seven
    # times faster by two products with [out, in] matrices than one by one.
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


def _cubic_matrix(start, length, inputs, outputs):
    """Weights [B, outputs, inputs] of the same kernel as `_resample_one`'s."""
    scale = (length / outputs)[:, tf.newaxis]  # [B, 1]
    centers = start[:, tf.newaxis] + (tf.range(outputs, dtype=tf.float32) + 0.5) * scale
    distance = centers[..., tf.newaxis] - (tf.range(inputs, dtype=tf.float32) + 0.5)
    x = tf.abs(distance) / tf.maximum(scale, 1.0)[..., tf.newaxis]  # [B, outputs, inputs]
    near = ((1.5 * x - 2.5) * x) * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    weights = tf.where(x < 1.0, near, tf.where(x < 2.0, far, 0.0))
    return weights / tf.reduce_sum(weights, -1, keepdims=True)


def _largest_size(image_size, aspect):
    height, width = tf.unstack(image_size, axis=-1)
    return tf.stack([tf.minimum(height, width / aspect), tf.minimum(width, height * aspect)], -1)


def _place(image_size, window_size, place):
    return tf.concat([place * (image_size - window_size), window_size], -1)


def _size_of(images):
    size = tf.cast(tf.shape(images)[-3:-1], tf.float32)
    if images.shape.rank == 4:
        size = tf.repeat(size[tf.newaxis], tf.shape(images)[0], 0)  # [B, 2]
    return size
