"""Images that are streamed from TFRecord files: the code that `tfrecord` and `tfds` share."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from vim_tf.annotations import Tensor
from vim_tf.data import decoding, hashing
from vim_tf.fingerprints import FileTable, common_folder

SHUFFLE_BUFFER = 10_000  # undecoded records; about 1 GB of ImageNet's
_FILES_AT_ONCE = 16
_plain = tf.autograph.experimental.do_not_convert  # conversion takes longer than tracing
Parse: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]  # see `RecordSplit`


@dataclass(frozen=True)
class RecordFile:
    """The records `skip` to `skip + take - 1` of one TFRecord file."""

    path: str
    skip: int
    take: int

    def names(self) -> Tensor:
        """Returns [take] strings: the file's name and the number of the record in it."""
        return _name(os.path.basename(self.path), tf.range(self.skip, self.skip + self.take))


@dataclass(frozen=True)
class RecordSplit:
    """A split that is read in the order of its files; shuffling mixes files, then a buffer.

    The order of an epoch depends on (seed, epoch) alone. Resuming inside an epoch reads and drops
    the undecoded records before the position.

    Attributes:
        files: the files to read.
        size: number of records with a hash in `hashes`.
        hashes: (start, end) of the hashes of the names to keep; the end is excluded.
        parse: serialized record -> (encoded image, int32 label).
        max_pixels: see `image_limits.pixel_limit`.
        convert_profiles: whether colours are converted to sRGB as an image's profile says.
    """

    files: tuple[RecordFile, ...]
    size: int
    hashes: tuple[int, int]
    parse: Parse
    max_pixels: int
    convert_profiles: bool = True

    vectorized = False

    def load(self, reference: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns (uint8 [h, w, 3] image, int32 label) of a reference."""
        encoded, label = self.parse(reference[1])
        return decoding.decode_oriented(encoded, self.max_pixels, self.convert_profiles), label

    def describe(self, reference: tuple[Tensor, Tensor]) -> Tensor:
        """Returns the file's name and the number of the record in it."""
        return tf.constant("record ") + reference[0]

    def contains(self, files: Iterable[RecordFile]) -> np.ndarray:
        """Returns [n] bool: which records of `files`, one after the other, the hashes select."""
        hashes = _hashes(files)
        return (hashes >= self.hashes[0]) & (hashes < self.hashes[1])

    def in_order(self) -> tf.data.Dataset:
        """Returns the data set of (position, (name, record)), each image once."""
        return tf.data.Dataset.range(len(self.files)).flat_map(_plain(self._read)).enumerate()

    def shuffled(self, seed: int, start: int) -> tf.data.Dataset:
        """Returns the endless data set of elements for `locate`, from global position `start`."""
        epochs = tf.data.Dataset.range(start // self.size, tf.int64.max)
        dataset = epochs.flat_map(_plain(lambda epoch: self._shuffled_epoch(seed, epoch)))
        return dataset.skip(start % self.size).enumerate(start)

    def locate(
        self, seed: int, number: Tensor, reference: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Returns (epoch, position, reference) of an element."""
        del seed
        return number // self.size, number % self.size, reference

    def _shuffled_epoch(self, seed: int, epoch: Tensor) -> tf.data.Dataset:
        def file_at(place: Tensor) -> Tensor:
            return hashing.shuffle_index(place, len(self.files), seed, epoch)

        at_once = min(_FILES_AT_ONCE, len(self.files))
        dataset = tf.data.Dataset.range(len(self.files)).map(file_at)
        dataset = dataset.interleave(self._read, at_once, 1, at_once, deterministic=True)
        # The raw operation: Dataset.shuffle would mix TensorFlow's global seed into the order.
        shuffled = tf.raw_ops.ShuffleDataset(
            input_dataset=tf.data.experimental.to_variant(dataset),
            buffer_size=min(SHUFFLE_BUFFER, self.size),
            seed=tf.bitcast(hashing.hash_integers(seed, epoch, 0), tf.int64),
            seed2=tf.bitcast(hashing.hash_integers(seed, epoch, 1), tf.int64),
            reshuffle_each_iteration=False,
            output_types=[tf.string, tf.string],
            output_shapes=[[], []],
        )
        return tf.data.experimental.from_variant(shuffled, dataset.element_spec)

    def _read(self, place: Tensor) -> tf.data.Dataset:
        paths = tf.constant([file.path for file in self.files])
        bases = tf.constant([os.path.basename(file.path) for file in self.files])
        skips = tf.constant([file.skip for file in self.files], tf.int64)
        takes = tf.constant([file.take for file in self.files], tf.int64)
        skip = skips[place]
        dataset = tf.data.TFRecordDataset(paths[place]).skip(skip).take(takes[place])
        dataset = dataset.enumerate(skip)
        dataset = dataset.map(lambda number, record: (_name(bases[place], number), record))
        if self.hashes == hashing.ALL:
            return dataset
        return dataset.filter(lambda name, record: self._keeps(name))

    def _keeps(self, name: Tensor) -> Tensor:
        value = hashing.hash_names(name)
        return (value >= self.hashes[0]) & (value < self.hashes[1])


def table_of(files: Iterable[RecordFile]) -> FileTable:
    """Returns the `FileTable` of the files, each file once."""
    paths = sorted({file.path for file in files})
    _, names = common_folder(paths)
    return FileTable.of(names, paths)


def make_whole_split(
    files: Sequence[RecordFile], parse: Parse, max_pixels: int, convert_profiles: bool = True
) -> RecordSplit:
    """Returns the split of all records of `files`; arguments are those of `make_split_pair`."""
    size = sum(file.take for file in files)
    return RecordSplit(tuple(files), size, hashing.ALL, parse, max_pixels, convert_profiles)


def make_split_pair(
    files: Sequence[RecordFile],
    parse: Parse,
    max_pixels: int,
    fraction: float,
    what: str,
    convert_profiles: bool = True,
) -> tuple[RecordSplit, RecordSplit]:
    """Returns (training split, validation split), by a hash of file name and record number.

    Args:
        files: the files to read.
        parse: see `RecordSplit`.
        max_pixels: see `RecordSplit`.
        fraction: share of records wanted in validation.
        what: the data set's name in an error.
        convert_profiles: see `RecordSplit`.

    Raises:
        UserError: there are no two records with different hashes.
    """
    hashes = _hashes(files)
    threshold = hashing.validation_threshold(hashes, fraction, what)
    held_out = int((hashes < threshold).sum())
    sizes = len(hashes) - held_out, held_out
    bounds = (threshold, hashing.ALL[1]), (0, threshold)
    train, validation = (
        RecordSplit(tuple(files), size, kept, parse, max_pixels, convert_profiles)
        for size, kept in zip(sizes, bounds, strict=True)
    )
    return train, validation


def _hashes(files: Iterable[RecordFile]) -> np.ndarray:
    return np.concatenate([hashing.hash_names(file.names()).numpy() for file in files])


def _name(base: Tensor | str, number: Tensor) -> Tensor:
    return base + ":" + tf.strings.as_string(number)
