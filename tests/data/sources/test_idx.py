import gzip
import os
import pathlib
import struct
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf

from vim_tf.config.sections import DataConfig
from vim_tf.data import hashing, images
from vim_tf.data.sources import idx
from vim_tf.errors import UserError

FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")  # Debian: dataset-fashion-mnist


def encode(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(folder, prefix="train", count=40, zipped=False, classes=3):
    rng = np.random.default_rng(count)
    pixels = rng.integers(0, 256, (count, 6, 8), dtype=np.uint8)
    labels = np.uint8(np.arange(count) % classes)
    for array, kind in ((pixels, "images-idx3"), (labels, "labels-idx1")):
        path = folder / f"{prefix}-{kind}-ubyte{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(encode(array)) if zipped else encode(array))
    return pixels, labels


def config(path, **more):
    return DataConfig(
        **{"source": "idx", "path": str(path), "image_size": (6, 8), "batch_size": 8, **more}
    )


def read_split(data, split):
    batches = list(data.evaluation(split))
    pixels = np.concatenate([batch["image"] for batch in batches])
    return np.round((pixels + 1) * 127.5), np.concatenate([batch["label"] for batch in batches])


@pytest.mark.parametrize("zipped", [True, False])
def test_round_trip(tmp_path, zipped):
    pixels, labels = write(tmp_path, zipped=zipped)
    test_images, test_labels = write(tmp_path, "t10k", 12, zipped)
    data = images.make_image_dataset(config(tmp_path, validation_split="t10k"), 0)
    assert data.class_names == ("0", "1", "2")
    assert (data.train_size, data.validation_size) == (40, 12)
    for split, expected, numbers in (
        ("train", pixels, labels),
        ("validation", test_images, test_labels),
    ):
        got, got_labels = read_split(data, split)
        np.testing.assert_array_equal(got, expected[..., None].repeat(3, -1))
        np.testing.assert_array_equal(got_labels, numbers)


def test_a_fraction_is_held_out(tmp_path):
    pixels, labels = write(tmp_path, count=300)
    data = images.make_image_dataset(config(tmp_path, validation_fraction=0.2), 0)
    parts = [read_split(data, split) for split in ("train", "validation")]
    assert 40 < data.validation_size < 80
    every = np.concatenate([part[0][..., 0] for part in parts])
    order = np.lexsort(every.reshape(300, -1).T)
    expected = np.lexsort(pixels.reshape(300, -1).T)
    np.testing.assert_array_equal(every[order], pixels[expected])
    numbers = np.concatenate([part[1] for part in parts])
    np.testing.assert_array_equal(numbers[order], labels[expected])


def test_labels_from_1_and_gaps(tmp_path, capsys):
    """EMNIST's letters have labels from 1 to 26."""
    pixels, _ = write(tmp_path)
    labels = np.uint8(np.arange(40) % 4 + 1)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(encode(labels))
    data = images.make_image_dataset(config(tmp_path), 0)
    assert data.class_names == ("1", "2", "3", "4")
    got, got_labels = read_split(data, "train")
    for image, label in zip(got, got_labels, strict=True):
        place = np.flatnonzero((pixels == image[..., 0]).all((1, 2)))[0]
        assert label == labels[place] - 1
    assert "count from 1; label 1 is class 0" in capsys.readouterr().err


def test_a_separate_split_has_the_same_classes(tmp_path):
    write(tmp_path)
    write(tmp_path, "t10k", 12, classes=5)
    with pytest.raises(UserError, match="t10k of data.path .* has the labels 3, 4, which no image"):
        images.make_image_dataset(config(tmp_path, validation_split="t10k"), 0)


def test_the_only_image_of_a_class_is_trained_on(tmp_path, capsys):
    write(tmp_path, count=300)
    hashes = hashing.hash_names(tf.constant([f"train:{index}" for index in range(300)])).numpy()
    labels = np.zeros(300, np.uint8)
    labels[hashes.argmin()] = 1  # would be held out
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(encode(labels))
    data = images.make_image_dataset(config(tmp_path), 0)
    assert (read_split(data, "train")[1] == 1).sum() == 1
    assert "1 has a single training image (1), 1 has no validation image (1)" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no IDX file of unsigned bytes: it starts with"),
        (b"\x89PNG....", "is no IDX file"),
        (b"\0\0\x0d\x01\0\0\0\x01....", "is no IDX file"),
        (b"\0\0\x08\x03\0\0", "is damaged"),
        (encode(np.zeros((2, 3, 4), np.uint8))[:-1], "2 x 3 x 4 values, but it holds 23"),
        (encode(np.zeros((2, 3, 4), np.uint8)) + b"!", "2 x 3 x 4 values, but it holds 25"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, message):
    write(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        images.make_image_dataset(config(tmp_path), 0)
    assert str(path) in str(caught.value)


def test_a_damaged_gzip_file_is_named(tmp_path):
    write(tmp_path, zipped=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    for damage in (path.read_bytes()[:200], b"no gzip", path.read_bytes()[:100] + b"x" * 400):
        path.write_bytes(damage)
        with pytest.raises(UserError, match="train-images-idx3-ubyte.gz cannot be read"):
            idx.read_idx(path)


def refused(path, message):
    with pytest.raises(UserError, match=message) as caught:
        idx.read_idx(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 2_000
    assert str(path) in str(caught.value)


def test_a_header_that_lies_allocates_nothing(tmp_path):
    header = struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1)
    plain, zipped = tmp_path / "x", tmp_path / "x.gz"
    plain.write_bytes(header + b"x")
    refused(plain, "4294967295 x 4294967295 x 4294967295 values, but it holds 1")
    zipped.write_bytes(gzip.compress(header + b"x"))
    refused(zipped, "says 79,[0-9,]+ values and has [0-9]+ bytes; at most 200 times")
    plain.write_bytes(b"\0\0\x08\xff" + b"\xff" * 4 * 255)
    refused(plain, "its header says 255 dimensions; at most 8")


def test_a_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "x.gz"
    zeros = bytes(2**27)
    path.write_bytes(gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, 2**27) + zeros, 1))
    refused(path, "says 134,217,728 values and has [0-9,]+ bytes")
    # A header that states too few values: at most one byte of the rest is read.
    path.write_bytes(gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, 5) + zeros, 1))
    tracemalloc.start()
    refused(path, "says 5 values, but it holds more")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_pipe_is_refused(tmp_path):
    for name in ("x", "x.gz"):
        os.mkfifo(tmp_path / name)
        refused(tmp_path / name, "no regular file")


