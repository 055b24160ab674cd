import io
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from vim_tf.config.sections import AugmentationConfig, DataConfig
from vim_tf.data import images
from vim_tf.data.sources import records, tfrecord
from vim_tf.errors import UserError


def encode(value, kind="PNG"):
    """An image of one colour, which shows its number."""
    file = io.BytesIO()
    color = (value % 256, value // 256 * 40, 99)
    Image.new("RGB", (10, 8), color).save(file, kind)
    return file.getvalue()


def example(**features):
    def feature(value):
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    named = {key.replace("__", "/"): feature(value) for key, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def write(folder, counts=(17, 5, 23), first_label=0, text=True, labelled=True):
    """Writes files with these numbers of records. The colours count through all the files."""
    folder.mkdir(exist_ok=True)
    number = 0
    for index, count in enumerate(counts):
        path = folder / f"train-{index:05d}-of-{len(counts):05d}"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for _ in range(count):
                features = {"image__encoded": encode(number), "image__height": 8, "z": b"x" * 300}
                if labelled:
                    features["image__class__label"] = number % 3 + first_label
                if text:
                    features["image__class__text"] = ["ant", "bee", "cat"][number % 3].encode()
                writer.write(example(**features))
                number += 1
    return number


def config(path, **more):
    return DataConfig(
        source="tfrecord",
        path=str(path),
        **{
            "image_size": (8, 10),
            "batch_size": 6,
            "validation_fraction": 0.25,
            "augmentation": AugmentationConfig(crop="center", flip=False),
            **more,
        },
    )


def numbers_of(batches):
    """The numbers of the images, by their colour."""
    colors = np.concatenate([np.array(batch["image"])[:, 0, 0] for batch in batches])
    red, green, _ = np.round((colors + 1) * 127.5).astype(int).T
    return (red + green // 40 * 256).tolist()


def test_reads_labels_names_and_images(tmp_path):
    total = write(tmp_path)
    (tmp_path / "README.md").write_text("not a record")
    data = images.make_image_dataset(config(tmp_path), 0)
    assert data.class_names == ("ant", "bee", "cat")
    assert data.train_size + data.validation_size == total == 45
    found = {}
    for split, size in (("train", data.train_size), ("validation", data.validation_size)):
        batches = list(data.evaluation(split))
        found[split] = numbers_of(batches)
        assert found[split] == sorted(found[split]) and len(found[split]) == size
        labels = np.concatenate([batch["label"] for batch in batches])
        np.testing.assert_array_equal(labels, np.array(found[split]) % 3)
    assert sorted(found["train"] + found["validation"]) == list(range(45))
    # The split depends only on file name and number: it is the same in another folder.
    shutil.copytree(tmp_path, tmp_path / "copy")
    again = images.make_image_dataset(config(tmp_path / "copy" / "train-*"), 5)
    assert numbers_of(again.evaluation()) == found["validation"]


def test_orders_are_functions_of_seed_and_epoch(tmp_path, monkeypatch):
    write(tmp_path)
    data = images.make_image_dataset(config(tmp_path), 3)
    size = data.train_size

    def read(start=0, count=18):
        again = images.make_image_dataset(config(tmp_path), 3)
        return numbers_of(again.train(start * 6).take(count))

    whole = read()
    for epoch in range(len(whole) // size):
        part = whole[epoch * size : (epoch + 1) * size]
        assert sorted(part) == sorted(numbers_of(data.evaluation("train")))
        assert part != sorted(part)
    assert whole[:size] != whole[size : 2 * size]
    tf.random.set_seed(99)  # the program's own seed has no effect
    for start in (1, 11):
        assert read(start, 3) == whole[start * 6 : start * 6 + 18]
    # Buffers smaller than an epoch also mix, and lose nothing.
    monkeypatch.setattr(records, "SHUFFLE_BUFFER", 4)
    small = read()
    assert sorted(small[:size]) == sorted(whole[:size]) and small != whole


def test_labels_may_count_from_1(tmp_path, capsys):
    write(tmp_path, first_label=1)
    data = images.make_image_dataset(config(tmp_path), 0)
    assert data.class_names == ("ant", "bee", "cat")
    batches = list(data.evaluation("train"))
    labels = np.concatenate([batch["label"] for batch in batches])
    np.testing.assert_array_equal(labels, np.array(numbers_of(batches)) % 3)
    assert f"data.path {tmp_path} count from 1; label 1 is class 0" in capsys.readouterr().err


def write_labels(path, labels):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, label in enumerate(labels):
            writer.write(example(image__encoded=encode(number), image__class__label=label))


def test_numbers_without_images_are_no_classes(tmp_path, capsys):
    labels = [0, 2, 3, 5] * 10
    write_labels(tmp_path / "a.tfrecord", labels)
    data = images.make_image_dataset(config(tmp_path), 0)
    assert data.class_names == ("0", "2", "3", "5")
    batches = list(data.evaluation("train"))
    classes = np.concatenate([batch["label"] for batch in batches])
    numbers = numbers_of(batches)
    assert [data.class_names[label] for label in classes] == [str(labels[n]) for n in numbers]
    assert "4 different labels of " in capsys.readouterr().err


def test_a_label_far_away_makes_no_million_classes(tmp_path):
    write_labels(tmp_path / "a.tfrecord", [0, 1, 2, 999_999])
    with pytest.raises(UserError, match="4 different numbers from 0 to 999,999, .* without gaps"):
        images.make_image_dataset(config(tmp_path), 0)


def test_thin_classes_are_named(tmp_path, capsys):
    write_labels(tmp_path / "a.tfrecord", [0] * 60 + [1])
    data = images.make_image_dataset(config(tmp_path), 0)
    labels = {
        split: np.concatenate([batch["label"] for batch in data.evaluation(split)])
        for split in ("train", "validation")
    }
    missing = "validation" if 1 in labels["train"] else "training"
    assert f"data: of 2 classes, 1 has no {missing} image (1)" in capsys.readouterr().err.replace(
        "1 has a single training image (1), ", ""
    )


def test_other_files_of_a_folder_are_counted(tmp_path, capsys):
    write(tmp_path)
    (tmp_path / "README.md").write_text("")
    (tmp_path / ".hidden").write_text("")
    (tmp_path / "folder").mkdir()
    data = images.make_image_dataset(config(tmp_path), 0)
    line = "data: 2 left out: 1 file of another kind (.md 1), 1 hidden file\n"
    assert line in capsys.readouterr().err
    assert [path for path, _ in data.left_out.entries()] == [
        str(tmp_path / "README.md"),
        str(tmp_path / ".hidden"),
    ]


def test_brackets_in_the_name_of_a_file_are_no_glob(tmp_path):
    write(tmp_path / "exp[1]", (9,))
    path = tmp_path / "exp[1]" / "train-00000-of-00001"
    for name in (path, path.parent, f"{tmp_path}/exp?1?/train-*"):
        data = images.make_image_dataset(config(name), 0)
        assert data.train_size + data.validation_size == 9


def test_names_and_labels_are_optional(tmp_path):
    write(tmp_path / "a", text=False)
    assert images.make_image_dataset(config(tmp_path / "a"), 0).class_names == ("0", "1", "2")
    write(tmp_path / "b", labelled=False)
    data = images.make_image_dataset(config(tmp_path / "b"), 0)
    assert data.class_names == ()
    assert not any(batch["label"].numpy().any() for batch in data.evaluation())


def test_a_validation_set_of_its_own(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b", (4,))
    settings = config(tmp_path / "a", validation_path=str(tmp_path / "b"))
    data = images.make_image_dataset(settings, 0)
    assert (data.train_size, data.validation_size) == (45, 4)
    assert numbers_of(data.evaluation()) == [0, 1, 2, 3]
    write(tmp_path / "c", labelled=False)
    settings = config(tmp_path / "a", validation_path=str(tmp_path / "c"))
    with pytest.raises(UserError, match="has labels, but data.validation_path .* has no labels"):
        images.make_image_dataset(settings, 0)
    write(tmp_path / "d", first_label=1)
    settings = config(tmp_path / "a", validation_path=str(tmp_path / "d"))
    with pytest.raises(UserError, match=r"d has the labels 3, which no image of .*/a has"):
        images.make_image_dataset(settings, 0)


def test_no_files(tmp_path):
    with pytest.raises(UserError, match="data.path is .*nothing-.*no file matches"):
        images.make_image_dataset(config(tmp_path / "nothing-*"), 0)
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(UserError, match="no file with tfrecord or"):
        images.make_image_dataset(config(tmp_path), 0)
    (tmp_path / "a.tfrecord").write_bytes(b"")
    with pytest.raises(UserError, match="hold no records"):
        images.make_image_dataset(config(tmp_path), 0)


def write_one(path, *serialized):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for data in serialized:
            writer.write(data)


@pytest.mark.parametrize(
    ("serialized", "message"),
    [
        (example(image__data=b"x", label=1), r"no key image/encoded; its keys are image/data, lab"),
        (example(), "no key image/encoded; its keys are none"),
        (b"\xff\xff\xff", "is no tf.train.Example"),
        (b"\x0a\x7f", "is no tf.train.Example"),
        (example(image__encoded=b"x", image__class__label=b"1"), "is no tf.train.Example"),
        (example(image__encoded=b"x", image__class__label=-1), "the label -1 is negative"),
        (example(image__encoded=b"x"), "some records have image/class/label, others do not"),
    ],
    # The bytes are no good ids: their order differs between the two processes of a test run.
    ids=["other keys", "no keys", "no bytes", "cut", "text label", "label -1", "no label"],
)
def test_records_of_another_kind(tmp_path, serialized, message):
    good = example(image__encoded=encode(1), image__class__label=1)
    write_one(tmp_path / "a.tfrecord", good, serialized)
    with pytest.raises(UserError, match=message):
        images.make_image_dataset(config(tmp_path), 0)


def test_files_that_are_cut_short(tmp_path, caplog):
    write(tmp_path)
    path = tmp_path / "train-00002-of-00003"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match="train-00002-of-00003 is cut short.* record 22 does not"):
        images.make_image_dataset(config(tmp_path), 0)
    data = images.make_image_dataset(config(tmp_path, on_error="skip"), 0)
    assert data.train_size + data.validation_size == 44
    assert "train-00002-of-00003 is cut short" in caplog.text
    found = numbers_of(data.evaluation("train")) + numbers_of(data.evaluation())
    assert sorted(found) == list(range(44))
    path.write_bytes(b"\x1f\x8b" + b"gzip, say" * 9)
    with pytest.raises(UserError, match="compressed or no TFRecord file"):
        images.make_image_dataset(config(tmp_path, on_error="skip"), 0)


def test_labels_are_found_without_reading_the_images(tmp_path):
    # Field by field, in any order, with fields of other messages in between.
    wide = example(image__encoded=b"y" * 100_000, image__class__label=300, image__class__text=b"n")
    merged = example(image__class__label=7) + example(image__encoded=b"y" * 70_000)
    write_one(tmp_path / "a", wide, merged)
    assert tfrecord.scan_file(tmp_path / "a") == [(300, "n"), (7, None)]


def test_images_that_cannot_be_decoded(tmp_path):
    files = [encode(number) for number in range(12)]
    files[5] = files[5][:-30]
    rows = [
        example(image__encoded=data, image__class__label=index) for index, data in enumerate(files)
    ]
    write_one(tmp_path / "a.tfrecord", *rows)
    settings = config(tmp_path, validation_fraction=0.01, batch_size=3)
    data = images.make_image_dataset(settings, 0)
    for reading in (data.evaluation("train"), data.train(), data.augmented_pass(0)):
        with pytest.raises(tf.errors.OpError) as caught:
            list(reading.take(4))
        assert str(images.as_user_error(caught.value)).startswith("record a.tfrecord:5 cannot be")
    skipping = images.make_image_dataset(
        config(tmp_path, validation_fraction=0.01, batch_size=3, on_error="skip"), 0
    )
    assert sorted(numbers_of(skipping.evaluation("train")) + numbers_of(skipping.evaluation())) == [
        0,
        1,
        2,
        3,
        4,
        6,
        7,
        8,
        9,
        10,
        11,
    ]
    whole = numbers_of(skipping.train().take(9))
    assert 5 not in whole and numbers_of(skipping.train(12).take(5)) == whole[12:]


def test_all_formats_of_a_record_are_decoded(tmp_path):
    kinds = ["PNG", "JPEG", "BMP", "GIF", "WEBP"]
    rows = [example(image__encoded=encode(200, kind)) for kind in kinds]
    write_one(tmp_path / "a.tfrecord", *rows)
    data = images.make_image_dataset(config(tmp_path), 0)
    for split in ("train", "validation"):
        for batch in data.evaluation(split):
            colors = (batch["image"].numpy()[:, 3, 3] + 1) * 127.5
            np.testing.assert_allclose(colors, np.tile([200, 0, 99], (len(colors), 1)), atol=3)


def test_a_damaged_file_is_one_line():
    error = tf.errors.DataLossError(None, None, "corrupted record at 77\nand more")
    assert str(images.as_user_error(error)) == "a TFRecord file is damaged: corrupted record at 77"
