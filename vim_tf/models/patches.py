"""Cutting images into patches and putting them together again, exact inverses of each other.

Also putting together patches that overlap; not of the paper.
"""

import itertools

import numpy as np
from keras import ops

from vim_tf.annotations import Tensor


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cuts images into a raster of flattened patches.

    Args:
        images: [B,H,W,C]; H and W are multiples of `patch_size`.
        patch_size: side P of a patch in pixels.

    Returns:
        [B, (H/P)(W/P), P*P*C], patches in raster order, each flattened row by row. A 32 x 48
        RGB image in patches of 8 gives [B, 24, 192].

    Raises:
        ValueError: a side is no multiple of `patch_size`.
    """
    height, width, channels = images.shape[1:]
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"images are {height} x {width} and patch_size is {patch_size}; both sides must be "
            "multiples of it"
        )
    rows, columns = height // patch_size, width // patch_size
    x = ops.reshape(images, (-1, rows, patch_size, columns, patch_size, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # [B,rows,columns,P,P,C]
    return ops.reshape(x, (-1, rows * columns, patch_size * patch_size * channels))


def unpatchify(patches: Tensor, patch_size: int, grid: tuple[int, int]) -> Tensor:
    """Puts patches back together; `unpatchify(patchify(x, P), P, grid)` is x.

    Args:
        patches: [B,N,P*P*C] in raster order.
        patch_size: side P of a patch in pixels.
        grid: rows and columns; N = rows * columns.

    Returns:
        [B, rows*P, columns*P, C].
    """
    rows, columns = grid
    channels = patches.shape[-1] // patch_size**2
    x = ops.reshape(patches, (-1, rows, columns, patch_size, patch_size, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # [B,rows,P,columns,P,C]
    return ops.reshape(x, (-1, rows * patch_size, columns * patch_size, channels))


def add_overlapping(patches: Tensor, patch_size: int, grid: tuple[int, int]) -> Tensor:
    """Adds up patches of twice the side, each around the place of a patch of `unpatchify`.

    A pixel is the weighted mean of the patches that cover it, four of them except at the edges of
    the image. A patch's weight falls linearly from its centre to 0 outside of its border. So a
    pixel and its neighbour have nearly the same weights, and no border shows.

    Args:
        patches: [B,N,4*P*P*C]: the upper left, upper right, lower left and lower right quarter of
            each, every quarter as in `unpatchify`.
        patch_size: P.
        grid: rows and columns; N = rows * columns.

    Returns:
        [B, rows*P, columns*P, C].
    """
    rising = (np.arange(patch_size, dtype="float32") + 0.5) / patch_size
    slopes = (rising, rising[::-1])
    total: Tensor = 0
    weights: Tensor = 0
    places = itertools.product((0, 1), repeat=2)
    for quarter, (down, right) in zip(ops.split(patches, 4, axis=-1), places, strict=True):
        weight = np.tile(np.outer(slopes[down], slopes[right]), grid)[..., None]  # [H,W,1]
        shift = [(place * patch_size, (1 - place) * patch_size) for place in (down, right)]
        image = unpatchify(quarter, patch_size, grid)  # [B,H,W,C]
        image = image * ops.cast(weight, image.dtype)
        total += ops.pad(image, [(0, 0), *shift, (0, 0)])  # [B,H+P,W+P,C]
        weights += np.pad(weight, [*shift, (0, 0)])
    first = patch_size // 2
    rows, columns = (slice(first, first + count * patch_size) for count in grid)
    return total[:, rows, columns] / ops.cast(weights[rows, columns], total.dtype)
