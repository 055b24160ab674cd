"""The training images or the validation images of a source.

A split returns references to its images (an index, or an undecoded record) in a fixed or in a
shuffled order, and loads the image of a reference. Shuffled orders depend on (seed, epoch) alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from vim_tf.annotations import Tensor
from vim_tf.data import hashing
from vim_tf.data.left_out import LeftOut
from vim_tf.fingerprints import FileTable

if TYPE_CHECKING:
    from vim_tf.data.sources.records import RecordSplit

VECTORIZED_SIDE = 64  # pixels
# Reference -> (uint8 [h, w, 3] image, int32 label), in TensorFlow operations.
Load: TypeAlias = Callable[[Any], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class IndexedSplit:
    """Images that can be loaded in any order, so that shuffling and resuming cost nothing.

    Attributes:
        size: number of images.
        load: int64 index -> (uint8 [h, w, 3] image, int32 label), in TensorFlow operations.
        describe: int64 index -> string that names the image in an error; None if loading cannot
            fail.
        vectorized: whether `load` also takes [B] indices and returns images of one size.
    """

    size: int
    load: Load
    describe: Callable[[Tensor], Tensor] | None = None
    vectorized: bool = False

    def in_order(self) -> tf.data.Dataset:
        """Returns the data set of (position, reference), each image once."""
        return tf.data.Dataset.zip(*[tf.data.Dataset.range(self.size)] * 2)

    def shuffled(self, seed: int, start: int) -> tf.data.Dataset:
        """Returns the endless data set of elements for `locate`, from global position `start`."""
        del seed
        return tf.data.Dataset.zip(tf.data.Dataset.range(start, tf.int64.max))

    def locate(self, seed: int, number: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (epoch, position, reference) of an element, or of a batch of elements."""
        epoch, position = number // self.size, number % self.size
        return epoch, position, hashing.shuffle_index(position, self.size, seed, epoch)


class Opened(NamedTuple):
    """The images of a source.

    Attributes:
        class_names: name of class i at index i; () without labels.
        train: the training images.
        validation: the images that are held out.
        tables: {config key: `FileTable`} of the files that the images come from.
        left_out: what the source found and does not use; None if it uses everything.
    """

    class_names: tuple[str, ...]
    train: "IndexedSplit | RecordSplit"
    validation: "IndexedSplit | RecordSplit"
    tables: dict[str, FileTable]
    left_out: LeftOut | None = None


def make_array_split(images: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> IndexedSplit:
    """Returns a split of images of one size that are in memory or in one file.

    Args:
        images: [n, h, w, 3] uint8, or [n, h, w, 1] for grey images; a NumPy memmap is read image
            by image.
        labels: [n] int32.
    """
    repeats = 3 // images.shape[-1]

    def take(index: Tensor) -> Tensor:
        if not isinstance(images, np.memmap):
            return tf.gather(images, index)
        found = tf.numpy_function(lambda i: images[i], [index], tf.uint8, stateful=False)
        return tf.ensure_shape(found, [*index.shape, *images.shape[1:]])

    def load(index: Tensor) -> tuple[Tensor, Tensor]:
        return tf.repeat(take(index), repeats, -1), tf.gather(labels, index)

    # The matrices of `transforms.resize_window` grow with the square of the side.
    small = max(images.shape[1:3]) <= VECTORIZED_SIDE
    return IndexedSplit(size=int(images.shape[0]), load=load, vectorized=small)


def load_or_else(load: Load, reference: Any, fallback: tf.data.Dataset) -> tuple[Tensor, Tensor]:
    """Returns `load(reference)`; if that fails, the only element of the data set `fallback`.

    Works inside a function of `Dataset.map`, where an exception cannot be caught otherwise.
    """
    # In a tuple, because `map` would unpack a reference that is a tuple.
    attempt = tf.data.Dataset.from_tensors((reference,)).map(load).ignore_errors()
    return attempt.concatenate(fallback).take(1).get_single_element()
