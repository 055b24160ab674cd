"""Similarity of two images, pixel by pixel; PSNR, l1 and l2 are in `vim_tf.losses`.

Also the differences of neighbouring pixels, which show the borders of patches, and blur.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from vim_tf.annotations import Tensor
from vim_tf.errors import UserError

WINDOW = 11  # pixels
ROUNDING = 1e-5  # smaller differences of neighbouring pixels are errors of float32, not content
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


class NeighbourDifferences:
    """Differences of neighbouring pixels of a set of images, which is added batch by batch.

    A pair of neighbours is one below the other, or one next to the other. Each channel counts.
    A difference below `ROUNDING` is 0.

    Args:
        patch_size: side P of a patch in pixels. A pair on both sides of a patch border is a seam.
    """

    def __init__(self, patch_size: int) -> None:
        self.patch_size = patch_size
        # [N,3] of images: absolute at seams, absolute inside patches, squares of all.
        self._sums = np.zeros([0, 3])
        self._pairs = np.zeros([0, 3])

    def add(self, images: np.ndarray | Tensor) -> None:
        """Adds images [B,H,W,C] in [0,1], any real dtype; H and W are multiples of P."""
        images = np.asarray(images, "float64")
        sums, pairs = np.zeros([len(images), 3]), np.zeros([len(images), 3])
        for axis in (1, 2):
            differences = np.diff(images, axis=axis)
            differences[np.abs(differences) < ROUNDING] = 0
            at_seam = np.arange(1, images.shape[axis]) % self.patch_size == 0
            seams = np.compress(at_seam, differences, axis)
            inside = np.compress(~at_seam, differences, axis)
            parts = np.abs(seams), np.abs(inside), np.square(differences)
            sums += np.stack([part.sum((1, 2, 3)) for part in parts], axis=1)
            pairs += [part[0].size for part in parts]
        self._sums = np.concatenate([self._sums, sums])
        self._pairs = np.concatenate([self._pairs, pairs])

    def of(self, chosen: np.ndarray | slice) -> NeighbourDifferences:
        """Returns the differences of some images: a slice or bool [N], in the order of `add`."""
        found = NeighbourDifferences(self.patch_size)
        found._sums, found._pairs = self._sums[chosen], self._pairs[chosen]
        return found

    @property
    def energy(self) -> float:
        """Mean squared difference of all pairs; 0 if there is no pair."""
        return self._means()[2]

    @property
    def seam_ratio(self) -> float | None:
        """Mean absolute difference of the seams over that inside patches; None if that is 0."""
        seams, inside, _ = self._means()
        return seams / inside if inside else None

    def _means(self):
        return (self._sums.sum(0) / np.maximum(self._pairs.sum(0), 1)).tolist()
