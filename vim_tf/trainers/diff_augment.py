"""DiffAugment: random changes of the images that a discriminator sees, with gradients.

"Differentiable Augmentation for Data-Efficient GAN Training", https://arxiv.org/abs/2006.10738.
Real and reconstructed images are changed in the same ways, so that a discriminator cannot memorise
a small data set, and reconstructions do not show the changes. Every change is a gather, a product
or a sum, because R1 needs the gradients of second order.
"""

import numpy as np
import tensorflow as tf

from vim_tf.annotations import Tensor
from vim_tf.models.seeded_dropout import row_bits

DRAWS = 7  # per image: shift down and right, place of the square, brightness, saturation, contrast
SHIFT = 1 / 8  # the largest shift, as a share of a side
CUT = 1 / 2  # side of the square, as a share of a side


def augment(images: Tensor, salt: int, geometry: bool, colour: bool) -> Tensor:
    """Changes images [B,H,W,3] float32 in [-1,1]; what it draws belongs to `row_keys` and `salt`.

    `colour` adds from -0.5 to 0.5 to all pixels, multiplies the differences from each pixel's mean
    over channels by 0 to 2, and those from the image's mean by 0.5 to 1.5. `geometry` shifts by up
    to `SHIFT` of each side and sets a square of `CUT` of each side, at any place, to 0. Pixels from
    outside are 0, which is grey.

    Returns:
        [B,H,W,3] float32.
    """
    bits = row_bits(None, salt, tf.range(DRAWS))  # [B,DRAWS]
    draws = tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32)
    draws = tf.unstack(draws * np.float32(2.0**-24), axis=1)  # each [B], from 0 to below 1
    if colour:
        brightness, saturation, contrast = (tf.reshape(d, [-1, 1, 1, 1]) for d in draws[4:])
        images += brightness - 0.5
        grey = tf.reduce_mean(images, 3, keepdims=True)
        images = (images - grey) * (2 * saturation) + grey
        mean = tf.reduce_mean(images, [1, 2, 3], keepdims=True)
        images = (images - mean) * (contrast + 0.5) + mean
    if geometry:
        for axis in (1, 2):
            images = _shift(images, axis, draws[axis - 1])
        images = _cut(images, draws[2], draws[3])
    return images


def _shift(images, axis, draw):
    """Moves each image along an axis by a whole number of pixels."""
    side = images.shape[axis]
    most = round(side * SHIFT)
    shift = tf.cast(draw * (2 * most + 1), tf.int32) - most  # [B]
    # A border of zeros on both ends stands for everything outside.
    paddings = [[0, 0], [0, 0], [0, 0], [0, 0]]
    paddings[axis] = [1, 1]
    places = tf.clip_by_value(tf.range(side)[None] + shift[:, None] + 1, 0, side + 1)  # [B,side]
    return tf.gather(tf.pad(images, paddings), places, axis=axis, batch_dims=1)


def _cut(images, down, right):
    """Sets a square, cut at the borders, to 0."""
    kept = [_inside(images.shape[1], down), _inside(images.shape[2], right)]  # [B,H], [B,W]
    hole = kept[0][:, :, None] & kept[1][:, None, :]
    return images * tf.cast(~hole, images.dtype)[..., None]


def _inside(side, draw):
    size = round(side * CUT)
    centre = tf.cast(draw * (side + 1), tf.int32)
    start = (centre - size // 2)[:, None]
    places = tf.range(side)[None]
    return (places >= start) & (places < start + size)
