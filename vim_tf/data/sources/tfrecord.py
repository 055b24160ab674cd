"""TFRecord files with ImageNet's keys: image/encoded and, optionally, image/class/label and /text.

The labels of all files are read once at the start. Images are skipped: the header of a record
states its length, and so does each field of a tf.train.Example.
"""

import os
import re
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import tensorflow as tf
from absl import logging
from google.protobuf.message import DecodeError

from vim_tf.annotations import StrPath, Tensor
from vim_tf.config.sections import DataConfig
from vim_tf.data import image_limits, progress
from vim_tf.data.sources import records
from vim_tf.errors import UserError
from vim_tf.fingerprints import FileTable

IMAGE, LABEL, TEXT = "image/encoded", "image/class/label", "image/class/text"
_THREADS = 8
_HEADER = 12  # length and its checksum; after the record comes a checksum of 4 bytes
_MOST_CLASSES = 1_000_000


def make_splits(
    config: DataConfig,
) -> tuple[tuple[str, ...], records.RecordSplit, records.RecordSplit, dict[str, FileTable]]:
    """Returns (class names, training split, validation split, tables of files) of TFRecord files.

    Labels are not changed. If they start at 1, as in the usual ImageNet files, class 0 exists and
    is empty.

    Args:
        config: reads `path` and `validation_path` (a folder or a glob), `validation_fraction`,
            `on_error`, `convert_profiles` and `image_size`.

    Raises:
        UserError: there is no file, a file is not complete, or a record lacks a key.
    """
    assert config.path is not None  # DataConfig checks it
    files, names = _open(config.path, "data.path", config.on_error)
    max_pixels = image_limits.pixel_limit(config.image_size)
    if config.validation_path is None:
        what = f"data.path {config.path}"
        parse = _make_parse(labelled=bool(names))
        pair = records.make_split_pair(
            files, parse, max_pixels, config.validation_fraction, what, config.convert_profiles
        )
        return names, *pair, {"path": records.table_of(files)}
    held_out, own_names = _open(config.validation_path, "data.validation_path", config.on_error)
    if bool(names) != bool(own_names):
        raise UserError(
            f"data.path {config.path} has {'' if names else 'no '}labels, but data.validation_path "
            f"{config.validation_path} has {'' if own_names else 'no '}labels"
        )
    if len(own_names) > len(names):
        raise UserError(
            f"data.validation_path {config.validation_path} has labels up to {len(own_names) - 1}, "
            f"but those of data.path {config.path} end at {len(names) - 1}"
        )
    parse = _make_parse(labelled=bool(names))
    train, validation = (
        records.make_whole_split(part, parse, max_pixels, config.convert_profiles)
        for part in (files, held_out)
    )
    tables = {"path": files, "validation_path": held_out}
    return names, train, validation, {key: records.table_of(part) for key, part in tables.items()}


def find_files(pattern: str, key: str) -> list[str]:
    """Returns the sorted paths that `pattern` names.

    Args:
        pattern: a glob; or a folder: its files with "tfrecord" or "-00000-of-00008" in their names
            are used.
        key: the config key, for errors.

    Raises:
        UserError: there is no file.
    """
    pattern = os.path.expanduser(pattern)
    if tf.io.gfile.isdir(pattern):
        names = tf.io.gfile.listdir(pattern)
        names = [name for name in names if re.search(r"tfrecord|-\d{5}-of-\d{5}", name)]
        paths = [os.path.join(pattern, name) for name in names]
        wanted = "no file with tfrecord or -00000-of-00000 in its name is in this folder"
    else:
        paths = tf.io.gfile.glob(pattern)
        wanted = "no file matches; give a folder or a glob such as /data/train-*"
    paths = sorted(path for path in paths if not tf.io.gfile.isdir(path))
    if not paths:
        raise UserError(f"{key} is {pattern}: {wanted}")
    return paths


