import os
import unicodedata

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from vim_tf.config.sections import AugmentationConfig, DataConfig
from vim_tf.data import images, transforms
from vim_tf.data.sources import folder as folder_source
from vim_tf.errors import UserError


def smooth(height=40, width=60, seed=0):
    """An image of a few random waves, which JPEG and resizing hardly change."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [
        np.sin(2 * np.pi * (a * x + b * y) + c)
        for a, b, c in rng.uniform(-1.5, 1.5, (3, 3)) * [1, 1, 4]
    ]
    return Image.fromarray(np.uint8(np.stack(waves, -1) * 120 + 128))


def config(path, **more):
    return DataConfig(
        source="folder",
        path=str(path),
        **{"image_size": (16, 16), "batch_size": 4, "validation_fraction": 0.3, **more},
    )


def save(path, image=None, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or smooth()).save(path, **more)


def open_all(path, **more):
    """Every loaded image of a folder, by its name relative to the folder."""
    settings = config(path, **more)
    opened = folder_source.open_folder(str(path), "data.path", settings)
    split = folder_source._make_split(opened, opened.classes(), settings)
    pixels = tf.data.Dataset.range(split.size).map(lambda index: split.load(index)[0])
    return dict(zip(opened.names, pixels.as_numpy_iterator(), strict=True))


@pytest.fixture(params=["held", "read"])
def memory(request, monkeypatch):
    """Both cases: images held in memory, and files decoded while training."""
    if request.param == "read":
        monkeypatch.setattr(folder_source, "MEMORY", 0)
        monkeypatch.setattr(folder_source, "CHECKED", 0)
    return request.param


def test_large_images_are_reduced_and_small_ones_kept(tmp_path, memory):
    for name in ("a.jpg", "b.png"):
        save(tmp_path / name, smooth(600, 900), quality=95)
    save(tmp_path / "c.png", smooth(8, 12))
    settings = {"image_size": (16, 16), "augmentation": AugmentationConfig(min_area=0.5)}
    loaded = open_all(tmp_path, **settings)
    shapes = {name: pixels.shape for name, pixels in loaded.items()}
    assert shapes.pop("c.png") == (8, 12, 3)
    if memory == "held":
        assert set(shapes.values()) == {(32, 48, 3)}  # twice the target
    else:
        assert shapes == {"a.jpg": (75, 113, 3), "b.png": (600, 900, 3)}  # 1/8 of the JPEG
    # Evaluation gives the same as a resize of the whole image.
    direct = np.array(smooth(600, 900).resize((16, 16), Image.BICUBIC, box=(150, 0, 750, 600)))
    for name in ("a.jpg", "b.png"):
        image = transforms.transform_for_evaluation(tf.constant(loaded[name]), (16, 16))
        np.testing.assert_allclose((image + 1) * 127.5, direct, atol=6)


@pytest.fixture
def headers_only(monkeypatch):
    """For tests of names only: opening decodes no image, as this would take a second."""
    monkeypatch.setattr(folder_source, "MEMORY", 0)
    monkeypatch.setattr(folder_source, "CHECKED", 0)


@pytest.mark.usefixtures("headers_only")
def test_sub_folders_are_classes(tmp_path):
    for name in ("zebra/1.png", "ant/x/2.png", "ant/y/2.png", "zebra/deep/er/3.png"):
        save(tmp_path / name)
    (tmp_path / "empty").mkdir()
    opened = folder_source.open_folder(str(tmp_path), "data.path", config(tmp_path))
    assert opened.classes() == ("ant", "zebra")
    assert opened.names == ("ant/x/2.png", "ant/y/2.png", "zebra/1.png", "zebra/deep/er/3.png")
    assert opened.labels(opened.classes()).tolist() == [0, 0, 1, 1]


def test_without_sub_folders_nothing_is_labelled(tmp_path):
    for index in range(8):
        save(tmp_path / f"{index}.png", smooth(8 + index))  # many sizes: not stacked
    data = images.make_image_dataset(config(tmp_path), 0)
    assert data.class_names == ()
    for split in ("train", "validation"):
        for batch in data.evaluation(split):
            assert not batch["label"].numpy().any()


@pytest.mark.usefixtures("headers_only")
def test_loose_images_next_to_sub_folders_are_a_class(tmp_path):
    for seed, name in enumerate(("1.png", "cat/2.png", "cat/3.png")):
        save(tmp_path / name, smooth(seed=seed))
    assert images.make_image_dataset(config(tmp_path), 0).class_names == (".", "cat")


def test_links_are_followed_but_not_in_circles(tmp_path):
    save(tmp_path / "elsewhere" / "1.png")
    save(tmp_path / "data" / "a" / "2.png")
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "b")
    os.symlink(tmp_path / "data", tmp_path / "data" / "a" / "circle")
    assert folder_source.find_images(tmp_path / "data", "data.path") == ("a/2.png", "b/1.png")


def test_the_split_depends_on_the_names_alone(tmp_path):
    for index in range(30):
        save(tmp_path / "one" / "all" / f"k{index}" / "é.png", smooth(8, 8, index))
    for index in range(30):
        # Another folder, another order of writing, and macOS' spelling of the accent.
        name = unicodedata.normalize("NFD", "é.png")
        save(tmp_path / "two" / "all" / f"k{29 - index}" / name, smooth(8, 8, 29 - index))
    sides = []
    for place in ("one", "two"):
        _, train, validation, *_ = folder_source.make_splits(config(tmp_path / place))
        numbers = tf.range(validation.size, dtype=tf.int64)
        sides.append({image.tobytes() for image in validation.load(numbers)[0].numpy()})
        rest = train.load(tf.range(train.size, dtype=tf.int64))[0].numpy()
        assert not sides[-1] & {image.tobytes() for image in rest}
        assert len(sides[-1]) + len(rest) == 30
    assert sides[0] == sides[1]
    assert 3 <= len(sides[0]) <= 15


@pytest.mark.usefixtures("headers_only")
def test_even_two_images_can_be_split(tmp_path):
    for index in range(2):
        save(tmp_path / f"{index}.png", smooth(seed=index))
    data = images.make_image_dataset(config(tmp_path, validation_fraction=0.01), 0)
    assert (data.train_size, data.validation_size) == (1, 1)


@pytest.mark.usefixtures("headers_only")
def test_a_validation_folder_of_its_own(tmp_path):
    for name in ("train/a/1.png", "train/b/2.png", "held/a/3.png", "held/b/4.png", "bad/c/1.png"):
        save(tmp_path / name)
    settings = config(tmp_path / "train", validation_path=str(tmp_path / "held"))
    data = images.make_image_dataset(settings, 0)
    assert (data.train_size, data.validation_size) == (2, 2)
    settings = config(tmp_path / "train", validation_path=str(tmp_path / "bad"))
    with pytest.raises(UserError, match="must have the sub-folders of .* in: a, b, c$"):
        images.make_image_dataset(settings, 0)


def cut_short(path, share=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def make_broken_folder(folder):
    for index in range(6):
        save(folder / "a" / f"good{index}.jpg", smooth(seed=index))
    for suffix in ("jpg", "png", "webp", "gif", "bmp"):
        save(folder / "a" / f"cut.{suffix}")
        cut_short(folder / "a" / f"cut.{suffix}")
    (folder / "a" / "empty.png").write_bytes(b"")
    (folder / "a" / "text.jpg").write_text("not an image at all")


def test_a_broken_image_stops_with_its_name(tmp_path):
    make_broken_folder(tmp_path)
    with pytest.raises(UserError, match=r"a/cut.webp cannot be read: .*on_error: skip") as caught:
        images.make_image_dataset(config(tmp_path), 0)
    assert "\n" not in str(caught.value)
    for name in ("cut.webp", "empty.png", "text.jpg"):
        (tmp_path / "a" / name).unlink()
    # Their headers are complete, so only decoding finds these.
    with pytest.raises(UserError, match=r"a/cut.bmp cannot be read: .*\(4 of 10 files"):
        images.make_image_dataset(config(tmp_path), 0)


def test_broken_images_are_skipped_with_one_line(tmp_path, capsys):
    make_broken_folder(tmp_path)
    data = images.make_image_dataset(config(tmp_path, on_error="skip"), 0)
    assert data.train_size + data.validation_size == 6
    line = "data: 7 left out: 7 damaged or unreadable files (the first, "
    assert capsys.readouterr().err.startswith(line)
    assert len(data.left_out.entries()) == 7


def test_nothing_but_broken_images(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(UserError, match="1 of 1 files cannot be read"):
        images.make_image_dataset(config(tmp_path, on_error="skip"), 0)


def test_files_found_broken_while_training_are_named(tmp_path, monkeypatch):
    name = "é > 'cut' \\ \"off\".jpg"
    for index in range(6):
        save(tmp_path / f"good{index}.jpg", smooth(seed=index))
    save(tmp_path / name)
    cut_short(tmp_path / name)
    monkeypatch.setattr(folder_source, "MEMORY", 0)
    monkeypatch.setattr(folder_source, "CHECKED", 0)
    data = images.make_image_dataset(config(tmp_path, validation_fraction=0.01), 0)
    assert data.train_size + data.validation_size == 7
    for reading in (data.train().take(3), data.evaluation("train")):
        with pytest.raises(tf.errors.OpError, match="cannot be decoded") as caught:
            list(reading)
        error = str(images.as_user_error(caught.value))
        assert error.startswith(f"{tmp_path / name} cannot be decoded") and "\n" not in error
    assert images.as_user_error(ValueError("something else")) is None


def test_files_found_broken_while_training_are_skipped(tmp_path, monkeypatch):
    make_broken_folder(tmp_path)
    monkeypatch.setattr(folder_source, "MEMORY", 0)
    monkeypatch.setattr(folder_source, "CHECKED", 0)
    settings = config(tmp_path, validation_fraction=0.01, on_error="skip", batch_size=3)
    data = images.make_image_dataset(settings, 0)
    whole = [batch["image"].numpy() for batch in data.train().take(8)]
    resumed = [batch["image"].numpy() for batch in data.train(5 * 3).take(3)]
    np.testing.assert_array_equal(whole[5:], resumed)
    for reading in (data.evaluation("train"), data.augmented_pass(0)):
        assert sum(len(batch["label"]) for batch in reading) == 6 - data.validation_size


@pytest.mark.usefixtures("headers_only")
def test_decompression_bombs_are_broken_files(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "bomb.png", Image.new("1", (10_100, 10_000)))
    with pytest.raises(UserError, match=r"bomb.png .*10100 x 10000 pixels is above the limit"):
        images.make_image_dataset(config(tmp_path), 0)


def test_a_pixel_high_strip_takes_no_memory(tmp_path, memory):
    save(tmp_path / "a.png", Image.new("RGB", (20_000, 1), "red"))
    save(tmp_path / "b.png", Image.new("RGB", (1, 20_000), "red"))
    settings = config(tmp_path, image_size=(64, 64), batch_size=1, min_side=1, max_aspect=1e5)
    data = images.make_image_dataset(settings, 0)
    for dataset in (data.train().take(2), data.evaluation("train")):
        for batch in dataset:
            np.testing.assert_allclose(batch["image"][0, 5, 7], [1, -1, -1], atol=1e-3)


def test_wrong_paths(tmp_path):
    with pytest.raises(UserError, match="data.path is .*nowhere, which does not exist"):
        images.make_image_dataset(config(tmp_path / "nowhere"), 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="which is a file; give a folder"):
        images.make_image_dataset(config(tmp_path / "file"), 0)
    with pytest.raises(UserError, match=r"no images are in it; files ending in .jpg"):
        images.make_image_dataset(config(tmp_path), 0)
