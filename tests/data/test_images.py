import dataclasses
import io
import pathlib
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from vim_tf.config.sections import AugmentationConfig, DataConfig
from vim_tf.data import images, splits

COUNT = 40  # images; the colour shows the number of the image


def write_idx(folder, pixels=None):
    if pixels is None:
        pixels = np.full((COUNT, 6, 6), np.arange(COUNT, dtype=np.uint8)[:, None, None] * 5)
    labels = np.uint8(np.arange(COUNT) % 4)
    for array, kind in ((pixels, "images-idx3"), (labels, "labels-idx1")):
        header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        (folder / f"train-{kind}-ubyte").write_bytes(header + array.tobytes())


def write_folder(folder):
    for number in range(COUNT):
        path = folder / f"class{number % 4}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        # Two sizes, so that these are loaded one by one.
        Image.new("RGB", (6 + number % 2, 6), (number * 5,) * 3).save(path)


def write_tfrecord(folder):
    for part in range(2):
        with tf.io.TFRecordWriter(str(folder / f"{part}.tfrecord")) as writer:
            for number in range(part * COUNT // 2, (part + 1) * COUNT // 2):
                png = io.BytesIO()
                Image.new("RGB", (6, 6), (number * 5,) * 3).save(png, "PNG")
                example = tf.train.Example()
                features = example.features.feature
                features["image/encoded"].bytes_list.value.append(png.getvalue())
                features["image/class/label"].int64_list.value.append(number % 4)
                writer.write(example.SerializeToString())


WRITERS = {"idx": write_idx, "folder": write_folder, "tfrecord": write_tfrecord}


def open_source(kind, path, seed=0, **more):
    defaults = {"image_size": (6, 6), "batch_size": 7, "validation_fraction": 0.2}
    config = DataConfig(source=kind, path=str(path), **{**defaults, **more})
    return images.make_image_dataset(config, seed)


def numbers_of(batches):
    colors = np.concatenate([batch["image"].numpy()[:, 3, 3, 0] for batch in batches])
    return np.round((colors + 1) * 127.5 / 5).astype(int).tolist()


@dataclasses.dataclass
class Reading:
    """The data of one kind of source, read once, since building a pipeline takes a second."""

    kind: str
    path: pathlib.Path
    data: images.ImageData
    train: list  # batches of three epochs
    stored: list  # the training images in evaluation's batches of 4
    held_out: list


@pytest.fixture(scope="module", params=list(WRITERS))
def reading(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    WRITERS[request.param](path)
    data = open_source(request.param, path)
    train = list(data.train().take(-(-3 * data.train_size // 7)))
    stored = list(data.evaluation("train", batch_size=4))
    return Reading(request.param, path, data, train, stored, list(data.evaluation()))


def test_all_sources_agree_on_shapes_and_labels(reading):
    assert reading.data.train_size + reading.data.validation_size == COUNT
    assert len(reading.data.class_names) == 4
    for batches, size in ((reading.train, 7), (reading.stored, 4), (reading.held_out, 7)):
        for batch in batches:
            assert batch["image"].shape[0] <= size and batch["image"].shape[1:] == (6, 6, 3)
            assert batch["image"].dtype == tf.float32 and batch["label"].dtype == tf.int32
            np.testing.assert_array_equal(batch["label"], np.array(numbers_of([batch])) % 4)
            assert batch["image"].shape[0] == batch["label"].shape[0]


def test_an_epoch_holds_every_training_image_once_in_a_new_order(reading):
    size = reading.data.train_size
    seen, stored = numbers_of(reading.train), numbers_of(reading.stored)
    epochs = [seen[start : start + size] for start in (0, size, 2 * size)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(stored)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert sorted(stored + numbers_of(reading.held_out)) == list(range(COUNT))


def test_the_seed_changes_the_order_but_not_the_split(reading):
    other = open_source(reading.kind, reading.path, seed=1)
    seen = numbers_of(other.train().take(other.train_size // 7))
    assert set(seen) <= set(numbers_of(reading.stored))
    assert seen != numbers_of(reading.train)[: len(seen)]


def test_a_run_resumes_from_its_step(reading):
    start = 6  # the middle of the second epoch
    assert reading.data.train_size < start * 7 < 2 * reading.data.train_size
    resumed = list(reading.data.train(start * 7).take(5))
    for expected, got in zip(reading.train[start:], resumed, strict=False):
        np.testing.assert_array_equal(got["image"], expected["image"])
        np.testing.assert_array_equal(got["label"], expected["label"])


def test_a_run_may_go_on_with_another_batch_size(reading):
    """The images come in the same order for each batch size, from any position on."""
    order = numbers_of(reading.train)
    other = dataclasses.replace(reading.data.config, batch_size=5)
    batches = dataclasses.replace(reading.data, config=other).train(16).take(4)
    assert numbers_of(batches) == order[16:36]


@pytest.mark.parametrize("start", [0, 3])
def test_workers_make_contiguous_shares_of_each_batch(reading, start):
    data = dataclasses.replace(
        reading.data, config=dataclasses.replace(reading.data.config, batch_size=6)
    )
    whole = list(data.train(start).take(8))  # more than an epoch
    shares = [list(data.train(start, worker, 3).take(8)) for worker in range(3)]
    for step, expected in enumerate(whole):
        for name, rows in expected.items():
            parts = [share[step][name] for share in shares]
            assert [len(part) for part in parts] == [2, 2, 2]
            np.testing.assert_array_equal(np.concatenate(parts), rows)


def test_evaluation_ends_with_a_smaller_batch(reading):
    sizes = [len(part["label"]) for part in reading.stored]
    assert sizes[:-1] == [4] * (len(sizes) - 1)
    assert sum(sizes) == reading.data.train_size and 1 <= sizes[-1] <= 4


def test_a_pass_keeps_the_order_and_without_augmentation_is_evaluation(reading):
    plain = AugmentationConfig(crop="center", flip=False)
    data = open_source(reading.kind, reading.path, augmentation=plain)
    images_of_pass = np.concatenate([batch["image"] for batch in data.augmented_pass(0)])
    stored = np.concatenate([batch["image"] for batch in reading.stored])
    np.testing.assert_array_equal(images_of_pass, stored)


def test_batches_may_be_larger_than_the_data(tmp_path):
    write_idx(tmp_path)
    data = open_source("idx", tmp_path, batch_size=100)
    counts = np.bincount(numbers_of(data.train().take(1)), minlength=COUNT)
    assert counts.sum() == 100 and counts.max() <= -(-100 // data.train_size)


def test_emoji_passes_are_augmented_differently_each_time():
    config = DataConfig(image_size=(32, 32), batch_size=64)
    data = images.make_image_dataset(config, 0)

    def first(dataset):
        return next(iter(dataset))["image"].numpy()

    stored = first(data.evaluation("train"))
    passes = [first(data.augmented_pass(index)) for index in (0, 1, 0)]
    np.testing.assert_array_equal(passes[0], passes[2])
    for one, other in ((passes[0], passes[1]), (passes[0], stored)):
        assert (np.abs(one - other).max((1, 2, 3)) > 0.01).mean() > 0.95
    # The same images in the same order: each is nearer to its own original than to the next one.
    near = np.abs(passes[0] - stored).mean((1, 2, 3))
    far = np.abs(passes[0] - np.roll(stored, 1, 0)).mean((1, 2, 3))
    assert (near < far).mean() > 0.9


def test_epochs_are_augmented_differently(tmp_path):
    write_idx(tmp_path, np.random.default_rng(0).integers(0, 256, (COUNT, 6, 6), dtype=np.uint8))
    size = open_source("idx", tmp_path).train_size
    data = open_source("idx", tmp_path, batch_size=size)
    epochs = [batch["image"].numpy() for batch in data.train().take(2)]
    means = [set(np.round(epoch.mean((1, 2, 3)), 5)) for epoch in epochs]
    assert len(means[0]) == size and not means[0] & means[1]


def test_loading_falls_back_where_it_fails():
    def load(reference):
        name, number = reference
        with tf.control_dependencies([tf.debugging.Assert(number < 2, [name])]):
            return number * 10

    fallback = tf.data.Dataset.from_tensors(tf.constant(-1, tf.int64))
    dataset = tf.data.Dataset.range(4).map(lambda number: (tf.as_string(number), number))
    dataset = dataset.map(lambda *reference: splits.load_or_else(load, reference, fallback))
    assert list(dataset.as_numpy_iterator()) == [0, 10, -1, -1]
