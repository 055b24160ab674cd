import json

import numpy as np
import pytest

from vim_tf.config import DataConfig, VIMExperiment
from vim_tf.data.images import make_image_dataset
from vim_tf.errors import UserError
from vim_tf.evaluation import sample_check
from vim_tf.runs import Run


def test_nearest_pictures_finds_copies_and_mirrored_copies():
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 256, (20, 4, 6, 3), "uint8")
    asked = np.stack([pool[3], pool[7, :, ::-1]])
    found, distances = sample_check.nearest_pictures(asked, pool, count=2)
    np.testing.assert_array_equal(found[:, 0], asked)
    assert found.shape == (2, 2, 4, 6, 3)
    assert distances[:, 0] == pytest.approx(0, abs=1e-3)


def test_nearest_distance_is_root_mean_square_a_pixel_value():
    pool = np.zeros((1, 2, 2, 3), "uint8")
    distances = sample_check.nearest_pictures(pool + np.uint8(10), pool, count=1)[1]
    assert distances[0, 0] == pytest.approx(10)


def test_accuracy_per_class_is_nan_without_pictures():
    class Answers:
        def predict(self, images, **_):
            return np.eye(3)[[0, 0, 1, 1]]

    accuracy = sample_check.accuracy_per_class(
        Answers(), np.zeros((4, 2, 2, 3)), np.array([0, 1, 1, 1]), range(3)
    )
    np.testing.assert_allclose(accuracy, [1, 2 / 3, np.nan])


@pytest.fixture
def data_config():
    return DataConfig(image_size=(16, 16), batch_size=16)


def _fake_run(folder, data_config):
    experiment = VIMExperiment(data=data_config)
    Run(folder).start(experiment)
    return make_image_dataset(data_config, experiment.seed)


@pytest.mark.large
def test_copies_of_training_pictures_are_called_so(tmp_path, data_config, monkeypatch):
    data = _fake_run(tmp_path / "run", data_config)
    images, labels = sample_check._collect(data, "train")

    class Copies:
        class_names = data.class_names

        def generate(self, wanted, seed):
            places = [np.flatnonzero(labels == label)[0] for label in wanted]
            return sample_check.to_uint8(images[places])

    monkeypatch.setattr(sample_check.ImageGenerator, "load", lambda run: Copies())
    (tmp_path / "out").mkdir()
    report = sample_check.check(tmp_path / "run", tmp_path / "out", per_class=2, steps=2, seed=0)
    assert report["median_distance_to_training"]["samples"] == 0
    assert report["samples_nearer_than_any_held_out"] == 1
    assert report["ratio"] == pytest.approx(
        report["accuracy_samples"] / report["accuracy_held_out"]
    )
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert (tmp_path / "out" / "neighbours.png").exists()


def test_a_model_without_labels_is_refused(tmp_path, monkeypatch):
    class Unconditional:
        class_names = ()

    monkeypatch.setattr(sample_check.ImageGenerator, "load", lambda run: Unconditional())
    with pytest.raises(UserError, match="trained without labels"):
        sample_check.check(tmp_path, tmp_path, per_class=1, steps=1, seed=0)


@pytest.mark.large
def test_the_classifier_learns_the_classes():
    """Ten classes of very different sizes: chance is a tenth of each, averaged over classes."""
    data = make_image_dataset(DataConfig(image_size=(16, 16), batch_size=32), seed=0)
    model = sample_check.train_classifier(data, steps=150)
    images, labels = sample_check._collect(data, "validation")
    accuracy = sample_check.accuracy_per_class(model, images, labels, range(10))
    assert np.nanmean(accuracy) > 0.2
