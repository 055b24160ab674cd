"""Reads the images that `build_styles` made from tiny packages."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from vim_tf import formats
from vim_tf.config.sections import DataConfig
from vim_tf.data import images
from vim_tf.data.sources import styles as source
from vim_tf.errors import DamagedError, UserError


def configure(folder, **settings):
    settings = {"image_size": (16, 16), "batch_size": 8, **settings}
    return DataConfig(source="styles", path=str(folder), **settings)


def records(folder, split, key):
    """([n, 16, 16, 3] uint8, [n] labels) of a split, as its files hold them."""
    pixels, labels = [], []
    for path in sorted(folder.glob(f"{split}-*")):
        for data in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            features = tf.train.Example.FromString(data).features.feature
            encoded = features["image/encoded"].bytes_list.value[0]
            pixels.append(tf.io.decode_png(encoded).numpy())
            labels.append(features[key].int64_list.value[0])
    return np.array(pixels), np.array(labels)


@pytest.mark.parametrize(
    ("label", "key"),
    [
        (None, "image/class/label"),
        ("group", "image/class/label"),
        ("style", "style/label"),
        ("group_and_style", "group_and_style/label"),
    ],
)
def test_each_label_gives_its_classes(styles, label, key):
    names, train, validation, tables, _ = source.make_splits(configure(styles, label=label))
    classes = json.loads((styles / "styles.json").read_text())["classes"]
    assert list(names) == classes[label or "group"]
    for split, found in (("train", train), ("tune", validation)):
        pixels, labels = records(styles, split, key)
        loaded = found.load(tf.range(found.size, dtype=tf.int64))
        np.testing.assert_array_equal(loaded[0], pixels)
        np.testing.assert_array_equal(loaded[1], labels)
        assert loaded[0].dtype == tf.uint8 and loaded[1].dtype == tf.int32
    assert [name.split("-")[0] for name in tables["path"].names] == ["train", "tune"]


@pytest.mark.parametrize("split", [None, "tune", "report", "pairs"])
def test_each_split_can_be_held_out(styles, split):
    validation = source.make_splits(configure(styles, validation_split=split))[2]
    counts = json.loads((styles / "styles.json").read_text())["images"]
    assert validation.size == counts[split or "tune"] > 0


def test_batches_are_those_of_every_source(styles):
    data = images.make_image_dataset(configure(styles), seed=0)
    batch = next(iter(data.train()))
    assert batch["image"].shape == (8, 16, 16, 3) and batch["image"].dtype == tf.float32
    assert data.class_names[0] == "Animals & Nature"
    other = images.make_image_dataset(configure(styles, label="style"), seed=0)
    assert data.difference(other.fingerprint(), {}) is not None


def test_tfrecord_reads_the_same_files(styles):
    config = DataConfig(
        source="tfrecord",
        path=f"{styles}/train-*",
        validation_path=f"{styles}/report-*",
        image_size=(16, 16),
        batch_size=8,
    )
    data = images.make_image_dataset(config, seed=0)
    ours = images.make_image_dataset(configure(styles, validation_split="report"), seed=0)
    assert data.class_names == ours.class_names
    assert (data.train_size, data.validation_size) == (ours.train_size, ours.validation_size)
    for theirs, own in zip(data.evaluation(), ours.evaluation(), strict=True):
        np.testing.assert_array_equal(theirs["label"], own["label"])
        np.testing.assert_allclose(theirs["image"], own["image"], atol=1e-5)


def test_a_label_that_the_images_lack_is_refused(build_styles, tmp_path):
    folder = build_styles(tmp_path / "icons", "--sets", "icons")
    for label in (None, "group", "group_and_style"):
        with pytest.raises(UserError, match=f"data.label is {label or 'group'}, but .*: style$"):
            source.make_splits(configure(folder, label=label))
    assert source.make_splits(configure(folder, label="style"))[0] == ("dots", "lines")


def test_too_many_images_for_memory_are_refused(styles, monkeypatch):
    monkeypatch.setattr(source, "MOST_BYTES", 16 * 16 * 3 * 10)
    with pytest.raises(UserError, match="16 x 16 pixels, .* with data.source: tfrecord, data.path"):
        source.make_splits(configure(styles))


def test_another_folder_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match="which has no styles.json; give a folder that"):
            source.make_splits(configure(path))


def test_a_damaged_data_set_is_refused(styles, tmp_path):
    folder = tmp_path / "styles"
    shutil.copytree(styles, folder)
    train = folder / "train-00000-of-00001.tfrecord"
    whole = train.read_bytes()

    def refused(match):
        with pytest.raises(DamagedError, match=match):
            source.make_splits(configure(folder))

    train.write_bytes(whole[:2000] + b"x" + whole[2001:])
    refused(r"a file of train-\* .* is damaged: ")
    length = int.from_bytes(whole[:8], "little")
    train.write_bytes(whole[: 12 + length + 4])  # the first record alone
    refused(r"the files train-\* do not fit styles.json, which states 3\d\d images of 5 classes")
    with tf.io.TFRecordWriter(str(train)) as writer:
        writer.write(b"\x0a\xff\xb8" * 20)  # TensorFlow's message quotes it, and it is no text
    refused(r"a file of train-\* .* is damaged: a record cannot be parsed")
    train.unlink()
    refused("train-00000-of-00001.tfrecord is missing; build it again")
    (folder / "styles.json").write_text((styles / "styles.json").read_text().replace("16", "17"))
    refused("styles.json is damaged: its checksum does not fit")


def test_labels_beyond_the_classes_are_refused(styles, tmp_path):
    folder = tmp_path / "styles"
    shutil.copytree(styles, folder)
    content = formats.read_json(folder / "styles.json", "styles", "")
    content["classes"]["style"].pop()
    (folder / "styles.json").write_text(formats.to_json("styles", content))
    with pytest.raises(DamagedError, match="do not fit styles.json, which states .* of 3 classes"):
        source.make_splits(configure(folder, label="style"))
