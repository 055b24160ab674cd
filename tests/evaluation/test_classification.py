"""`evaluate classification`: a classifier predicts samples, and another is trained on them."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest

import vim_tf
from vim_tf import evaluate
from vim_tf.errors import UserError
from vim_tf.evaluation import classification
from vim_tf.evaluation.keras_classifier import open_classifier
from vim_tf.generation.image_generator import ImageGenerator
from vim_tf.runs.run import Run
from vim_tf.runs.trained_run import open_run


@pytest.fixture
def run(tiny_runs, tmp_path):
    def run(classifier, *arguments, of="vim"):
        out = tmp_path / "x.json"
        given = ["--run", str(tiny_runs[of]), "--classifier", str(classifier), "--out", str(out)]
        evaluate.main(["classification", *given, *map(str, arguments)])
        return json.loads(out.read_text())

    return run


def real_images(path):
    """Images [n,H,W,3] in [-1,1] rounded to 8 bits, and labels [n]."""
    batches = list(open_run(path).data.evaluation())
    images = np.concatenate([b["image"] for b in batches])
    labels = np.concatenate([b["label"] for b in batches])
    return np.round((images + 1) * 127.5) / 127.5 - 1, labels


@pytest.mark.large
def test_accuracies_are_those_of_the_classifier(run, tiny_runs, tiny_classifier):
    result = run(tiny_classifier, "--n", "9", "--seed", "3", "--batch-size", "4")
    labels = np.arange(9) % 2
    samples = ImageGenerator.load(tiny_runs["vim"]).generate(labels, seed=3)
    model = vim_tf.load(tiny_classifier)
    expected = {}
    for what, images, truth in (
        ("samples", samples / 127.5 - 1, labels),
        ("held-out images", *real_images(tiny_runs["vim"])),
    ):
        hits = np.argmax(model(images), -1) == truth
        expected[f"accuracy of {what}[tiny]"] = hits.mean()
        if what == "samples":  # 5 of one class and 4 of the other
            per_class = [hits[truth == label].mean() for label in (0, 1)]
            expected[f"accuracy of {what}[tiny], mean over classes"] = np.mean(per_class)
    score = result["figures"].pop("classification accuracy score[tiny]")
    assert result["figures"] == pytest.approx(expected)
    assert 0 <= score <= 1
    assert result["images"]["count"] == 9
    assert result["extractor"]["sha256"] == model.model_hash()
    assert result["settings"]["classification_accuracy_score"]["training"]["steps"] == 12
    assert result["markdown"].startswith("| accuracy of samples[tiny]")
    assert result["model_index"][0]["results"][0]["dataset"] == {"type": "folder", "name": "train"}


def test_the_training_of_a_file_is_not_known(run, tmp_path):
    keras.Sequential(
        [keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    ).save(tmp_path / "colours.keras")
    result = run(tmp_path / "colours.keras", "--n", "4")
    assert len(result["figures"]) == 2
    assert (
        "only a run of experiment classifier"
        in (result["missing"]["classification accuracy score"])
    )


@pytest.mark.large
@pytest.mark.parametrize("labels_are", ["right", "swapped"])
def test_the_score_is_of_what_samples_teach(tiny_runs, tiny_classifier, labels_are):
    """Samples are as red and blue as the images. The second time their labels are swapped."""
    rng = np.random.default_rng(0)
    labels = np.arange(200, dtype="int32") % 2
    samples = rng.integers(0, 120, (200, 4, 4, 3)).repeat(4, 1).repeat(4, 2)
    samples[labels == 0, ..., 2] += 120
    samples[labels == 1, ..., 0] += 120
    given = labels if labels_are == "right" else 1 - labels
    experiment = Run(tiny_classifier).load_experiment()
    training = dataclasses.replace(experiment.training, steps=40, ema_decay=0.9)
    experiment = dataclasses.replace(experiment, training=training)
    run = open_run(tiny_runs["vim"])
    model = classification._train(experiment, samples.astype("uint8"), given, run)
    images, truth = real_images(tiny_runs["vim"])
    accuracy = np.mean(np.argmax(model(images), -1) == truth)
    assert accuracy == (1 if labels_are == "right" else 0)


def test_hits_are_counted_by_class(tiny_classifier):
    classifier = open_classifier(tiny_classifier, "--classifier")
    images = np.random.default_rng(1).integers(0, 256, (7, 16, 16, 3), "uint8")
    said = np.argmax(classifier(images).probabilities, 1)
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    hits, counts = classification._count_hits(
        classifier, [(images[:3], labels[:3]), (images[3:], labels[3:])], 2
    )
    assert list(counts) == [3, 4]
    assert list(hits) == [np.sum(said[:3] == 0), np.sum(said[3:] == 1)]
    figures = classification._accuracies(np.array([3, 1]), np.array([3, 4]), "a")
    assert figures == {"a": 4 / 7, "a, mean over classes": (1 + 1 / 4) / 2}


@pytest.mark.parametrize(
    ("of", "arguments", "message"),
    [
        ("vit_vqgan", [], "run of stage 1, which generates nothing"),
        ("vim", ["--n", "0"], "--n is 0; it must be 1 or more"),
        ("vim", ["--acceptance", "0.5"], "give both or neither"),
        ("vim", ["--n", "2", "--top-p", "0"], "top_p is 0"),
    ],
)
def test_mistakes_are_one_line(run, tiny_classifier, tmp_path, of, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        run(tiny_classifier, *arguments, of=of)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x.json").exists()


def test_a_classifier_is_needed(run, tmp_path):
    with pytest.raises(UserError, match="classifier is .*none, which is no classifier"):
        run(tmp_path / "none")


def test_a_config_of_another_run_is_refused_before_any_sample(
    run, tiny_classifier, tiny_runs, tmp_path
):
    mixed = tmp_path / "mixed"
    shutil.copytree(tiny_classifier, mixed)
    shutil.copy(tiny_runs["vim"] / "config.yaml", mixed / "config.yaml")
    with pytest.raises(UserError, match="config.yaml is of experiment vim, and its preset holds"):
        run(mixed)
