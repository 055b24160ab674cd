import keras
import numpy as np
import pytest
from scipy.special import softmax

import vim_tf
from vim_tf.errors import UserError
from vim_tf.evaluation.features import open_extractor
from vim_tf.evaluation.keras_classifier import open_classifier
from vim_tf.evaluation.resizing import resize_clean, resize_legacy
from vim_tf.files import hash_file


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (5, 20, 24, 3), "uint8")


def save_classifier(path, size=(12, 10), activation=None, softmax_layer=False):
    """Saves a model mean colour -> 4 features -> 3 classes; returns its weights."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((*size, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    x = keras.layers.Dense(4, "relu", bias_initializer="ones")(x)
    x = keras.layers.Dense(3, activation)(x)
    if softmax_layer:
        x = keras.layers.Softmax()(x)
    model = keras.Model(inputs, x)
    model.save(path)
    return model.get_weights()


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize(("mode", "resize"), [(None, resize_clean), ("legacy", resize_legacy)])
def test_a_classifier_is_a_proxy(tmp_path, images, activation, mode, resize):
    first, bias, last, last_bias = save_classifier(tmp_path / "colours.keras", (12, 10), activation)
    extractor = open_classifier(tmp_path / "colours.keras", "--reject", mode)
    found = extractor(images)
    means = (resize(images, (12, 10)) / 127.5 - 1).mean((1, 2))
    features = np.maximum(means @ first + bias, 0)
    assert (extractor.name, extractor.dim, extractor.classes) == ("colours", 4, 3)
    assert (extractor.spatial_dim, found.spatial) == (None, None)
    np.testing.assert_allclose(found.pooled, features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        found.probabilities, softmax(features @ last + last_bias, axis=1), rtol=1e-4
    )


def test_a_softmax_layer_gives_probabilities(tmp_path, images):
    *_, last, last_bias = save_classifier(tmp_path / "net.keras", softmax_layer=True)
    found = open_classifier(tmp_path / "net.keras", "--reject")(images)
    # The inputs of the last layer are the logits.
    np.testing.assert_allclose(found.probabilities, softmax(found.pooled, axis=1), rtol=1e-4)


def test_images_of_its_size_or_of_any_are_not_resized(tmp_path, images, monkeypatch):
    monkeypatch.setattr("vim_tf.evaluation.keras_classifier.RESIZERS", {})
    expected = None
    for size in ((20, 24), (None, None)):
        save_classifier(tmp_path / "net.keras", size)
        found = open_classifier(tmp_path / "net.keras", "--reject")(images).pooled
        expected = found if expected is None else expected
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_keras_cannot_do_is_refused(tmp_path):
    save_classifier(tmp_path / "net.keras")
    with pytest.raises(UserError, match="resize is adm.*allowed are clean and legacy"):
        open_extractor(tmp_path / "net.keras", "adm")
    with pytest.raises(UserError, match="resize is best; allowed are adm, clean, legacy"):
        open_extractor(tmp_path / "net.keras", "best")
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)]).save(tmp_path / "c.keras")
    with pytest.raises(UserError, match=r"has the shapes .*\(None, 6, 6, 2\); give a functional"):
        open_classifier(tmp_path / "c.keras", "--reject")


# Runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "preset"])
def test_a_run_is_a_classifier(tiny_classifier, inside):
    found = open_classifier(tiny_classifier / inside, "--reject")
    model = vim_tf.load(tiny_classifier)
    images = np.random.default_rng(1).integers(0, 256, (5, 16, 16, 3), "uint8")
    logits = model(images / 127.5 - 1)
    answer = found(images)
    np.testing.assert_allclose(answer.probabilities, softmax(logits, axis=1), rtol=1e-4)
    assert answer.pooled.shape == (5, found.dim) == (5, 16)
    labels = np.array([0, 1, 1, 0, 1])
    np.testing.assert_allclose(
        found.label_probabilities(images, labels),
        softmax(logits, axis=1)[range(5), labels],
        rtol=1e-4,
    )
    assert (found.name, found.classes) == (inside or "tiny", 2)
    assert found.class_names == ("blue", "red")
    assert found.sha256 == model.model_hash()


def test_names_and_hashes_of_a_file_and_a_run(tiny_classifier, tmp_path):
    save_classifier(tmp_path / "net.keras")
    assert open_extractor(tmp_path / "net.keras").sha256 == hash_file(tmp_path / "net.keras")
    assert open_extractor(tiny_classifier).name == "tiny"


def test_what_is_no_classifier_is_refused(tiny_runs, tmp_path):
    (tmp_path / "d.keras").write_bytes(b"no model")
    for path, message in (
        (tmp_path / "d.keras", "reject .*d.keras cannot be loaded as a Keras model"),
        (tmp_path / "none.keras", "reject is .*none.keras, which is no classifier; give the"),
        (tmp_path, "is neither a run nor a preset"),
        (tiny_runs["vim"], "reject .*vim holds a VIM; give a run of experiment classifier"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            open_classifier(path, "--reject")
        assert "\n" not in str(caught.value)


def test_classes_must_be_the_models(tiny_classifier, tmp_path):
    save_classifier(tmp_path / "net.keras")  # of 3 classes, without class names
    file, run = (open_classifier(p, "--reject") for p in (tmp_path / "net.keras", tiny_classifier))
    file.check_classes("abc", "--reject")
    run.check_classes(("blue", "red"), "--reject")
    for classifier, names, message in (
        (file, ("blue", "red"), "knows 3 classes, and the model has 2"),
        (file, (), "by their class, and the model was trained without labels"),
        (run, ("blue", "green"), "calls class 1 red, and the model calls it green"),
    ):
        with pytest.raises(UserError, match=message):
            classifier.check_classes(names, "--reject")
