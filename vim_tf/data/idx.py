"""MNIST's file format: grey pictures of one size and their labels, gzipped or not.

The format: two zero bytes, 8 for unsigned bytes, the number of dimensions, each dimension as a
big-endian 32-bit integer, then the values (http://yann.lecun.com/exdb/mnist).
"""

import gzip
import math
import pathlib
import zlib

import numpy as np
import tensorflow as tf

from vim_tf.data import hashing, splits
from vim_tf.errors import UserError
from vim_tf.fingerprints import FileTable


def make_splits(config):
    """Returns (class names, training split, validation split, tables of files) of IDX files.

    Args:
        config: a `vim_tf.config.DataConfig`; reads `path`, `split`, `validation_split` (the
            prefixes of the file names) and `validation_fraction`.

    Raises:
        UserError: a file is missing, damaged or does not belong to the other.
    """
    pictures, labels = _read_pair(config.path, config.split)
    if config.validation_split is not None:
        held_out = _read_pair(config.path, config.validation_split)
    else:
        names = [f"{config.split}:{index}" for index in range(len(labels))]
        hashes = hashing.hash_names(tf.constant(names)).numpy()
        threshold = hashing.validation_threshold(
            hashes, config.validation_fraction, f"data.path {config.path}"
        )
        held_out = pictures[hashes < threshold], labels[hashes < threshold]
        pictures, labels = pictures[hashes >= threshold], labels[hashes >= threshold]
    classes = 1 + max(int(labels.max()), int(held_out[1].max()))
    return (
        tuple(str(label) for label in range(classes)),
        _make_split(pictures, labels),
        _make_split(*held_out),
        {"path": _table(config)},
    )


def read_idx(path):
    """Returns the array of an IDX file of unsigned bytes, uint8.

    Args:
        path: the file; gzipped if its name ends in .gz.

    Raises:
        UserError: not such a file, or cut short.
    """
    path = pathlib.Path(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"IDX file {path} cannot be read: {error}") from error
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise UserError(
            f"{path} is no IDX file of unsigned bytes: it starts with {data[:4].hex()}, "
            "not with 000008"
        )
    start = 4 + 4 * data[3]
    shape = tuple(np.frombuffer(data[4:start], ">u4", count=min(data[3], (len(data) - 4) // 4)))
    shape = tuple(int(length) for length in shape)
    if len(shape) < data[3] or len(data) != start + math.prod(shape):
        raise UserError(
            f"IDX file {path} is damaged: its header says {' x '.join(map(str, shape))} values, "
            f"but it holds {max(0, len(data) - start):,}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _read_pair(folder, prefix):
    pictures_path = _find(folder, f"{prefix}-images-idx3-ubyte")
    labels_path = _find(folder, f"{prefix}-labels-idx1-ubyte")
    pictures, labels = read_idx(pictures_path), read_idx(labels_path)
    if pictures.ndim != 3 or 0 in pictures.shape:
        raise UserError(
            f"{pictures_path} must hold [n, height, width] pictures; "
            f"its shape is {list(pictures.shape)}"
        )
    if labels.shape != pictures.shape[:1]:
        raise UserError(
            f"{labels_path} holds {len(labels):,} labels, but {pictures_path.name} holds "
            f"{len(pictures):,} pictures; they must belong together"
        )
    return pictures, labels


def _find(folder, name):
    folder = pathlib.Path(folder).expanduser()
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    prefixes = sorted(path.name.split("-images-")[0] for path in folder.glob("*-images-idx3-*"))
    found = f"prefixes found there: {', '.join(prefixes)}" if prefixes else "no IDX files are there"
    raise UserError(f"data.path {folder} has no file {name} or {name}.gz; {found}")


def _table(config):
    """The `FileTable` of the files that a config names."""
    prefixes = [config.split, *([config.validation_split] if config.validation_split else [])]
    names = [f"{p}-{kind}-ubyte" for p in prefixes for kind in ("images-idx3", "labels-idx1")]
    return FileTable.of(names, [_find(config.path, name) for name in names])


def _make_split(pictures, labels):
    pictures = tf.constant(pictures[..., np.newaxis])  # [n, h, w, 1]
    return splits.make_array_split(pictures, tf.constant(labels.astype(np.int32)))
