"""Keras model files that do more than classify, or describe more than they contain."""

import contextlib
import io
import json
import os
import time
import zipfile

import h5py
import keras
import numpy as np
import pytest

from vim_tf.errors import UserError
from vim_tf.evaluation import keras_archive
from vim_tf.evaluation.features import open_extractor


@pytest.fixture
def path(tmp_path):
    """A valid file of a classifier."""
    return save(tmp_path / "net.keras")


def save(path, layer=None, **more):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 10, 3))
    x = inputs if layer is None else layer(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(4, "relu", **more)(x)
    keras.Model(inputs, keras.layers.Dense(3)(x)).save(path)
    return path


def read(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@contextlib.contextmanager
def changed(path, name="config.json"):
    """Opens the config, or the weights as an h5py.File, for changes."""
    members = read(path)
    if name == "config.json":
        content = json.loads(members[name])
        yield content
        members[name] = json.dumps(content)
    else:
        data = io.BytesIO(members[name])
        with h5py.File(data, "r+") as file:
            yield file
        members[name] = data.getvalue()
    write(path, members)


def refused(path, message, **options):
    start = time.time()
    with pytest.raises(UserError, match=message) as caught:
        open_extractor(path, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 2_000
    assert str(path) in str(caught.value)
    assert time.time() - start < 30


def dense(config):
    return next(layer for layer in config["config"]["layers"] if layer["class_name"] == "Dense")


# Code and other files -----------------------------------------------------------------------------


def test_a_lambda_is_refused_by_name(tmp_path):
    run = []
    layer = keras.layers.Lambda(lambda x: run.append(1) or x, output_shape=(12, 10, 3))
    path = save(tmp_path / "net.keras", layer)
    run.clear()
    refused(
        path, '"Lambda" of "keras.layers", which is not among the .* nothing of the file was loaded'
    )
    assert not run


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"class_name": "TFSMLayer"}, '"TFSMLayer" of "keras.layers"'),
        ({"class_name": "TorchModuleWrapper"}, '"TorchModuleWrapper"'),
        ({"class_name": "JaxLayer"}, '"JaxLayer"'),
        ({"class_name": "FlaxLayer"}, '"FlaxLayer"'),
        ({"class_name": "StringLookup"}, '"StringLookup"'),
        ({"class_name": "Dense", "module": "os"}, '"Dense" of "os"'),
        ({"class_name": "Popen", "module": "subprocess"}, '"Popen" of "subprocess"'),
        ({"class_name": "function", "module": "keras.utils", "config": "get_file"}, '"function"'),
        ({"class_name": "__lambda__", "config": {"value": []}}, '"__lambda__"'),
        ({"class_name": "Dense", "registered_name": "vim_tf>Thing"}, '"Dense"'),
        ({"class_name": "Adam", "module": "keras.optimizers"}, '"Adam" of "keras.optimizers"'),
        ({"class_name": ["Dense"]}, r'\[\\"Dense\\"\]|\["Dense"\]'),
        ({"class_name": "x" * 10**6}, "1,000,00[0-9] characters"),
    ],
)
def test_other_layers_are_refused_by_name(path, entry, message):
    with changed(path) as config:
        dense(config).update(entry)
    refused(path, f"has .*{message}")


def test_a_layer_of_no_module_is_refused(path):
    """Keras would read it by the rules of its old format."""
    with changed(path) as config:
        del dense(config)["module"]
    refused(path, '"Dense" of null')


def test_a_layer_hidden_within_another_is_found(path):
    with changed(path) as config:
        dense(config)["config"]["activation"] = {
            "class_name": "Lambda", "module": "keras.layers", "config": {}
        }  # fmt: skip
    refused(path, '"Lambda" of "keras.layers"')


def test_how_a_model_was_trained_is_not_read(path, monkeypatch):
    model = keras.saving.load_model(path)
    model.compile("adam", "mse")
    model.save(path)
    images = np.zeros((2, 12, 10, 3), "uint8")
    assert open_extractor(path)(images).pooled.shape == (2, 4)
    with changed(path) as config:
        config["compile_config"]["optimizer"]["class_name"] = "Nonsense"
    assert open_extractor(path)(images).pooled.shape == (2, 4)


