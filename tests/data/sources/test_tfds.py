import numpy as np
import pytest
import tensorflow_datasets as tfds

from vim_tf.config.sections import AugmentationConfig, DataConfig
from vim_tf.data import images
from vim_tf.errors import UserError


def make_image(number):
    return np.full((6, 8, 3), (number, 255 - number, 7), np.uint8)


class TinyImages(tfds.core.GeneratorBasedBuilder):
    """30 images of one colour for training and 6 for testing."""

    VERSION = tfds.core.Version("1.0.0")
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=["no", "yes"]),
        "note": tfds.features.Text(),
    }

    def _info(self):
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(self.features))

    def _split_generators(self, manager):
        del manager
        return {"train": self._generate_examples(0, 30), "test": self._generate_examples(30, 36)}

    def _generate_examples(self, start, end):
        for number in range(start, end):
            row = {"image": make_image(number), "label": number % 2, "note": "n"}
            yield number, {key: value for key, value in row.items() if key in self.features}


class TinyUnlabelled(TinyImages):
    features = {"image": tfds.features.Image(shape=(None, None, 3))}


class TinyTexts(TinyImages):
    features = {"note": tfds.features.Text()}


class TinyArrays(TinyImages):
    pass


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tfds"))
    for builder in (TinyImages, TinyUnlabelled, TinyTexts):
        builder(data_dir=folder).download_and_prepare()
    return folder


def config(data_dir, name="tiny_images", **more):
    return DataConfig(
        source="tfds",
        path=data_dir,
        name=name,
        **{
            "image_size": (6, 8),
            "batch_size": 4,
            "augmentation": AugmentationConfig(crop="center", flip=False),
            **more,
        },
    )


def read(batches):
    rows = [
        (round((float(image[0, 0, 0]) + 1) * 127.5), int(label))
        for batch in batches
        for image, label in zip(batch["image"], batch["label"], strict=True)
    ]
    return rows


def test_splits_of_its_own(data_dir):
    data = images.make_image_dataset(config(data_dir, validation_split="test"), 0)
    assert data.class_names == ("no", "yes")
    assert (data.train_size, data.validation_size) == (30, 6)
    for split, start, end in (("train", 0, 30), ("validation", 30, 36)):
        rows = read(data.evaluation(split))
        assert sorted(rows) == [(number, number % 2) for number in range(start, end)]


def test_a_fraction_is_held_out_and_order_follows_the_seed(data_dir):
    data = images.make_image_dataset(config(data_dir, validation_fraction=0.3), 0)
    train, held_out = read(data.evaluation("train")), read(data.evaluation())
    assert sorted(train + held_out) == [(number, number % 2) for number in range(30)]
    assert len(train) == data.train_size and len(held_out) == data.validation_size
    whole = read(data.train().take(8))
    assert read(data.train(12).take(5)) == whole[12:]
    assert sorted(whole[: len(train)]) == sorted(train)


def test_slices_of_splits(data_dir):
    settings = config(data_dir, split="train[:10]", validation_split="train[10:15]")
    data = images.make_image_dataset(settings, 0)
    assert (data.train_size, data.validation_size) == (10, 5)
    stored = read(
        images.make_image_dataset(config(data_dir, validation_split="test"), 0).evaluation("train")
    )
    assert read(data.evaluation("train")) == stored[:10]
    assert read(data.evaluation()) == stored[10:15]


def test_images_without_labels(data_dir):
    data = images.make_image_dataset(config(data_dir, "tiny_unlabelled"), 0)
    assert data.class_names == ()
    assert all(label == 0 for _, label in read(data.evaluation("train")))


def test_an_error_without_words_is_named_by_its_kind(data_dir, monkeypatch):
    def fail(name, data_dir):
        raise AssertionError

    monkeypatch.setattr(tfds, "builder", fail)
    with pytest.raises(UserError, match="cannot open it: AssertionError"):
        images.make_image_dataset(config(data_dir), 0)


def test_mistakes(data_dir):
    for settings, message in (
        (config(data_dir, "no_such_set"), "data.name is no_such_set; .* cannot open it"),
        (config(data_dir, "a b"), "data.name is a b; .* cannot open it"),
        (config(data_dir, "tiny_texts"), "has no feature image; its features are note"),
        (config(data_dir, "cifar10"), "not prepared in .*; run: tfds build cifar10 --data_dir"),
        (config(data_dir, split="valid"), "data.split is valid; .* are train, test, and slices"),
        (
            config(
                data_dir,
                validation_split="x[",
            ),
            r"data.validation_split is x\[",
        ),
    ):
        with pytest.raises(UserError, match=message) as caught:
            images.make_image_dataset(settings, 0)
        assert "\n" not in str(caught.value)


def test_another_file_format_is_refused(tmp_path, monkeypatch):
    TinyArrays(data_dir=str(tmp_path)).download_and_prepare()
    monkeypatch.setattr(tfds.core.DatasetInfo, "file_format", tfds.core.FileFormat.ARRAY_RECORD)
    with pytest.raises(UserError, match="is stored as array_record.* --file_format tfrecord"):
        images.make_image_dataset(config(str(tmp_path), "tiny_arrays"), 0)
