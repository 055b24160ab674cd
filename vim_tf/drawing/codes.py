"""What the codes of a tokenizer look like: the patches that have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from keras import ops

from vim_tf.data.progress import progress_bar
from vim_tf.data.transforms import to_uint8
from vim_tf.drawing import grids
from vim_tf.evaluation.image_sources import RunImages
from vim_tf.models.patches import patchify

if TYPE_CHECKING:
    from vim_tf.runs.trained_run import TrainedRun

SHOWN = 192  # codes in the image
EXAMPLES = 4  # patches of each
OUTSIDE = 255  # grey level outside an image's border
PAPER = 150  # grey, because many codes are white


class CodePatches:
    """Collects the patches of each code, one batch of images at a time; memory O(K).

    Args:
        codes: number of codes K.
        patch_size: side P of a patch.
        grid: rows and columns of patches in an image.
        seed: any integer; determines which patches are the examples.

    Attributes:
        counts: int64 [K], patches that have each code.
        examples: uint8 [K,EXAMPLES,3P,3P,3]: patches with a border of one patch, each from another
            image, drawn uniformly from all images that have the code.
        images: int64 [K], images that have each code; so many of its `examples` are filled.
    """

    def __init__(self, codes: int, patch_size: int, grid: tuple[int, int], seed: int = 0) -> None:
        self.counts = np.zeros(codes, "int64")
        self.images = np.zeros(codes, "int64")
        side = 3 * patch_size
        self.examples = np.full((codes, EXAMPLES, side, side, 3), OUTSIDE, "uint8")
        self._sums = np.zeros((codes, patch_size**2 * 3))
        self._patch_size, self._grid = patch_size, grid
        self._random = np.random.default_rng(seed % 2**32)

    def add(self, images: np.ndarray, tokens: np.ndarray) -> None:
        """Adds images.

        Args:
            images: uint8 [B,H,W,3].
            tokens: int [B,N], the tokens of `images`.
        """
        patches = np.asarray(patchify(images, self._patch_size))  # [B,N,3P^2]
        flat = tokens.ravel()
        # Integers in float64: the sums are exact.
        order = np.argsort(flat, kind="stable")
        codes, starts = np.unique(flat[order], return_index=True)
        rows = patches.reshape(len(flat), -1)[order].astype("float64")
        self._sums[codes] += np.add.reduceat(rows, starts)
        self.counts += np.bincount(flat, minlength=len(self.counts))
        for image, row in zip(images, tokens, strict=True):
            self._draw_examples(image, row)

    def _draw_examples(self, image: np.ndarray, tokens: np.ndarray) -> None:
        """Reservoir sampling: image n of a code draws one of n places; only `EXAMPLES` exist.

        J. Vitter, "Random sampling with a reservoir", algorithm R.
        """
        # A random order selects one of an image's patches with the same code.
        order = self._random.permutation(len(tokens))
        codes, first = np.unique(tokens[order], return_index=True)
        self.images[codes] += 1
        slots = self._random.integers(self.images[codes])
        slots = np.where(self.images[codes] <= EXAMPLES, self.images[codes] - 1, slots)
        kept = slots < EXAMPLES
        size = self._patch_size
        border = ((size, size), (size, size), (0, 0))
        padded = np.pad(image, border, constant_values=OUTSIDE)
        for code, slot, place in zip(codes[kept], slots[kept], order[first[kept]], strict=True):
            top, left = (size * x for x in divmod(place, self._grid[1]))
            self.examples[code, slot] = padded[top : top + 3 * size, left : left + 3 * size]

    def means(self, codes: np.ndarray) -> np.ndarray:
        """Mean patches of some used codes: float64 [n,P,P,3] from 0 to 255."""
        means = self._sums[codes] / self.counts[codes, None]
        return means.reshape(-1, self._patch_size, self._patch_size, 3)


def fade_around(windows: np.ndarray, size: int) -> np.ndarray:
    """Windows uint8 [...,3P,3P,3], made paler except for the middle patch of side P."""
    faded = (0.4 * windows + 0.6 * 220).round().astype("uint8")
    middle = np.s_[..., size:-size, size:-size, :]
    faded[middle] = windows[middle]
    return faded


def view_codes(run: TrainedRun, split: str, seed: int, batch_size: int) -> np.ndarray:
    """Draws the most used codes of a run's tokenizer.

    Args:
        run: a `TrainedRun`.
        split: "validation" or "train"; all of its images are tokenized.
        seed: determines which patches are the examples.
        batch_size: images tokenized at once.

    Returns:
        uint8 [h,w,3].
    """
    tokenizer = run.tokenizer
    size, codes = tokenizer.config.patch_size, tokenizer.config.quantizer.codes
    patches = CodePatches(codes, size, tokenizer.grid, seed)
    source = RunImages(run.data, split)
    with progress_bar(source.count, "images", "codes") as bar:
        for images in source.float_batches(batch_size):
            patches.add(to_uint8(images), ops.convert_to_numpy(tokenizer.tokenize(images)))
            bar.update(len(images))
    used = np.flatnonzero(patches.counts)
    shown = used[np.argsort(-patches.counts[used], kind="stable")][:SHOWN]
    means = patches.means(shown).round().astype("uint8").repeat(3, axis=1).repeat(3, axis=2)
    examples = fade_around(patches.examples[shown], size)
    cells = np.concatenate([means[:, None], examples], axis=1)  # [n,1+EXAMPLES,3P,3P,3]
    zoom = grids.zoom_to(36, cells.shape[2:4])
    strips = np.stack([grids.image_grid(cell, len(cell), zoom, PAPER) for cell in cells])
    shares = patches.counts[shown] / patches.counts.sum()
    texts = [f"{code}: {share:.2%}" for code, share in zip(shown, shares, strict=True)]
    return grids.with_title(
        grids.captioned_grid(strips, texts, columns=8),
        [
            f"{len(shown)} of {len(used):,} codes that {patches.counts.sum():,} patches of "
            f"{split} images use, of {codes:,} in the codebook; the most used first, with their "
            "number and share of the patches.",
            f"Each code: the mean of its patches, then {EXAMPLES} of them from different images, "
            "with the patches around them paler.",
        ],
    )
