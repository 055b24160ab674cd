import hashlib
import os

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf.config.loss_sections import PerceptualNetworkConfig
from vim_tf.errors import UserError
from vim_tf.losses import perceptual_loss
from vim_tf.models.perceptual import PerceptualFeatures, preprocess

LAYERS = ["block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3"]


def make_images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype("float32")


@pytest.fixture(scope="module")
def vgg():
    keras.utils.set_random_seed(0)
    return keras.applications.VGG16(include_top=False, weights=None)


@pytest.fixture(scope="module")
def weights_file(vgg, tmp_path_factory):
    """Random weights in the layout of keras.applications' own file, written only with h5py."""
    path = tmp_path_factory.mktemp("vgg") / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in vgg.layers]
        file.attrs["backend"] = b"tensorflow"
        for layer in vgg.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}_{kind}_1:0" for kind in "Wb"[: len(layer.weights)]]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.weights, strict=True):
                group[name] = weight.numpy()
    return path


def load(path):
    """The features of a file, with its hash; None and missing files have none."""
    sha256 = None
    if path and os.path.isfile(path):
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return PerceptualFeatures(PerceptualNetworkConfig(path and str(path), sha256))


@pytest.fixture(scope="module")
def features(weights_file):
    return load(weights_file)


def test_preprocessing_is_that_of_keras_applications():
    images = make_images(2, 5, 7, 3)
    expected = keras.applications.vgg16.preprocess_input((images + 1) * 127.5)
    np.testing.assert_allclose(preprocess(images), expected, atol=1e-4)


def test_features_are_those_of_the_five_layers(features, vgg):
    images = make_images(2, 32, 48, 3)
    outputs = features(images)
    x = keras.applications.vgg16.preprocess_input((images + 1) * 127.5)
    expected = []
    for layer in vgg.layers[1:]:
        x = layer(x)
        if layer.name in LAYERS:
            expected.append(x)
    assert [tuple(o.shape) for o in outputs] == [
        (2, 32, 48, 64),
        (2, 16, 24, 128),
        (2, 8, 12, 256),
        (2, 4, 6, 512),
        (2, 2, 3, 512),
    ]
    for output, other in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(output, other, rtol=1e-4, atol=1e-4)


def test_small_sides_are_enlarged_to_32(features):
    images = make_images(2, 16, 40, 3)
    outputs = features(images)
    assert outputs[0].shape == (2, 32, 40, 64)
    # Bilinear doubling with half-pixel centres: 1/4 of the farther and 3/4 of the nearer row.
    padded = np.pad(images, ((0, 0), (1, 1), (0, 0), (0, 0)), mode="edge")
    enlarged = np.zeros((2, 32, 40, 3), "float32")
    enlarged[:, 0::2] = 0.25 * padded[:, :-2] + 0.75 * padded[:, 1:-1]
    enlarged[:, 1::2] = 0.75 * padded[:, 1:-1] + 0.25 * padded[:, 2:]
    for output, expected in zip(outputs, features(enlarged), strict=True):
        np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-3)


def test_weights_of_keras_3_can_be_loaded(features, vgg, tmp_path):
    vgg.save_weights(tmp_path / "vgg.weights.h5")
    images = make_images(1, 32, 32, 3)
    again = load(tmp_path / "vgg.weights.h5")(images)
    for output, expected in zip(again, features(images), strict=True):
        np.testing.assert_array_equal(output, expected)


def test_blocks_as_layers_can_be_loaded(features, vgg, tmp_path):
    """The layout of a Keras 3 model of five blocks, such as the trunk of HED."""
    with h5py.File(tmp_path / "blocks.weights.h5", "w") as file:
        for layer in vgg.layers:
            if layer.weights:
                block, number = layer.name.split("_conv")
                name = "conv2d" if number == "1" else f"conv2d_{int(number) - 1}"
                for i, weight in enumerate(layer.weights):
                    file[f"{block}/layers/{name}/vars/{i}"] = weight.numpy()
        file["side/layers/conv2d/vars/0"] = np.zeros((1, 1, 64, 1))
    images = make_images(1, 32, 32, 3)
    again = load(tmp_path / "blocks.weights.h5")(images)
    for output, expected in zip(again, features(images), strict=True):
        np.testing.assert_array_equal(output, expected)


def test_it_is_frozen_but_passes_gradients_to_images(features):
    assert len(features.trainable_weights) == 0
    assert len(features.weights) == 26
    images, others = tf.constant(make_images(1, 16, 16, 3)), make_images(1, 16, 16, 3, seed=1)
    with tf.GradientTape() as tape:
        tape.watch(images)
        loss = perceptual_loss(features(images), features(others))
    gradient = tape.gradient(loss, images)
    assert loss > 0
    assert np.all(np.isfinite(gradient)) and np.abs(gradient).max() > 0


