"""Decides which images are held out for validation: by their names, copies together."""

import unicodedata
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from vim_tf.data import hashing, progress
from vim_tf.errors import UserError


def split(
    names: Sequence[str],
    labels: np.ndarray,
    fraction: float,
    what: str,
    first: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (training images, validation images), two arrays [n] of bool.

    The hash of an image's name decides. Two rules come before it: each class has a training image,
    the one with the largest hash; and copies are on the side of the first of them. At least one
    image is held out. If every image is the only one of its class, the validation images are
    trained on too, and a line says so.

    Args:
        names: names of the images. Unicode normal forms do not matter: some file systems write an
            accent as a separate character.
        labels: [n] integers, 0 for images without classes.
        fraction: share of images wanted in validation.
        what: the data set's name in an error.
        first: [n] integers, the number of the first copy of each image, see `copies.find_first`;
            None if no image is a copy.

    Raises:
        UserError: there are no two different images.
    """
    first = np.arange(len(names)) if first is None else first
    encoded = [
        unicodedata.normalize("NFC", name).encode(errors="surrogateescape") for name in names
    ]
    if len(names) > 1 and (first == first[0]).all():
        raise UserError(
            f"{what} has no image for validation: its {len(names):,} images are copies of one; "
            "give at least 2 different images, better hundreds"
        )
    hashes = hashing.hash_names(tf.constant(encoded)).numpy()[first]
    threshold = hashing.validation_threshold(hashes, fraction, what)
    order = np.lexsort((hashes, labels))
    last = np.append(labels[order][1:] != labels[order][:-1], True)  # of its class
    needed = np.isin(first, first[order[last]])
    held_out = hashes < threshold
    if needed.all():
        progress.say(
            f"data: each of the {int(last.sum()):,} classes of {what} has a single image, so the "
            f"{int(held_out.sum()):,} validation images are trained on too; figures on them say "
            "nothing about new images"
        )
        return needed, held_out
    held_out &= ~needed
    if not held_out.any():
        held_out = ~needed & (hashes == hashes[~needed].min())
    return ~held_out, held_out
