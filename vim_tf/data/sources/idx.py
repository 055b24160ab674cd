"""MNIST's file format: grey images of one size and their labels, gzipped or not.

The format: two zero bytes, 8 for unsigned bytes, the number of dimensions, each dimension as a
big-endian 32-bit integer, then the values (http://yann.lecun.com/exdb/mnist).
"""

import gzip
import math
import pathlib
import zlib
from typing import BinaryIO

import numpy as np
import tensorflow as tf

from vim_tf.annotations import StrPath
from vim_tf.config.sections import DataConfig
from vim_tf.data import class_names, held_out, progress, splits
from vim_tf.errors import UserError
from vim_tf.fingerprints import FileTable
from vim_tf.messages import shorten

MOST_DIMENSIONS = 8
MOST_BYTES = 2**36  # of the values of a gzipped file
MOST_GROWTH = 200  # values per byte of a gzipped file; MNIST has 5


def make_splits(config: DataConfig) -> splits.Opened:
    """Returns (class names, training split, validation split, tables of files) of IDX files.

    Args:
        config: reads `path`, `split`, `validation_split` (the prefixes of the file names) and
            `validation_fraction`.

    Raises:
        UserError: a file is missing or damaged, images and labels do not fit each other, or the
            labels are no numbers of classes.
    """
    assert config.path is not None  # DataConfig checks it
    what = f"data.path {shorten(config.path)}"
    images, labels = _read_pair(config.path, config.split)
    numbers = class_names.number_labels(labels, what)
    progress.say(class_names.describe_numbers(numbers, what))
    if config.validation_split is not None:
        train = images, labels
        validation = _read_pair(config.path, config.validation_split)
        of = f"{config.validation_split} of {what}"
        class_names.check_labels(validation[1], numbers, of, f"{config.split} of {what}")
    else:
        members = held_out.split(
            [f"{config.split}:{index}" for index in range(len(labels))],
            labels,
            config.validation_fraction,
            what,
        )
        train, validation = ((images[rows], labels[rows]) for rows in members)
    names = tuple(str(label) for label in numbers)
    places = [np.searchsorted(numbers, classes) for _, classes in (train, validation)]
    progress.say(class_names.describe_thin(names, places[0], places[1]))
    return splits.Opened(
        names,
        _make_split(train[0], places[0]),
        _make_split(validation[0], places[1]),
        {"path": _table(config)},
    )


def read_idx(path: StrPath) -> np.ndarray:
    """Returns the array of an IDX file of unsigned bytes, uint8.

    Its header is compared with the size of the file before the values are read.

    Args:
        path: the file; gzipped if its name ends in .gz.

    Raises:
        UserError: the file is of another kind, is cut short, or states more values than it can
            have.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"IDX file {path} is not there, or is no regular file")
    size, zipped = path.stat().st_size, path.suffix == ".gz"
    try:
        with gzip.open(path) if zipped else open(path, "rb") as file:
            shape, start = _read_header(file, path)
            count = math.prod(shape)
            if zipped:
                _check_growth(path, size, count)
            elif size - start != count:
                raise _damaged(path, shape, f"{size - start:,}")
            data = file.read(count + 1)
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        reason = shorten(str(error) or type(error).__name__)
        raise UserError(f"IDX file {path} cannot be read: {reason}") from None
    if len(data) != count:
        raise _damaged(path, shape, f"{len(data):,}" if len(data) < count else "more")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _read_header(file: BinaryIO | gzip.GzipFile, path: pathlib.Path) -> tuple[tuple[int, ...], int]:
    """Returns (the shape, the number of bytes before the values)."""
    data = file.read(4)
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise UserError(
            f"{path} is no IDX file of unsigned bytes: it starts with {data.hex()}, not with 000008"
        )
    lengths = file.read(4 * data[3])
    if data[3] > MOST_DIMENSIONS or len(lengths) < 4 * data[3]:
        raise UserError(
            f"IDX file {path} is damaged: its header says {data[3]} dimensions; at most "
            f"{MOST_DIMENSIONS} are allowed, of four bytes each"
        )
    return tuple(np.frombuffer(lengths, ">u4").tolist()), 4 + len(lengths)


def _check_growth(path: pathlib.Path, size: int, count: int) -> None:
    """Refuses a gzipped file that states more values than its images can have."""
    if count > MOST_BYTES or (count > 2**26 and count > MOST_GROWTH * size):
        raise UserError(
            f"IDX file {path} says {count:,} values and has {size:,} bytes; at most {MOST_GROWTH} "
            "times as many values as bytes, and 64 GiB, are allowed"
        )


def _damaged(path: pathlib.Path, shape: tuple[int, ...], found: str) -> UserError:
    return UserError(
        f"IDX file {path} is damaged: its header says {' x '.join(map(str, shape))} values, "
        f"but it holds {found}"
    )


def _read_pair(folder: str, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    images_path = _find(folder, f"{prefix}-images-idx3-ubyte")
    labels_path = _find(folder, f"{prefix}-labels-idx1-ubyte")
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or 0 in images.shape:
        raise UserError(
            f"{images_path} must hold [n, height, width] images; its shape is {list(images.shape)}"
        )
    if labels.ndim != 1:
        raise UserError(f"{labels_path} must hold [n] labels; its shape is {list(labels.shape)}")
    if len(labels) != len(images):
        raise UserError(
            f"{labels_path} holds {len(labels):,} labels, but {images_path.name} holds "
            f"{len(images):,} images; they must belong together"
        )
    return images, labels


def _find(folder: StrPath, name: str) -> pathlib.Path:
    folder = pathlib.Path(folder).expanduser()
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    prefixes = sorted(path.name.split("-images-")[0] for path in folder.glob("*-images-idx3-*"))
    found = f"prefixes found there: {', '.join(prefixes)}" if prefixes else "no IDX files are there"
    raise UserError(f"data.path {folder} has no file {name} or {name}.gz; {found}")


def _table(config: DataConfig) -> FileTable:
    """Returns the `FileTable` of the files that a config names."""
    assert config.path is not None  # DataConfig checks it
    prefixes = [config.split, *([config.validation_split] if config.validation_split else [])]
    names = [f"{p}-{kind}-ubyte" for p in prefixes for kind in ("images-idx3", "labels-idx1")]
    return FileTable.of(names, [_find(config.path, name) for name in names])


def _make_split(images: np.ndarray, labels: np.ndarray) -> splits.IndexedSplit:
    images = tf.constant(images[..., np.newaxis])  # [n, h, w, 1]
    return splits.make_array_split(images, tf.constant(labels.astype(np.int32)))
