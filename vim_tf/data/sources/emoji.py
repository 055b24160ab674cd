"""The built-in source: 3,786 Noto emoji of 32 x 32 pixels; the class is their category."""

import os
from importlib import resources

import tensorflow as tf

from vim_tf.annotations import Tensor
from vim_tf.config.sections import DataConfig
from vim_tf.data import hashing, splits
from vim_tf.fingerprints import FileTable


def make_splits(config: DataConfig) -> splits.Opened:
    """Returns (class names, training split, validation split, tables of files) of the emoji.

    The images are split by a hash of the base emoji, so all skin tones of an emoji are in the same
    split.

    Args:
        config: reads `validation_fraction`.
    """
    images, labels, names, bases, table = _read()
    hashes = hashing.hash_names(bases).numpy()
    threshold = hashing.validation_threshold(hashes, config.validation_fraction, "emoji")
    train, validation = (
        splits.make_array_split(images[members], labels[members])
        for members in (hashes >= threshold, hashes < threshold)
    )
    return splits.Opened(names, train, validation, {"source": table})


def _read() -> tuple[Tensor, Tensor, tuple[str, ...], Tensor, FileTable]:
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        "image/class/text": tf.io.FixedLenFeature([], tf.string),
        "emoji/base": tf.io.FixedLenFeature([], tf.string),
    }

    def parse(record: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        example = tf.io.parse_single_example(record, features)
        image = tf.io.decode_png(example["image/encoded"], channels=3)
        label = tf.cast(example["image/class/label"], tf.int32)
        return image, label, example["image/class/text"], example["emoji/base"]

    with resources.as_file(resources.files("vim_tf.data.sources") / "emoji") as folder:
        files = sorted(str(file) for file in folder.glob("*.tfrecord"))
        dataset = tf.data.TFRecordDataset(files).map(parse, tf.data.AUTOTUNE)
        images, labels, texts, bases = dataset.batch(10_000).get_single_element()
        table = FileTable.of([os.path.basename(file) for file in files], files)
    # Sorted by label: `build_emoji` numbers the classes.
    names = dict(sorted(zip(labels.numpy().tolist(), texts.numpy().tolist(), strict=True)))
    return images, labels, tuple(name.decode() for name in names.values()), bases, table
