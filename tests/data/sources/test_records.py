"""Encoded images in TFRecords from a stranger."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from vim_tf.config.sections import AugmentationConfig, DataConfig
from vim_tf.data import image_limits, images

SIZE = (65, 64)  # just above the limit of a model of 8 x 8, without the lower bound of the limit


def encode(kind, size=(8, 8), mode="L", **options):
    file = io.BytesIO()
    Image.new(mode, size, 200).save(file, kind, **options)
    return file.getvalue()


def bombs():
    moving = {"save_all": True, "append_images": [Image.new("RGB", SIZE)]}
    return {
        "PNG": encode("PNG", SIZE),
        "GIF": encode("GIF", SIZE),
        "BMP": encode("BMP", SIZE, "1"),
        "WebP": encode("WEBP", SIZE, "RGB"),
        "moving WebP": encode("WEBP", SIZE, "RGB", **moving),
        "progressive JPEG": encode("JPEG", SIZE, progressive=True),
    }


@pytest.fixture
def open_data(tmp_path, monkeypatch):
    """A function that opens a file of twelve good records with some bombs between them."""
    monkeypatch.setattr(image_limits, "LEAST", 1)

    def open_records(*bombs, **more):
        with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
            for data in (*[encode("PNG")] * 6, *bombs, *[encode("PNG")] * 6):
                value = tf.train.BytesList(value=[data])
                feature = {"image/encoded": tf.train.Feature(bytes_list=value)}
                features = tf.train.Features(feature=feature)
                writer.write(tf.train.Example(features=features).SerializeToString())
        settings = {
            "image_size": (8, 8),
            "batch_size": 4,
            "validation_path": str(tmp_path),
            "augmentation": AugmentationConfig(crop="center", flip=False),
            **more,
        }
        config = DataConfig(source="tfrecord", path=str(tmp_path), **settings)
        return images.make_image_dataset(config, 0)

    return open_records


def test_a_bomb_is_named(open_data):
    data = open_data(bombs()["PNG"])
    for reading in (data.evaluation(), data.train().take(4)):
        with pytest.raises(tf.errors.OpError, match="cannot be decoded") as caught:
            list(reading)
        error = str(images.as_user_error(caught.value))
        assert error.startswith("record a.tfrecord:6 cannot be decoded: it is damaged")
        assert "more pixels than docs/data.md allows" in error and "\n" not in error


def test_bombs_of_all_formats_are_left_out(open_data):
    data = open_data(*bombs().values(), on_error="skip")
    assert data.validation_size == 12 + 6
    read = np.concatenate([batch["image"] for batch in data.evaluation()])
    assert len(read) == 12
    np.testing.assert_allclose(read, 200 / 127.5 - 1, atol=1e-5)
    assert len(list(data.train().take(5))) == 5


def test_a_larger_model_takes_what_a_smaller_one_refuses(open_data):
    data = open_data(encode("PNG", SIZE), image_size=(8, 9))
    for reading in (data.evaluation(), data.evaluation("train")):
        assert sum(len(batch["label"]) for batch in reading) == 13
