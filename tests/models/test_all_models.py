"""The checks that every model passes: its config, its files, its dtype, and its size."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import vim_tf
from vim_tf.config import values as config_values
from vim_tf.config.sections import ClassifierConfig, TransformerConfig, VIMConfig
from vim_tf.models.classifier import Classifier
from vim_tf.models.precision import computing_in
from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN

TINY = TransformerConfig(blocks=2, heads=2, dim=16, mlp_dim=24, dropout=0.1)
rng = np.random.default_rng(0)
IMAGES = rng.uniform(-1, 1, (3, 16, 16, 3)).astype("float32")
TOKENS = rng.integers(0, 16, (3, 4)).astype("int32")
LABELS = np.int32([0, 4, 5])


@pytest.fixture(params=["vit_vqgan", "vit_vqgan with refinement", "vim", "classifier"])
def make(request, tiny):
    """A function that makes a model with new weights."""
    return {
        "vit_vqgan": lambda: ViTVQGAN(tiny("vit_vqgan").model, (16, 16)),
        "vit_vqgan with refinement": lambda: ViTVQGAN(
            tiny(
                "vit_vqgan", "model.refinement_channels=5", "model.overlapping_patches=true"
            ).model,
            (16, 16),
        ),
        "vim": lambda: VIM(VIMConfig(TINY), (2, 2), 16, 5),
        "classifier": lambda: Classifier(ClassifierConfig(8, stages=2, blocks=2), (16, 16), 5),
    }[request.param]


@pytest.fixture
def model(make):
    keras.utils.set_random_seed(1)
    model = make()
    if isinstance(model, ViTVQGAN) and model.decoder.refinement is not None:
        kernel = model.decoder.refinement.last.kernel  # begins at zero
        kernel.assign(0.1 * np.random.default_rng(1).normal(size=kernel.shape))
    if isinstance(model, VIM):
        model.generate(n=1)  # a compiled function must not get into any file
    return model


def answer(model):
    inputs = (TOKENS, LABELS) if isinstance(model, VIM) else (IMAGES,)
    return np.asarray(model(*inputs))


def assert_same(copy, model):
    assert copy is not model and type(copy) is type(model)
    assert copy.get_config() == model.get_config()
    np.testing.assert_array_equal(answer(copy), answer(model))


def test_the_config_survives_json(model):
    copy = type(model).from_config(json.loads(json.dumps(model.get_config())))
    assert copy.config == model.config
    assert np.any(answer(copy) != answer(model))
    copy.set_weights(model.get_weights())
    assert_same(copy, model)


@pytest.mark.parametrize("load", ["its class", "vim_tf.load"])
def test_a_preset_gives_the_same_model(model, load, tmp_path):
    model.save_to_preset(tmp_path, {"class_names": ["a", "b"]})
    copy = (vim_tf.load if load == "vim_tf.load" else type(model).from_preset)(tmp_path)
    assert_same(copy, model)
    assert copy.metadata["class_names"] == ["a", "b"]
    assert copy.metadata["hash"] == copy.model_hash() == model.model_hash()


def test_a_keras_file_gives_the_same_model(model, tmp_path):
    model.save(tmp_path / "x.keras")
    assert_same(keras.saving.load_model(tmp_path / "x.keras", compile=False), model)


def test_a_checkpoint_has_every_weight_and_nothing_else(make, model, tmp_path):
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    saved = [name for name, _ in tf.train.list_variables(path) if name.startswith("model/")]
    assert len(saved) == len(model.weights)
    copy = make()
    assert np.any(answer(copy) != answer(model))
    tf.train.Checkpoint(model=copy).read(path).assert_consumed()
    assert_same(copy, model)


def test_in_bfloat16_it_answers_in_float32(make, model):
    with computing_in("mixed_bfloat16"):
        half = make()
    half.set_weights(model.get_weights())
    found = half(TOKENS, LABELS) if isinstance(half, VIM) else half(IMAGES)
    assert found.dtype == "float32"
    difference = np.abs(np.asarray(found) - answer(model)).max()
    assert 0 < difference < 0.1 * np.std(answer(model)) + 0.05


def test_the_number_of_weights_is_known_from_the_arguments(model):
    arguments = config_values.build(type(model).Arguments, model.get_config())
    assert model.count_parameters(arguments) == sum(w.numpy().size for w in model.weights)
