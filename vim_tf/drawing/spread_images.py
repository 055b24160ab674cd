"""A few images spread over a split, for views: the first ones may all be of one class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vim_tf.data.transforms import to_uint8

if TYPE_CHECKING:
    from vim_tf.data.images import ImageData


def spread(size: int, count: int) -> np.ndarray:
    """Returns at most `count` of the numbers 0 to `size` - 1, at even distances: int [n]."""
    count = min(count, size)
    parts = np.arange(size) * count // size  # for each number, its part
    return np.flatnonzero(np.diff(parts, prepend=-1))  # the first of each part


def spread_images(data: ImageData, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images at even distances in a split's stored order.

    Args:
        data: the `vim_tf.data.images.ImageData`.
        split: "validation" or "train".
        count: number of images; a smaller split gives all of its images.

    Returns:
        (uint8 [n,H,W,3], int32 labels [n]), n <= count. Only these images are decoded.
    """
    chosen = spread(data.splits[split].size, count)
    batches = list(data.evaluation(split, positions=chosen.tolist()))
    images = [to_uint8(batch["image"]) for batch in batches]
    return np.concatenate(images), np.concatenate([batch["label"] for batch in batches])