def test_weights_in_another_file_are_refused(path, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.ones((3, 4), "float32")
    with changed(path, "model.weights.h5") as file:
        group = file["layers/dense/vars"]
        del group["0"]
        group["0"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/x")
    refused(path, "model.weights.h5 of .*net.keras has a ExternalLink at /layers/dense/vars/0")


def test_what_was_hashed_is_what_is_loaded(path, monkeypatch):
    """A replacement of the file after it was read has no effect."""
    expected = open_extractor(path)
    load = keras.saving.load_model

    def replace(given, **options):
        path.write_bytes(b"another file")
        return load(given, **options)

    monkeypatch.setattr(keras.saving, "load_model", replace)
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 10, 3), "uint8")
    found = open_extractor(path, expected_hash=expected.sha256)
    assert path.read_bytes() == b"another file"
    np.testing.assert_array_equal(found(images).pooled, expected(images).pooled)


# The archive --------------------------------------------------------------------------------------


def test_other_members_are_refused(path):
    members = read(path)
    for name in ("assets/x.txt", "../x", "model.weights.npz", "x\x1b"):
        write(path, members | {name: b"x"})
        refused(path, "allowed are config.json, metadata.json, model.weights.h5, once each")
    with pytest.warns(UserWarning, match="Duplicate name"):
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("config.json", b"{}")
    refused(path, "once each")
    for missing in ("config.json", "model.weights.h5"):
        write(path, {name: data for name, data in members.items() if name != missing})
        refused(path, f"holds no {missing}")


def test_archives_that_grow_are_refused(path):
    members = read(path)
    write(path, members | {"model.weights.h5": bytes(2**22)}, zipfile.ZIP_DEFLATED)
    refused(
        path, "model.weights.h5 unpacks to 4,194,304 bytes, more than 100 times its stored size"
    )
    write(path, members | {"config.json": bytes(range(256)) * 2**14 + b"x"})
    refused(path, "config.json of more than 4 MiB")
    write(path, {f"{i}": b"" for i in range(200)})
    refused(path, "an archive of more than 3 files")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (b"\x00", "cannot be loaded as a Keras model"),
        (b"[" * 10**6, "cannot be loaded as a Keras model"),
        (b"9" * 5000, "cannot be loaded as a Keras model"),
        (b"{}", "no functional or sequential model"),
        (b'"text"', "no functional or sequential model"),
        (b'{"class_name": "Functional"}', "of null"),
        (b'{"class_name": "Functional", "module": "keras"}', "describes no model"),
        (
            b'{"class_name": "Sequential", "module": "keras", "config": ' + b"[" * 200 + b"]" * 200
            + b"}",
            "nested more than 100 deep",
        ),
    ],
)  # fmt: skip
def test_other_configs_are_refused(path, config, message):
    write(path, read(path) | {"config.json": config})
    refused(path, message)


# Memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("units", 10**13, "units of 10000000000000; at most 1,048,576"),
        ("units", 10**4000, "units of 1000.*characters.; at most"),
        ("units", 1e300, r"units of 1e\+300; at most"),
        ("units", 2**20, "describes layers of 3,145,728 weights or more, but holds 31"),
    ],
)
def test_sizes_are_known_before_they_are_allocated(path, key, value, message):
    with changed(path) as config:
        dense(config)["config"][key] = value
    refused(path, message)


def test_a_build_config_allocates_nothing(path):
    with changed(path) as config:
        dense(config)["build_config"] = {"input_shape": [None, 2**20]}
        dense(config)["config"]["units"] = 2**20
    refused(path, "describes layers of 1,099,511,627,776 weights or more")


def test_weights_that_are_missing_are_no_zeros(path):
    with changed(path, "model.weights.h5") as file:
        # The number of weights is still right.
        file["other"] = np.zeros(12)
        del file["layers/dense/vars/0"]
    refused(path, "cannot be loaded as a Keras model")