def message(weights):
    with pytest.raises(UserError) as caught:
        load(weights)
    text = str(caught.value)
    assert "\n" not in text
    assert "set losses.perceptual: 0, or losses.perceptual_network.path to a file" in text
    return text


def test_another_hash_is_one_clear_line(weights_file):
    path = str(weights_file)
    with pytest.raises(
        UserError, match=f"sha256 is not set; that of {path} is [0-9a-f]{{64}}: set"
    ):
        PerceptualFeatures(PerceptualNetworkConfig(path))
    with pytest.raises(
        UserError, match=f"sha256 is abc, but that of {path} is [0-9a-f]{{64}}; get"
    ):
        PerceptualFeatures(PerceptualNetworkConfig(path, "abc"))
    with pytest.raises(UserError, match="sha256 is set and perceptual_network.path is not"):
        PerceptualNetworkConfig(sha256="abc")


def test_a_missing_file_is_one_clear_line():
    assert "losses.perceptual_network.path is nowhere.h5, which is no file" in message("nowhere.h5")
    assert "losses.perceptual_network.path is random, which is no file" in message("random")


@pytest.mark.parametrize("name", ["text.h5", "text.weights.h5", "text.txt"])
def test_a_file_of_something_else_is_one_clear_line(name, tmp_path):
    path = tmp_path / name
    path.write_text("not weights\nat all\n")
    assert f"is {path}, which is no file of VGG16 weights" in message(str(path))


@pytest.mark.parametrize("name", ["other.h5", "other.weights.h5"])
def test_weights_of_another_network_are_one_clear_line(name, tmp_path):
    path = tmp_path / name
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    if name == "other.weights.h5":
        other.save_weights(path)
    else:
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [b"dense"]
            group = file.create_group("dense")
            group.attrs["weight_names"] = [b"kernel", b"bias"]
            group["kernel"], group["bias"] = (w.numpy() for w in other.weights)
    assert f"is {path}, which is no file of VGG16 weights" in message(str(path))


def copy(weights_file, path):
    with h5py.File(weights_file, "r") as source, h5py.File(path, "w") as target:
        for name in source:
            source.copy(name, target)
    return path


def test_links_and_sizes_that_lie_are_one_clear_line(weights_file, tmp_path):
    path = copy(weights_file, tmp_path / "vgg.h5")
    name = "block3_conv2/block3_conv2_b_1:0"
    for value in (
        h5py.ExternalLink(str(weights_file), f"/{name}"),
        h5py.SoftLink("/block3_conv1/block3_conv1_b_1:0"),
    ):
        with h5py.File(path, "a") as file:
            del file[name]
            file[name] = value
        assert f"{type(value).__name__} at /{name}" in message(str(path))
    with h5py.File(path, "a") as file:
        del file[name]
        file.create_dataset(name, (10**12,), "float32")
    assert "more values than its" in message(str(path))
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = np.full(256, np.nan, "float32")
    assert "block3_conv2 holds NaN or infinity" in message(str(path))
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = np.zeros(255, "float32")
    assert "for block3_conv2 it holds [(3, 3, 256, 256), (255,)], not" in message(str(path))


def test_names_in_the_file_are_not_read(weights_file, features, tmp_path):
    path = copy(weights_file, tmp_path / "vgg.h5")
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = [b"block1_conv1"] * 10**3
        file["block1_conv1"].attrs["weight_names"] = [b"block1_conv1_W_1:0"] * 10**3
    images = make_images(1, 32, 32, 3)
    for output, expected in zip(load(path)(images), features(images), strict=True):
        np.testing.assert_array_equal(output, expected)


def test_a_pipe_is_one_clear_line(tmp_path):
    os.mkfifo(tmp_path / "vgg.h5")
    assert "vgg.h5, which is no file" in message(str(tmp_path / "vgg.h5"))


def test_a_failed_download_is_one_clear_line(monkeypatch):
    def offline(**kwargs):
        assert kwargs == {"include_top": False, "weights": "imagenet"}
        raise Exception("URL fetch failure\non all lines")

    monkeypatch.setattr(keras.applications, "VGG16", offline)
    assert "could not be downloaded (URL fetch failure)" in message(None)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_download_is_announced(monkeypatch, tmp_path, capsys, is_there):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    if is_there:  # the file that keras.applications itself looks for
        from keras.src.applications.vgg16 import WEIGHTS_PATH_NO_TOP

        name = WEIGHTS_PATH_NO_TOP.rpartition("/")[2]
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / name).touch()

    def offline(**_):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.applications, "VGG16", offline)
    message(None)
    line = capsys.readouterr().err
    assert line.startswith(
        "" if is_there else "the perceptual loss needs VGG16: Keras downloads its"
    )
    assert line.count("\n") == (0 if is_there else 1)
    assert is_there or f"storage.googleapis.com into {tmp_path}/models, once" in line
