"""Nearest training images, compared with scikit-learn's brute force."""

import types

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from vim_tf.config.sections import DataConfig
from vim_tf.data.images import make_image_dataset
from vim_tf.data.transforms import to_uint8
from vim_tf.drawing import neighbours
from vim_tf.drawing.neighbours import compare_distances, nearest_images


def random_images(n, seed, height=4, width=6):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), "uint8")


@pytest.mark.parametrize("batch", [1, 7, 20])
def test_they_are_those_of_brute_force_over_everything(batch):
    images, pool = random_images(9, 0), random_images(20, 1)
    both = np.concatenate([pool, pool[:, :, ::-1]])
    search = NearestNeighbors(n_neighbors=3, algorithm="brute")
    search.fit(both.reshape(40, -1).astype("float64"))
    expected, places = search.kneighbors(images.reshape(9, -1).astype("float64"))
    found, distances = nearest_images(images, np.split(pool, range(batch, 20, batch)), count=3)
    np.testing.assert_array_equal(found, both[places])
    np.testing.assert_allclose(distances, expected / np.sqrt(4 * 6 * 3), rtol=1e-12)


def test_copies_and_mirrored_copies_are_at_0():
    pool = random_images(20, 0)
    asked = np.stack([pool[3], pool[7, :, ::-1]])
    found, distances = nearest_images(asked, [pool[:5], pool[5:]], count=2)
    np.testing.assert_array_equal(found[:, 0], asked)
    assert found.shape == (2, 2, 4, 6, 3)
    assert np.all(distances[:, 0] == 0) and np.all(distances[:, 1] > 1)


def test_distance_is_root_mean_square_a_pixel_value():
    pool = np.zeros((1, 2, 2, 3), "uint8")
    assert nearest_images(pool + np.uint8(10), [pool], count=1)[1].tolist() == [[10.0]]


def test_a_stream_of_fewer_images_gives_fewer():
    pool = random_images(1, 0)
    found, distances = nearest_images(random_images(2, 1), [pool], count=3)
    assert distances.shape == (2, 2)  # the image and its mirror image
    assert np.all(np.diff(distances) >= 0)
    assert found.shape == (2, 2, 4, 6, 3)


def test_only_what_is_nearer_than_every_held_out_image_is_counted():
    report = compare_distances(np.array([1.0, 5.0, 2.0, 8.0]), np.array([4.0, 5.0, 9.0]))
    assert report == {
        "median": {"samples": 3.5, "held_out": 5.0},
        "samples_nearer_than_any_held_out": 2,
    }


# The view ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tiny_images):
    config = DataConfig(
        source="folder", path=f"{tiny_images}/train", image_size=(16, 16), batch_size=8,
        validation_path=f"{tiny_images}/validation",
    )  # fmt: skip
    return make_image_dataset(config, seed=0)


def all_images(data, split):
    return np.concatenate([to_uint8(batch["image"]) for batch in data.evaluation(split)])


@pytest.fixture
def view(data, monkeypatch):
    """A function (samples) -> (image, report) for a model that generates exactly these samples."""

    def view(samples):
        class Generator:
            class_names = ()
            tokenizer = types.SimpleNamespace(image_size=(16, 16))

            def generate_batches(self, labels, n, batch_size, seed, **settings):
                assert (labels, n, seed, settings) == (None, len(samples), 5, {"top_k": 2})
                yield from np.split(samples, range(batch_size, n, batch_size))

        monkeypatch.setattr(neighbours, "ImageGenerator", lambda *_: Generator())
        run = types.SimpleNamespace(
            vim=None, tokenizer=None, class_names=(), path="runs/x", data=data, weights="preset",
            hashes=lambda: {"vim": "abc"},
        )  # fmt: skip
        return neighbours.view_neighbours(run, len(samples), 5, 4, {"top_k": 2})

    return view


def test_copies_of_training_images_are_called_so(data, view):
    samples = all_images(data, "train")[:6]
    _, report = view(samples)
    assert report["distances"]["samples"] == [0] * 6
    assert report["samples_nearer_than_any_held_out"] == 6
    assert (report["training_images"], report["held_out_images"]) == (24, 6)
    assert report["samples"]["seed"] == 5 and report["samples"]["count"] == 6
    assert report["models"] == {"vim": "abc"}


def test_copies_of_held_out_images_are_not_suspicious(data, view):
    held_out = all_images(data, "validation")
    _, report = view(held_out)
    assert report["distances"]["samples"] == report["distances"]["held_out"]
    assert report["median"]["samples"] == report["median"]["held_out"] > 0
    assert report["samples_nearer_than_any_held_out"] == 0


def test_the_sheet_shows_each_sample_and_its_neighbours_the_nearest_first(data, view, monkeypatch):
    drawn = {}

    def note_grid(strips, captions, columns):
        drawn.update(strips=strips, captions=captions)
        return strips[0]

    monkeypatch.setattr(neighbours.grids, "captioned_grid", note_grid)
    monkeypatch.setattr(neighbours, "SHOWN", 2)
    training = all_images(data, "train")
    view(np.stack([np.zeros_like(training[0]), training[2], training[3] // 2 + 100]))
    assert drawn["captions"][0] == "distance 0.0" and len(drawn["captions"]) == 2
    gap, side = neighbours.grids.GAP * 4, 16 * 4  # 16 pixels are drawn as 64
    assert drawn["strips"].shape == (2, side + 2 * gap, 4 * (side + gap) + gap, 3)
    for i in range(2):  # the copy, and its original
        left = gap + i * (side + gap)
        cell = drawn["strips"][0, gap : gap + side, left : left + side]
        np.testing.assert_array_equal(cell[::4, ::4], training[2])
