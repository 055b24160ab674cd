"""TFRecord files with ImageNet's keys: image/encoded and, optionally, image/class/label and /text.

The files are read once at the start for their labels, record by record, over the images: where
a record ends stands in its header, and where a field of a tf.train.Example ends stands before it.
"""

import os
import re
import struct
from concurrent.futures import ThreadPoolExecutor

import tensorflow as tf
from absl import logging
from google.protobuf.message import DecodeError

from vim_tf.data import image_limits, progress
from vim_tf.data.sources import records
from vim_tf.errors import UserError

IMAGE, LABEL, TEXT = "image/encoded", "image/class/label", "image/class/text"
_THREADS = 8
_HEADER = 12  # length and its checksum; the record's own checksum of 4 bytes follows it
_MOST_CLASSES = 1_000_000


def make_splits(config):
    """Returns (class names, training split, validation split, tables of files) of TFRecord files.

    Labels are taken as they are. Where they count from 1, as in the usual ImageNet files, class 0
    exists and stays empty.

    Args:
        config: a `config.sections.DataConfig`; reads `path` and `validation_path` (a folder or a
            glob), `validation_fraction`, `on_error` and `image_size`.

    Raises:
        UserError: no file, a file that is not whole, or a record without the keys.
    """
    files, names = _open(config.path, "data.path", config.on_error)
    max_pixels = image_limits.pixel_limit(config.image_size)
    if config.validation_path is None:
        what = f"data.path {config.path}"
        parse = _make_parse(labelled=bool(names))
        pair = records.make_split_pair(files, parse, max_pixels, config.validation_fraction, what)
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
    parts = [records.make_whole_split(part, parse, max_pixels) for part in (files, held_out)]
    tables = {"path": files, "validation_path": held_out}
    return names, *parts, {key: records.table_of(part) for key, part in tables.items()}


def find_files(pattern, key):
    """Returns the sorted paths that `data.path` names.

    Args:
        pattern: a glob; or a folder, of which files with "tfrecord" or "-00000-of-00008" in
            their names count.
        key: the config key, for the error.

    Raises:
        UserError: there is none.
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


def scan_file(path, on_error="stop"):
    """Reads the labels of one file, over its images.

    Args:
        path: a TFRecord file, not compressed.
        on_error: "skip" leaves out what follows after the last whole record.

    Returns:
        A list of (label, text), one a record; None where the record has no such key.

    Raises:
        UserError: cut short, no TFRecord file, or a record without image/encoded.
    """
    found = []
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


def _open(pattern, key, on_error):
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


def _class_names(pairs, what):
    labels = {label for label, _ in pairs}
    if labels == {None}:
        return ()
    if None in labels:
        raise UserError(f"{what}: some records have {LABEL}, others do not; all must, or none")
    if min(labels) < 0 or max(labels) >= _MOST_CLASSES:
        wrong = min(labels) if min(labels) < 0 else max(labels)
        raise UserError(f"{what}: {LABEL} {wrong} is out of range; labels count from 0 or from 1")
    texts = {label: text for label, text in sorted(pairs, key=str) if text}
    return tuple(texts.get(label, str(label)) for label in range(max(labels) + 1))


def _make_parse(labelled):
    features = {IMAGE: tf.io.FixedLenFeature([], tf.string)}
    if labelled:
        features[LABEL] = tf.io.FixedLenFeature([], tf.int64)

    def parse(record):
        example = tf.io.parse_single_example(record, features)
        return example[IMAGE], tf.cast(example.get(LABEL, 0), tf.int32)

    return parse


def _open_file(path):
    # Python's own files skip over images without reading them; GFile knows gs:// and the like.
    return tf.io.gfile.GFile(path, "rb") if "://" in str(path) else open(path, "rb")


def _scan_record(file, start, end, where):
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


def _fields(file, start, end):
    """Yields (field number, start, end) of the length-delimited fields of a protocol buffer."""
    while start < end:
        head = _bytes_at(file, start, min(start + 20, end))
        tag, used = _varint(head, 0)
        length, used = _varint(head, used)
        if tag & 7 != 2 or start + used + length > end:
            raise ValueError("not a message of length-delimited fields")
        yield tag >> 3, start + used, start + used + length
        start += used + length


def _varint(data, place):
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def _bytes_at(file, start, end):
    file.seek(start)
    return file.read(end - start)
