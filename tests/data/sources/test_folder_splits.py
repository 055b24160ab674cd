"""Folders as their owners have them: odd names, copies, few images, sizes that are no images."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from vim_tf.config.sections import DataConfig
from vim_tf.data import hashing, images
from vim_tf.data.sources import folder as folder_source
from vim_tf.errors import UserError


@pytest.fixture(autouse=True)
def headers_only(monkeypatch):
    """Opening decodes no image, as this would take a second."""
    monkeypatch.setattr(folder_source, "MEMORY", 0)
    monkeypatch.setattr(folder_source, "CHECKED", 0)


def save(path, seed, size=(8, 8)):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, "png")


def open_folder(path, **more):
    settings = {"image_size": (8, 8), "batch_size": 4, "validation_fraction": 0.3, **more}
    return images.make_image_dataset(DataConfig(source="folder", path=str(path), **settings), 0)


def contents(data, split):
    """The bytes of each file of a split."""
    source = data.splits[split]
    numbers = range(source.size)
    paths = [source.describe(tf.constant(number, tf.int64)).numpy() for number in numbers]
    return [Path(os.fsdecode(path)).read_bytes() for path in paths]


def labels(data, split):
    return np.concatenate([batch["label"] for batch in data.evaluation(split)]).tolist()


def test_copies_stay_on_one_side(tmp_path, capsys):
    for index in range(60):
        save(tmp_path / f"{index}.png", index % 20)
    data = open_folder(tmp_path)
    train, validation = contents(data, "train"), contents(data, "validation")
    assert len(train) + len(validation) == 60
    assert not set(train) & set(validation)
    assert len(set(validation)) > 2
    line = "data: 40 images are copies of others; copies stay on one side of the split\n"
    assert line in capsys.readouterr().err


def test_copies_in_another_class_are_said(tmp_path, capsys):
    for index in range(10):
        save(tmp_path / "a" / f"{index}.png", index)
    save(tmp_path / "b" / "1.png", 3)
    save(tmp_path / "b" / "2.png", 99)
    save(tmp_path / "b" / "3.png", 100)
    open_folder(tmp_path)
    assert (
        "data: 1 image is a copy of another, 1 of them in another class;" in capsys.readouterr().err
    )


def test_training_images_in_the_validation_folder_are_said(tmp_path, capsys):
    for index in range(6):
        save(tmp_path / "train" / f"{index}.png", index)
        save(tmp_path / "held" / f"other{index}.png", index + 4)
    data = open_folder(tmp_path / "train", validation_path=str(tmp_path / "held"))
    assert (data.train_size, data.validation_size) == (6, 6)
    error = capsys.readouterr().err
    assert "data: 2 of 6 images of data.validation_path are copies of training images" in error
    assert "one side" not in error


def test_without_copies_the_names_decide(tmp_path):
    for index in range(40):
        save(tmp_path / f"{index}.png", index)
    data = open_folder(tmp_path)
    names = sorted(f"{index}.png" for index in range(40))
    hashes = hashing.hash_names(tf.constant(names)).numpy()
    expected = [(tmp_path / name).read_bytes() for name in np.array(names)[hashes < 0.3 * 2**30]]
    assert contents(data, "validation") == expected


def test_forty_classes_of_one_image(tmp_path, capsys):
    for index in range(40):
        save(tmp_path / f"{index}" / "x.png", index)
    data = open_folder(tmp_path)
    assert labels(data, "train") == [int(name) for name in sorted(map(str, range(40)))]
    assert data.class_names == tuple(map(str, range(40)))  # in natural order
    assert 0 < data.validation_size < 40
    error = capsys.readouterr().err
    assert "each of the 40 classes of data.path" in error and "are trained on too" in error
    assert "of 40 classes, 40 have a single training image (0, 1, 2, 3, 4 and 35 more)" in error


def test_the_only_image_of_a_class_is_trained_on(tmp_path, capsys):
    for index in range(20):
        save(tmp_path / "many" / f"{index}.png", index)
        save(tmp_path / f"thin{index}" / "x.png", 100 + index)
    data = open_folder(tmp_path)
    assert set(labels(data, "train")) == set(range(21))
    assert set(labels(data, "validation")) == {0}
    assert "20 have no validation image (thin0, thin1, thin2, " in capsys.readouterr().err


def test_one_class_in_two_normal_forms(tmp_path):
    composed = unicodedata.normalize("NFC", "café")
    decomposed = unicodedata.normalize("NFD", "café")
    assert composed != decomposed
    for index in range(6):
        save(tmp_path / "train" / composed / f"{index}.png", index)
        save(tmp_path / "train" / "tea" / f"{index}.png", 10 + index)
        save(tmp_path / "held" / decomposed / f"{index}.png", 20 + index)
        save(tmp_path / "held" / "tea" / f"{index}.png", 30 + index)
    data = open_folder(tmp_path / "train", validation_path=str(tmp_path / "held"))
    assert data.class_names == (composed, "tea")
    assert labels(data, "validation") == [0] * 6 + [1] * 6
    # Both forms in one folder are one class.
    save(tmp_path / "train" / decomposed / "more.png", 50)
    data = open_folder(tmp_path / "train", validation_path=str(tmp_path / "held"))
    assert data.class_names == (composed, "tea")
    assert sorted(labels(data, "train")) == [0] * 7 + [1] * 6


def test_names_that_are_no_utf8(tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    for index in range(5):
        save(os.path.join(folder, b"\xff\xfe%d.png" % index), index)
        save(tmp_path / "b" / f"{index}.png", 10 + index)
    data = open_folder(tmp_path)
    assert data.class_names == ("b", r"caf\xe9")
    assert len(contents(data, "train")) + len(contents(data, "validation")) == 10
    assert sorted(labels(data, "train") + labels(data, "validation")) == [0] * 5 + [1] * 5
    data.read_contents()
    assert data.fingerprint()["files"]["path"]["contents"]


@pytest.mark.parametrize("name", ["a[1]*?", "two\nlines", "\x1b[31mred", "a,b", " outer ", "~"])
def test_odd_names_of_classes(tmp_path, name, capsys):
    save(tmp_path / name / f"{name}.png", 0)
    for index in range(6):
        save(tmp_path / "plain" / f"{index}.png", 1 + index)
    data = open_folder(tmp_path)
    assert len(data.class_names) == 2
    assert all(name.isprintable() for name in data.class_names)
    error = capsys.readouterr().err
    assert all(line.isprintable() for line in error.splitlines())
    assert "1 has a single training image" in error


def test_images_that_are_too_small_or_too_long_are_left_out(tmp_path, capsys):
    for index in range(5):
        save(tmp_path / f"{index}.png", index)
    for name, size in (("pixel", (1, 1)), ("line", (1, 90)), ("strip", (2000, 10))):
        save(tmp_path / f"{name}.png", 10, size)
    for name, size in (("tiny", (2, 2)), ("panorama", (200, 10))):
        save(tmp_path / f"{name}.png", 20, size)
    data = open_folder(tmp_path)
    assert data.train_size + data.validation_size == 7
    line = "data: 3 left out: 2 images below data.min_side, 1 image above data.max_aspect\n"
    assert line in capsys.readouterr().err
    reasons = {os.path.basename(path): reason for path, reason in data.left_out.entries()}
    assert reasons == {
        "line.png": "it has 1 x 90 pixels",
        "pixel.png": "it has 1 x 1 pixels",
        "strip.png": "it has 2000 x 10 pixels",
    }
    data = open_folder(tmp_path, min_side=9, max_aspect=200)
    assert data.train_size + data.validation_size == 2
    with pytest.raises(UserError, match="none of its 10 images is within data.min_side 300 and"):
        open_folder(tmp_path, min_side=300)


def test_a_class_of_which_no_image_is_left_is_named(tmp_path, capsys):
    for index in range(4):
        save(tmp_path / "a" / f"{index}.png", index)
        save(tmp_path / "dots" / f"{index}.png", index, (1, 1))
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "x.png").write_bytes(b"\x89PNG")
    save(tmp_path / "a" / "dot.png", 9, (1, 1))
    data = open_folder(tmp_path, on_error="skip")
    assert data.class_names == ("a",)
    assert "2 class folders without images (the first, cut: none of its images can be used)" in (
        capsys.readouterr().err
    )


def test_what_is_left_out_is_one_line_for_both_folders(tmp_path, capsys):
    for index in range(4):
        save(tmp_path / "train" / f"{index}.png", index)
        save(tmp_path / "held" / f"{index}.png", 10 + index)
    for name in ("train/a.cfg", "train/b.cfg", "held/c.ogg", "held/.DS_Store", "train/._0.png"):
        (tmp_path / name).write_text("")
    (tmp_path / "held" / "cut.png").write_bytes(b"\x89PNG")
    data = open_folder(tmp_path / "train", validation_path=str(tmp_path / "held"), on_error="skip")
    error = capsys.readouterr().err
    assert error.count("left out") == 1
    assert "data: 6 left out: 1 damaged or unreadable file (cut.png: " in error
    assert "), 3 files of other kinds (.cfg 2, .ogg 1), 2 hidden files\n" in error
    assert len(data.left_out) == 6