def test_models_within_models_are_counted(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    for _ in range(3):
        inputs = keras.Input((4,))
        x = inputs
        for _ in range(16):
            x = model(x)
        model = keras.Model(inputs, x)
    inputs = keras.Input((8, 8, 4))
    x = model(keras.layers.GlobalAveragePooling2D()(inputs))
    keras.Model(inputs, keras.layers.Dense(2)(x)).save(tmp_path / "net.keras")
    refused(tmp_path / "net.keras", "calls [0-9]+,[0-9]+ layers; at most 5,000")


def test_images_that_grow_are_refused(tmp_path):
    layer = keras.layers.UpSampling2D(2**10)
    path = save(tmp_path / "net.keras", layer)
    refused(path, r"gives \[1, 12288, .*\] for one image; it must be 1 to 67,108,864 values")
    path = save(tmp_path / "net.keras", keras.layers.ZeroPadding2D(2**14))
    refused(path, "for one image; it must be 1 to 67,108,864 values")


def test_images_of_any_size_are_checked_at_their_size(tmp_path):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.UpSampling2D(512)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    keras.Model(inputs, keras.layers.Dense(3)(x)).save(tmp_path / "net.keras")
    network = open_extractor(tmp_path / "net.keras")
    assert network(np.zeros((2, 2, 2, 3), "uint8")).pooled.shape == (2, 3)
    with pytest.raises(UserError, match=r"gives \[1, .*\] for one image; it must be 1 to"):
        network(np.zeros((2, 32, 32, 3), "uint8"))


def test_images_of_another_size_are_one_line(tmp_path):
    inputs = keras.Input((None, 8, 3))
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Reshape((-1, 24))(inputs))
    keras.Model(inputs, keras.layers.Dense(3)(x)).save(tmp_path / "net.keras")
    with pytest.raises(UserError, match="net.keras cannot be run as a classifier of images"):
        open_extractor(tmp_path / "net.keras")(np.zeros((2, 8, 9, 3), "uint8"))


@pytest.mark.parametrize("operation", ["layers", "operators"])
def test_what_is_common_in_classifiers_passes(tmp_path, operation):
    layers = keras.layers
    inputs = keras.Input((16, 16, 3))
    x = layers.RandomFlip()(layers.Rescaling(0.5)(inputs))
    x = layers.Conv2D(8, 3, activation="gelu", kernel_regularizer="l2")(x)
    x = layers.SpatialDropout2D(0.1)(layers.PReLU()(layers.GroupNormalization(2)(x)))
    y = layers.BatchNormalization()(layers.SeparableConv2D(8, 3, padding="same")(x))
    x = layers.Add()([x, y]) if operation == "layers" else (x + y) * 0.5
    x = layers.Reshape((196, 8))(layers.MaxPooling2D(2, 1, padding="same")(x))
    x = layers.LayerNormalization()(layers.MultiHeadAttention(2, 4)(x, x))
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dense(5, kernel_initializer="orthogonal", kernel_constraint="max_norm")(x)
    model = keras.Model(inputs, layers.Dense(3, "softmax")(layers.Dropout(0.5)(x)))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.save(tmp_path / "net.keras")
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), "uint8")
    found = open_extractor(tmp_path / "net.keras")(images).probabilities
    np.testing.assert_allclose(found, model(images / 127.5 - 1), rtol=1e-4)


def test_nothing_remains_on_the_disk(path, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    os.mkdir(tmp_path / "temporary")
    open_extractor(path)
    with changed(path) as config:
        dense(config)["config"]["units"] = 5
    refused(path, "cannot be loaded|describes layers")
    assert not os.listdir(tmp_path / "temporary")
    assert keras_archive.MEMBERS == set(read(path))


def test_a_model_instead_of_an_activation_is_refused(path):
    """Its layers would not be counted, and might be read by the rules of an old format."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    entry = keras.saving.serialize_keras_object(model)
    with changed(path) as config:
        dense(config)["config"]["activation"] = entry
    refused(path, "has a model as activation; no layer can be there")


def test_the_names_are_those_of_keras():
    assert all(hasattr(keras.layers, name) for name in keras_archive.LAYERS)
    assert not {"Lambda", "TFSMLayer", "JaxLayer", "StringLookup"} & keras_archive.LAYERS