def test_files_that_do_not_belong_together(tmp_path):
    write(tmp_path)
    labels = tmp_path / "train-labels-idx1-ubyte"
    labels.write_bytes(encode(np.zeros(39, np.uint8)))
    with pytest.raises(UserError, match="39 labels, but train-images-idx3-ubyte holds 40"):
        images.make_image_dataset(config(tmp_path), 0)
    labels.write_bytes(encode(np.zeros([], np.uint8)))  # a single number
    with pytest.raises(UserError, match=r"must hold \[n\] labels; its shape is \[\]"):
        images.make_image_dataset(config(tmp_path), 0)
    labels.unlink()
    with pytest.raises(UserError, match="no file train-labels-idx1-ubyte"):
        images.make_image_dataset(config(tmp_path), 0)
    with pytest.raises(UserError, match="prefixes found there: train$"):
        images.make_image_dataset(config(tmp_path, split="test"), 0)
    with pytest.raises(UserError, match="no IDX files are there"):
        images.make_image_dataset(config(tmp_path / "nowhere"), 0)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(encode(np.zeros(40, np.uint8)))
    labels.write_bytes(encode(np.zeros(40, np.uint8)))
    with pytest.raises(UserError, match=r"must hold \[n, height, width\] images"):
        images.make_image_dataset(config(tmp_path), 0)


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_as_debian_installs_it():
    settings = config(FASHION, split="t10k", image_size=(28, 28), batch_size=100)
    data = images.make_image_dataset(settings, 0)
    assert data.train_size + data.validation_size == 10_000
    assert data.class_names == tuple("0123456789")
    batch = next(iter(data.train()))
    assert batch["image"].shape == (100, 28, 28, 3)
    counts = sum(tf.math.bincount(part["label"], minlength=10) for part in data.evaluation())
    assert counts.numpy().min() > 50
