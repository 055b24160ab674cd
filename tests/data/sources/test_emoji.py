import collections
import importlib.resources
import io
import json
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from vim_tf.config.sections import DataConfig
from vim_tf.data import build_emoji, images
from vim_tf.data.sources import emoji
from vim_tf.errors import UserError

TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}


@pytest.fixture(scope="module")
def records():
    folder = importlib.resources.files("vim_tf.data.sources") / "emoji"
    files = sorted(str(file) for file in folder.iterdir() if file.name.endswith(".tfrecord"))
    rows = []
    for data in tf.data.TFRecordDataset(files).as_numpy_iterator():
        features = tf.train.Example.FromString(data).features.feature
        rows.append(
            {
                key: (feature.bytes_list.value or feature.int64_list.value)[0]
                for key, feature in features.items()
            }
        )
    return rows


@pytest.fixture(scope="module")
def splits():
    return emoji.make_splits(DataConfig(image_size=(32, 32)))


def loaded(split):
    pixels, labels = split.load(tf.range(split.size, dtype=tf.int64))
    return pixels.numpy(), labels.numpy()


def test_the_built_in_set_is_all_3786_images_in_ten_categories(records, splits):
    names, train, validation, *_ = splits
    assert len(records) == train.size + validation.size == 3786
    assert len(names) == 10 and list(names) == sorted(names)
    assert "Food & Drink" in names and "Component" in names
    for row in records:
        assert names[row["image/class/label"]] == row["image/class/text"].decode()
    labels = np.concatenate([loaded(train)[1], loaded(validation)[1]])
    assert np.bincount(labels)[names.index("People & Body")] == 2261
    assert np.bincount(labels)[names.index("Component")] == 5
    assert 0.08 < validation.size / 3786 < 0.12


def test_images_are_32_by_32_and_white_where_nothing_is(records, splits):
    row = next(row for row in records if row["image/filename"] == b"1F600")  # grinning face
    image = np.array(Image.open(io.BytesIO(row["image/encoded"])))
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    assert (image[0, 0] == 255).all()
    assert image[16, 16, 0] > 200 and image[16, 16, 2] < 150  # yellow
    pixels, labels = loaded(splits[1])
    assert pixels.shape == (len(labels), 32, 32, 3) and pixels.dtype == np.uint8


def test_no_emoji_stands_on_both_sides_of_the_split(records, splits):
    bases = collections.defaultdict(set)
    for row in records:
        code = row["image/filename"].decode()
        plain = "-".join(part for part in code.split("-") if part not in TONES | {"FE0F"})
        bases[plain or code].add(row["emoji/base"])
    assert all(len(base) == 1 for base in bases.values())
    (train, _), (validation, _) = loaded(splits[1]), loaded(splits[2])
    train, validation = ({image.tobytes() for image in part} for part in (train, validation))
    assert not train & validation  # including flags that look alike
    again = emoji.make_splits(DataConfig(image_size=(32, 32)))
    assert {image.tobytes() for image in loaded(again[2])[0]} == validation


def write_package(folder):
    """A package, as npm makes it: two categories, a skin tone, and two emoji that look the same."""
    rng = np.random.default_rng(0)
    pixels = folder / "package" / "img" / "google" / "64"
    pixels.mkdir(parents=True)
    look = {}
    for name, mode in (("aa", "RGBA"), ("aa-1f3fb", "RGBA"), ("bb", "LA"), ("cc", "P")):
        alpha = Image.fromarray(rng.integers(0, 256, (64, 64, 4), dtype=np.uint8))
        look[name] = alpha.convert("L").quantize(8) if mode == "P" else alpha.convert(mode)
    look["dd"] = look["bb"]
    for name, image in look.items():
        image.save(pixels / f"{name}.png")

    def entry(name, category, **more):
        return {"unified": name.upper(), "image": f"{name}.png", "category": category, **more}

    tone = {"1F3FB": entry("aa-1f3fb", "X")}
    entries = [
        entry("dd", "Flags"),
        entry("aa", "Faces", skin_variations=tone),
        entry("cc", "Flags"),
        entry("bb", "Flags"),
        entry("ee", "Flags"),  # it has no image
    ]
    (folder / "package" / "emoji.json").write_text(json.dumps(entries))
    return look


def test_rebuilding_gives_the_same_bytes_from_a_folder_and_from_an_archive(tmp_path, capsys):
    look = write_package(tmp_path)
    archive = tmp_path / "emoji.tgz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "package", "package")
    outputs = []
    for source in (tmp_path, tmp_path / "package", archive):
        out = tmp_path / f"out{len(outputs)}"
        build_emoji.main([str(source), "--out", str(out)])
        outputs.append([file.read_bytes() for file in sorted(out.iterdir())])
    assert outputs[0] == outputs[1] == outputs[2]
    assert "5 images of 3 emoji" in capsys.readouterr().out

    rows = build_emoji.make_rows(*build_emoji.read_package(tmp_path))
    by_code = {row["code"]: row for row in rows}
    assert sorted(by_code) == ["AA", "AA-1F3FB", "BB", "CC", "DD"]
    assert {by_code[code]["base"] for code in ("AA", "AA-1F3FB")} == {"AA"}
    assert by_code["AA-1F3FB"]["class"] == "Faces"
    assert by_code["BB"]["base"] == by_code["DD"]["base"]
    rgba = np.array(look["aa"].convert("RGBA")).astype(np.float64)
    white = rgba[..., :3] * rgba[..., 3:] / 255 + 255 - rgba[..., 3:]
    expected = white.reshape(32, 2, 32, 2, 3).mean((1, 3))
    np.testing.assert_allclose(np.array(by_code["AA"]["image"]), expected, atol=1.3)


def test_a_package_that_is_none_is_refused(tmp_path):
    (tmp_path / "x.tgz").write_bytes(b"no archive")
    for path in (tmp_path, tmp_path / "x.tgz", tmp_path / "missing"):
        with pytest.raises(UserError, match="holds no emoji.json"):
            build_emoji.read_package(path)
    with pytest.raises(UserError, match="holds no emoji.json"):
        build_emoji.main([str(tmp_path)])


def test_emoji_are_the_default_source():
    data = images.make_image_dataset(DataConfig(image_size=(32, 32), batch_size=8), seed=0)
    batch = next(iter(data.train()))
    assert batch["image"].shape == (8, 32, 32, 3) and batch["image"].dtype == tf.float32
    assert batch["label"].shape == (8,) and batch["label"].dtype == tf.int32
    assert float(tf.reduce_min(batch["image"])) >= -1 and float(tf.reduce_max(batch["image"])) <= 1