def scan_file(path: StrPath, on_error: str = "stop") -> list[tuple[int | None, str | None]]:
    """Reads the labels of one file and skips its images.

    Args:
        path: a TFRecord file, not compressed.
        on_error: "skip" leaves out the bytes after the last complete record.

    Returns:
        A list of (label, text), one per record; None if the record has no such key.

    Raises:
        UserError: the file is cut short or no TFRecord file, or a record has no image/encoded.
    """
    found: list[tuple[int | None, str | None]] = []
    with _open_file(path) as file:
        end = file.seek(0, os.SEEK_END) or file.tell()
        start = 0
        while start < end:
            header = _bytes_at(file, start, start + _HEADER)
            length = struct.unpack("<Q", header[:8])[0] if len(header) == _HEADER else end
            if start + _HEADER + length + 4 > end:
                message = (
                    f"TFRecord file {path} is cut short, compressed or no TFRecord file: record "
                    f"{len(found)} does not end within its {end:,} bytes"
                )
                if on_error == "stop" or not found:
                    raise UserError(message)
                logging.warning("%s; read without it", message)
                break
            where = f"record {len(found)} of {path}"
            found.append(_scan_record(file, start + _HEADER, start + _HEADER + length, where))
            start += _HEADER + length + 4
    return found


def _open(
    pattern: str, key: str, on_error: str
) -> tuple[list[records.RecordFile], tuple[str, ...]]:
    paths = find_files(pattern, key)
    with ThreadPoolExecutor(_THREADS) as pool:
        scans = pool.map(lambda path: scan_file(path, on_error), paths)
        scans = list(progress.report(scans, len(paths), "TFRecord files read for their labels"))
    files = [
        records.RecordFile(path, 0, len(scan)) for path, scan in zip(paths, scans, strict=True)
    ]
    pairs = {pair for scan in scans for pair in scan}
    if not pairs:
        raise UserError(f"{key} is {pattern}: its TFRecord files hold no records")
    return files, _class_names(pairs, f"{key} {pattern}")


def _class_names(pairs: set[tuple[int | None, str | None]], what: str) -> tuple[str, ...]:
    labels = {label for label, _ in pairs if label is not None}
    if not labels:
        return ()
    if any(label is None for label, _ in pairs):
        raise UserError(f"{what}: some records have {LABEL}, others do not; all must, or none")
    if min(labels) < 0 or max(labels) >= _MOST_CLASSES:
        wrong = min(labels) if min(labels) < 0 else max(labels)
        raise UserError(f"{what}: {LABEL} {wrong} is out of range; labels count from 0 or from 1")
    texts = {label: text for label, text in sorted(pairs, key=str) if text}
    return tuple(texts.get(label, str(label)) for label in range(max(labels) + 1))


def _make_parse(labelled: bool) -> records.Parse:
    features = {IMAGE: tf.io.FixedLenFeature([], tf.string)}
    if labelled:
        features[LABEL] = tf.io.FixedLenFeature([], tf.int64)

    def parse(record: Tensor) -> tuple[Tensor, Tensor]:
        example = tf.io.parse_single_example(record, features)
        return example[IMAGE], tf.cast(example.get(LABEL, 0), tf.int32)

    return parse


def _open_file(path: StrPath) -> BinaryIO:
    # Python's files skip images without reading them; GFile supports gs:// and similar paths.
    return tf.io.gfile.GFile(path, "rb") if "://" in str(path) else open(path, "rb")


def _scan_record(file: BinaryIO, start: int, end: int, where: str) -> tuple[int | None, str | None]:
    values, keys = {}, []
    try:
        for _, features_start, features_end in _fields(file, start, end):
            for _, entry_start, entry_end in _fields(file, features_start, features_end):
                entry = {
                    number: bounds for number, *bounds in _fields(file, entry_start, entry_end)
                }
                key = _bytes_at(file, *entry[1]).decode()
                keys.append(key)
                if key in (LABEL, TEXT):
                    values[key] = tf.train.Feature.FromString(_bytes_at(file, *entry[2]))
        label = values[LABEL].int64_list.value[0] if LABEL in values else None
        text = values[TEXT].bytes_list.value[0].decode() if TEXT in values else None
    except (ValueError, KeyError, IndexError, DecodeError) as error:
        raise UserError(f"{where} is no tf.train.Example with the keys of ImageNet") from error
    if IMAGE not in keys:
        raise UserError(
            f"{where} has no key {IMAGE}; its keys are {', '.join(sorted(keys)) or 'none'}"
        )
    return label, text


def _fields(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields (field number, start, end) of the length-delimited fields of a protocol buffer."""
    while start < end:
        head = _bytes_at(file, start, min(start + 20, end))
        tag, used = _varint(head, 0)
        length, used = _varint(head, used)
        if tag & 7 != 2 or start + used + length > end:
            raise ValueError("not a message of length-delimited fields")
        yield tag >> 3, start + used, start + used + length
        start += used + length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def _bytes_at(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)
