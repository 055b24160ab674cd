"""Similarity of two images, pixel by pixel; PSNR, l1 and l2 are in `vim_tf.losses`."""

import numpy as np
import tensorflow as tf

from vim_tf.annotations import Tensor
from vim_tf.errors import UserError

WINDOW = 11  # pixels
SIGMA = 1.5  # of the Gaussian, in pixels
# They keep quotients finite in dark and flat areas: (K1 L)^2 and (K2 L)^2 of the paper, L = 1.
LUMINANCE_CONSTANT = 0.01**2
CONTRAST_CONSTANT = 0.03**2


def ssim(a: np.ndarray | Tensor, b: np.ndarray | Tensor) -> np.ndarray:
    """Structural similarity of each pair of images (Wang et al., IEEE TIP 13(4), 2004).

    Means, variances and the covariance of each 11 x 11 window are weighted by a Gaussian of sigma
    1.5; its weights sum to 1 (so the variances are the population's). There is no padding: only the
    H - 10 by W - 10 windows that are wholly inside count. R, G and B are computed separately. The
    result is the mean over windows and channels. Images are not converted to grey, and not made
    smaller first, unlike large ones in the authors' program. Computed in float64: in float32
    nearly flat areas have an error of 1e-5.

    Args:
        a: [B,H,W,3] in [0,1], any real dtype; an array or a tensor.
        b: the same shape and range.

    Returns:
        [B] float64 array from -1 to 1; 1 for equal images.

    Raises:
        ValueError: different shapes, or values outside of [0,1].
        UserError: images below 11 x 11.
    """
    a, b = (np.asarray(images, "float64") for images in (a, b))
    if a.ndim != 4 or a.shape != b.shape:
        raise ValueError(f"the shapes are {a.shape} and {b.shape}; both must be the same [B,H,W,3]")
    for images in (a, b):
        if not (images.min(initial=0) >= 0 and images.max(initial=1) <= 1):
            raise ValueError(
                f"values go from {images.min()} to {images.max()}; SSIM takes [0,1]: clip them, "
                "and map [-1,1] to it first"
            )
    if min(a.shape[1:3]) < WINDOW:
        raise UserError(
            f"SSIM of images of {a.shape[1]} x {a.shape[2]} was asked for; its window needs at "
            f"least {WINDOW} x {WINDOW} pixels"
        )
    mean_a, mean_b, square_a, square_b, product = tf.split(
        _blur(np.concatenate([a, b, a * a, b * b, a * b], axis=-1)), 5, axis=-1
    )
    variances = square_a - mean_a**2 + square_b - mean_b**2
    covariance = product - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + LUMINANCE_CONSTANT) / (
        mean_a**2 + mean_b**2 + LUMINANCE_CONSTANT
    )
    structure = (2 * covariance + CONTRAST_CONSTANT) / (variances + CONTRAST_CONSTANT)
    return tf.reduce_mean(luminance * structure, axis=(1, 2, 3)).numpy()


def _blur(maps: Tensor) -> Tensor:
    """[B,H,W,C] -> [B,H-10,W-10,C]: Gaussian means, first down, then across."""
    places = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(places**2) / (2 * SIGMA**2))
    weights = np.repeat((weights / weights.sum())[:, None], maps.shape[-1], axis=1)
    for shape in ((WINDOW, 1, -1, 1), (1, WINDOW, -1, 1)):
        kernel = weights.reshape(shape)
        maps = tf.nn.depthwise_conv2d(maps, kernel, (1, 1, 1, 1), "VALID")
    return maps
