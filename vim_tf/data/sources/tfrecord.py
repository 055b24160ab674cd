"""TFRecord files with ImageNet's keys: image/encoded and, optionally, image/class/label and /text.

The labels of all files are read once at the start. Images are skipped: the header of a record
states its length, and so does each field of a tf.train.Example.
"""

import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import tensorflow as tf
from absl import logging
from google.protobuf.message import DecodeError

from vim_tf.annotations import StrPath, Tensor
from vim_tf.config.sections import DataConfig
from vim_tf.data import class_names, image_limits, left_out, progress, splits
from vim_tf.data.left_out import LeftOut
from vim_tf.data.sources import records
from vim_tf.errors import UserError
from vim_tf.messages import shorten

IMAGE, LABEL, TEXT = "image/encoded", "image/class/label", "image/class/text"
_NAME = r"tfrecord|-\d{5}-of-\d{5}"
_THREADS = 8
_HEADER = 12  # length and its checksum; after the record comes a checksum of 4 bytes


@dataclass(frozen=True)
class _Scanned:
    """The records of a pattern: their files, and what is known without decoding an image.

    Attributes:
        what: the config key and its value, for messages.
        files: the files.
        labels: [n] int64, in the order of the files; None without labels.
        texts: label -> its text, for labels that have one.
    """

    what: str
    files: list[records.RecordFile]
    labels: np.ndarray | None
    texts: dict[int, str]


def make_splits(config: DataConfig) -> splits.Opened:
    """Opens TFRecord files, and prints how labels are changed, and which classes are thin.

    Class i has the images of the i-th smallest label, see `class_names.number_labels`.

    Args:
        config: reads `path` and `validation_path` (a folder or a glob), `validation_fraction`,
            `on_error`, `convert_profiles` and `image_size`.

    Raises:
        UserError: there is no file, a file is not complete, a record lacks a key, or the labels
            are no numbers of classes.
    """
    assert config.path is not None  # DataConfig checks it
    omitted = LeftOut()
    train = _open(config.path, "data.path", config.on_error, omitted)
    numbers = None
    if train.labels is not None:
        numbers = class_names.number_labels(train.labels, train.what)
        progress.say(class_names.describe_numbers(numbers, train.what))
    names = () if numbers is None else _class_names(numbers, train.texts)
    parse, max_pixels = _make_parse(numbers), image_limits.pixel_limit(config.image_size)
    if config.validation_path is None:
        progress.say(omitted.line())
        pair = records.make_split_pair(
            train.files,
            parse,
            max_pixels,
            config.validation_fraction,
            train.what,
            config.convert_profiles,
        )
        if numbers is not None and train.labels is not None:
            held = pair[1].contains(train.files)
            _say_thin(names, numbers, train.labels[~held], train.labels[held])
        return splits.Opened(names, *pair, {"path": records.table_of(train.files)}, omitted)
    key = "data.validation_path"
    validation = _open(config.validation_path, key, config.on_error, omitted)
    if (train.labels is None) != (validation.labels is None):
        raise UserError(
            f"{train.what} has {'no ' if numbers is None else ''}labels, but {validation.what} has "
            f"{'no ' if validation.labels is None else ''}labels"
        )
    if numbers is not None and train.labels is not None and validation.labels is not None:
        class_names.check_labels(validation.labels, numbers, validation.what, train.what)
        _say_thin(names, numbers, train.labels, validation.labels)
    parts = {"path": train.files, "validation_path": validation.files}
    return splits.Opened(
        names,
        records.make_whole_split(train.files, parse, max_pixels, config.convert_profiles),
        records.make_whole_split(validation.files, parse, max_pixels, config.convert_profiles),
        {key: records.table_of(part) for key, part in parts.items()},
        omitted,
    )


def find_files(pattern: str, key: str, omitted: LeftOut) -> list[str]:
    """Returns the sorted paths that `pattern` names.

    Args:
        pattern: a glob; or a folder: its files with "tfrecord" or "-00000-of-00008" in their names
            are used. A path that exists is no glob.
        key: the config key, for errors.
        omitted: gets the other files of a folder.

    Raises:
        UserError: there is no file.
    """
    pattern = os.path.expanduser(pattern)
    if tf.io.gfile.isdir(pattern):
        paths = [os.path.join(pattern, name) for name in sorted(tf.io.gfile.listdir(pattern))]
        for path in paths:
            if not re.search(_NAME, os.path.basename(path)) and not tf.io.gfile.isdir(path):
                hidden = os.path.basename(path).startswith(".")
                kind = left_out.HIDDEN if hidden else left_out.OTHER
                omitted.add(kind, path, "its name is not that of a TFRecord file")
        paths = [path for path in paths if re.search(_NAME, os.path.basename(path))]
        wanted = "no file with tfrecord or -00000-of-00000 in its name is in this folder"
    else:
        # Brackets in the name of a file are no glob.
        paths = [pattern] if tf.io.gfile.exists(pattern) else tf.io.gfile.glob(pattern)
        wanted = "no file matches; give a folder or a glob such as /data/train-*"
    paths = sorted(path for path in paths if not tf.io.gfile.isdir(path))
    if not paths:
        raise UserError(f"{key} is {shorten(pattern)}: {wanted}")
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


def _open(pattern: str, key: str, on_error: str, omitted: LeftOut) -> _Scanned:
    paths, what = find_files(pattern, key, omitted), f"{key} {shorten(pattern)}"
    with ThreadPoolExecutor(_THREADS) as pool:
        scans = pool.map(lambda path: scan_file(path, on_error), paths)
        scans = list(progress.report(scans, len(paths), "TFRecord files read for their labels"))
    files = [
        records.RecordFile(path, 0, len(scan)) for path, scan in zip(paths, scans, strict=True)
    ]
    pairs = [pair for scan in scans for pair in scan]
    if not pairs:
        raise UserError(f"{what}: its TFRecord files hold no records")
    labels = [label for label, _ in pairs if label is not None]
    if not labels:
        return _Scanned(what, files, None, {})
    if len(labels) < len(pairs):
        raise UserError(f"{what}: some records have {LABEL}, others do not; all must, or none")
    texts = {
        label: text for label, text in sorted(set(pairs), key=str) if text and label is not None
    }
    return _Scanned(what, files, np.array(labels, np.int64), texts)


def _class_names(numbers: np.ndarray, texts: Mapping[int, str]) -> tuple[str, ...]:
    return tuple(texts.get(label, str(label)) for label in numbers.tolist())


def _say_thin(
    names: Sequence[str], numbers: np.ndarray, train: np.ndarray, validation: np.ndarray
) -> None:
    places = (np.searchsorted(numbers, labels) for labels in (train, validation))
    progress.say(class_names.describe_thin(names, *places))


def _make_parse(numbers: np.ndarray | None) -> records.Parse:
    """Returns the function record -> (encoded image, class); `numbers` are the classes' labels."""
    features = {IMAGE: tf.io.FixedLenFeature([], tf.string)}
    if numbers is None:
        return lambda record: (tf.io.parse_single_example(record, features)[IMAGE], tf.constant(0))
    features[LABEL] = tf.io.FixedLenFeature([], tf.int64)
    table = np.zeros(int(numbers[-1]) + 1, np.int32)
    table[numbers] = np.arange(len(numbers))
    table = tf.constant(table)

    def parse(record: Tensor) -> tuple[Tensor, Tensor]:
        example = tf.io.parse_single_example(record, features)
        return example[IMAGE], tf.gather(table, example[LABEL])

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
            f"{where} has no key {IMAGE}; its keys are {shorten(', '.join(sorted(keys))) or 'none'}"
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
