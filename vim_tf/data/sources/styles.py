"""Images that `vim_tf.data.build_styles` made; the class is their group, their style, or both."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from vim_tf import formats
from vim_tf.annotations import Tensor
from vim_tf.config.sections import DataConfig
from vim_tf.data import decoding, image_limits, splits
from vim_tf.data.styles import writing
from vim_tf.errors import DamagedError, UserError
from vim_tf.fingerprints import FileTable
from vim_tf.messages import reason_of

MOST_BYTES = 2**31  # of the pixels of both splits, which are kept in memory
KEYS = {
    "group": "image/class/label",
    "style": "style/label",
    "group_and_style": "group_and_style/label",
}
_ADVICE = "build it again with python -m vim_tf.data.build_styles"


def make_splits(config: DataConfig) -> splits.Opened:
    """Returns (class names, training split, validation split, tables of files).

    Args:
        config: reads `path`, `label` and `validation_split`.

    Raises:
        UserError: the folder is no such data set, lacks the label, or is too large for memory.
        DamagedError: a file was changed, cut short or lost after it was written.
    """
    assert config.path is not None  # DataConfig checks it
    folder = Path(config.path).expanduser()
    about = read_about(folder)
    label, held_out = config.label or "group", config.validation_split or "tune"
    names = about["classes"][label]
    if not names:
        known = [key for key, classes in about["classes"].items() if classes]
        raise UserError(
            f"data.label is {label}, but the images of data.path {folder} have no {label}; "
            f"set data.label: {' or '.join(known)}"
        )
    used = ("train", held_out)
    size, images = about["size"], sum(about["images"][split] for split in used)
    if images * size * size * 3 > MOST_BYTES:
        raise UserError(
            f"data.path {folder} has {images:,} images of {size} x {size} pixels, which are more "
            f"than the {MOST_BYTES:,} bytes that are kept in memory; read the files with "
            f"data.source: tfrecord, data.path: {folder}/train-* and "
            f"data.validation_path: {folder}/{held_out}-*"
        )
    paths = [
        folder / name for split in used for name in writing.file_names(split, about["files"][split])
    ]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DamagedError(f"{missing[0]} is missing; {_ADVICE}")
    train, validation = (_read_split(folder, split, about, label) for split in used)
    table = FileTable.of([path.name for path in paths], paths)
    return splits.Opened(tuple(names), train, validation, {"path": table})


def read_about(folder: Path) -> dict[str, Any]:
    """Returns the content of a folder's styles.json, see `writing.SCHEMA`.

    Raises:
        UserError: the folder holds no data set of this source.
        DamagedError: styles.json is damaged.
    """
    path = folder / writing.ABOUT
    try:
        return formats.read_json(path, "styles", _ADVICE, writing.SCHEMA)
    except FileNotFoundError:
        raise UserError(
            f"data.path is {folder}, which has no {writing.ABOUT}; give a folder that "
            "python -m vim_tf.data.build_styles made"
        ) from None


def _read_split(folder: Path, split: str, about: dict[str, Any], label: str) -> splits.IndexedSplit:
    size, count, classes = about["size"], about["images"][split], len(about["classes"][label])
    if not count:
        none = np.zeros([0, size, size, 3], np.uint8)
        return splits.make_array_split(none, np.zeros([0], np.int32))
    files = [str(folder / name) for name in writing.file_names(split, about["files"][split])]
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        KEYS[label]: tf.io.FixedLenFeature([], tf.int64),
    }

    def parse(record: Tensor) -> tuple[Tensor, Tensor]:
        example = tf.io.parse_single_example(record, features)
        image = decoding.decode_oriented(example["image/encoded"], image_limits.LEAST)
        return tf.ensure_shape(image, [size, size, 3]), tf.cast(example[KEYS[label]], tf.int32)

    dataset = tf.data.TFRecordDataset(files).map(parse, tf.data.AUTOTUNE)
    try:
        images, labels = dataset.batch(count + 1).get_single_element()
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        # TensorFlow's message may quote bytes of the record, which are no text.
        is_text = isinstance(error, tf.errors.OpError)
        reason = reason_of(error) if is_text else "a record cannot be parsed"
        raise DamagedError(
            f"a file of {split}-* in data.path {folder} is damaged: {reason}; {_ADVICE}"
        ) from None
    if len(images) != count or not 0 <= labels.numpy().min() <= labels.numpy().max() < classes:
        raise DamagedError(
            f"data.path {folder}: the files {split}-* do not fit {writing.ABOUT}, which states "
            f"{count:,} images of {classes} classes; {_ADVICE}"
        )
    return splits.make_array_split(images, labels)
