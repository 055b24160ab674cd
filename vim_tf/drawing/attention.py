"""Attention maps of a run's transformers: heat maps over held-out images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from keras import ops

from vim_tf.annotations import Tensor
from vim_tf.data.transforms import normalize
from vim_tf.drawing import grids
from vim_tf.drawing.spread_images import spread_images

if TYPE_CHECKING:
    from vim_tf.models.vim import VIM
    from vim_tf.models.vit_vqgan import ViTVQGAN
    from vim_tf.runs.trained_run import TrainedRun

IMAGES = 4
BLOCKS = 4  # at most; rows of the image
# Positions of the query tokens, as fractions of an image's height and width.
QUERIES = ((0.3, 0.5), (0.5, 0.35), (0.75, 0.6))


def query_places(grid: tuple[int, int]) -> np.ndarray:
    """Returns the places in raster order, int [n], of `QUERIES` in a grid."""
    places = [int(down * grid[0]) * grid[1] + int(right * grid[1]) for down, right in QUERIES]
    return np.unique(places)


def shown_blocks(count: int) -> np.ndarray:
    """Returns the indices of at most `BLOCKS` of `count` blocks, including the first and last."""
    return np.unique(np.linspace(0, count - 1, BLOCKS).round().astype(int))


def maps_of_encoder(tokenizer: ViTVQGAN, image: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns the attention of the encoder's patches.

    Args:
        tokenizer: the `ViTVQGAN`.
        image: uint8 [H,W,3].
        places: int [n], patches in raster order.

    Returns:
        float64 [blocks,n,rows,columns], means over heads; each map sums to 1. A patch attends to
        all patches.
    """
    weights = tokenizer.encoder.attention_weights(normalize(image[None]))
    rows = [_mean_over_heads(block)[places] for block in weights]
    return np.stack(rows).reshape(len(rows), len(places), *tokenizer.grid)


def maps_of_vim(
    vim: VIM, tokens: np.ndarray, label: int | None, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the attention of the slots that predict some tokens.

    Args:
        vim: the `VIM`.
        tokens: int32 [N].
        label: an integer, or None.
        places: int [n], the predicted tokens in raster order.

    Returns:
        (maps, shares): float64 [blocks,n,rows,columns], means over heads, 0 from the predicted
        token on; and float64 [blocks,n], the attention to the label. A map and its share sum to 1.
    """
    labels = None if label is None else np.array([label], "int32")
    maps, shares = [], []
    for block in vim.attention_weights(tokens[None], labels):
        rows = _mean_over_heads(block)[places]  # [n,N], by slot
        shares.append(rows[:, 0])
        # Slot j > 0 holds token j - 1.
        maps.append(np.pad(rows[:, 1:], ((0, 0), (0, 1))).reshape(-1, *vim.grid))
    return np.stack(maps), np.stack(shares)


def _mean_over_heads(weights: Tensor) -> np.ndarray:
    """[1,heads,N,N] -> float64 [N,N]."""
    return ops.convert_to_numpy(weights)[0].mean(axis=0, dtype="float64")


def view_attention(run: TrainedRun, split: str) -> np.ndarray:
    """Draws the attention of the encoder, and of VIM if the run has one.

    Args:
        run: a `TrainedRun`.
        split: "validation" or "train"; its images are shown.

    Returns:
        uint8 [h,w,3].
    """
    images, labels = spread_images(run.data, split, IMAGES)
    tokenizer = run.tokenizer
    places = query_places(tokenizer.grid)
    parts = []
    if run.vim is not None:
        tokens = ops.convert_to_numpy(tokenizer.tokenize(normalize(images)))
        # Images that have moved may have other labels.
        known = run.vim.classes and run.data.class_names == run.class_names
        found = [
            maps_of_vim(run.vim, row, label if known else None, places)
            for row, label in zip(tokens, labels, strict=True)
        ]
        maps, shares = map(np.stack, zip(*found, strict=True))
        before = np.arange(tokens.shape[1]) < places[:, None]
        lines = [
            "VIM: where it looks to predict the framed token. Means over heads, one row per block; "
            "brightest is the maximum of each image.",
            "It sees the tokens before it, in raster order, and the label, with its share as text; "
            "tokens that it does not see are faint.",
        ]
        seen = before.reshape(-1, *tokenizer.grid)
        parts.append(grids.with_title(_draw(images, places, maps, seen, shares), lines))
    maps = np.stack([maps_of_encoder(tokenizer, image, places) for image in images])
    lines = ["Encoder of the tokenizer: where the framed patch looks. It sees all patches."]
    parts.append(grids.with_title(_draw(images, places, maps), lines))
    return grids.below_each_other(parts)


def _draw(
    images: np.ndarray,
    places: np.ndarray,
    maps: np.ndarray,
    seen: np.ndarray | None = None,
    shares: np.ndarray | None = None,
) -> np.ndarray:
    """Draws a column for each image and place: a row with the images, then a row for each block.

    Args:
        images: uint8 [p,H,W,3].
        places: int [n].
        maps: [p,blocks,n,rows,columns].
        seen: bool [n,rows,columns], or None.
        shares: [p,blocks,n], or None.

    Returns:
        uint8 [h,w,3].
    """
    grid = maps.shape[-2:]
    zoom = grids.zoom_to(112, images.shape[1:3])
    patch = [zoom * side // count for side, count in zip(images.shape[1:3], grid, strict=True)]
    cells, texts = [], []
    for block in (None, *shown_blocks(maps.shape[1])):
        for i, image in enumerate(images):
            for j, place in enumerate(places):
                if block is None:
                    cell = grids.enlarge(image, zoom)
                    texts.append(f"token {place + 1} of {grid[0] * grid[1]}")
                else:
                    mask = None if seen is None else seen[j]
                    cell = grids.heat_map(image, maps[i, block, j], mask, zoom)
                    share = "" if shares is None else f": label {shares[i, block, j]:.0%}"
                    texts.append(f"block {block + 1}{share}")
                row, column = divmod(place, grid[1])
                cells.append(grids.outline(cell, row * patch[0], column * patch[1], *patch))
    return grids.captioned_grid(np.stack(cells), texts, columns=len(images) * len(places))
