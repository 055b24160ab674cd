import json

import numpy as np
import pytest

import vim_tf
from vim_tf.config import TransformerConfig, VIMConfig
from vim_tf.errors import UserError
from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN

TINY = TransformerConfig(blocks=1, heads=2, dim=16, mlp_dim=24, dropout=0.1)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3)).astype("float32")
TOKENS = np.random.default_rng(0).integers(0, 16, (3, 4)).astype("int32")


@pytest.fixture
def tokenizer(tiny):
    return ViTVQGAN(tiny("vit_vqgan").model, (16, 16))


@pytest.fixture
def preset(tokenizer, tmp_path):
    tokenizer.save_to_preset(tmp_path / "preset", {"class_names": ["a"]})
    return tmp_path / "preset"


def refuses(folder, match, load=ViTVQGAN.from_preset):
    with pytest.raises(UserError, match=match) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("load", [ViTVQGAN.from_preset, vim_tf.load])
def test_a_loaded_tokenizer_answers_the_same(tokenizer, preset, load):
    loaded = load(preset)
    np.testing.assert_array_equal(loaded(IMAGES), tokenizer(IMAGES))
    assert loaded.metadata["class_names"] == ["a"]
    assert loaded.metadata["weights_hash"] == tokenizer.weights_hash() == loaded.weights_hash()


@pytest.mark.parametrize("load", [VIM.from_preset, vim_tf.load])
def test_a_loaded_vim_answers_the_same(tmp_path, load):
    model = VIM(VIMConfig(TINY), (2, 2), 16, 5)
    model.save_to_preset(tmp_path)
    loaded = load(tmp_path)
    labels = np.int32([0, 4, 5])
    np.testing.assert_array_equal(loaded(TOKENS, labels), model(TOKENS, labels))
    assert loaded.classes == 5


def test_saving_again_replaces(tokenizer, preset):
    bias = tokenizer.decoder.head.outer.bias
    bias.assign(bias + 1)
    tokenizer.save_to_preset(preset)
    np.testing.assert_array_equal(ViTVQGAN.from_preset(preset)(IMAGES), tokenizer(IMAGES))


def test_another_class_is_refused(preset):
    refuses(preset, "is a preset of ViTVQGAN, not of VIM", VIM.from_preset)


def test_an_unknown_class_is_refused(preset):
    (preset / "config.json").write_text('{"class": "GPT", "config": {}}')
    refuses(preset, "preset of GPT; vim_tf knows ViTVQGAN, VIM", vim_tf.load)


@pytest.mark.parametrize("name", ["config.json", "metadata.json", "model.weights.h5"])
def test_a_missing_file_is_named(preset, name):
    (preset / name).unlink()
    refuses(preset, name)


@pytest.mark.parametrize("content", ["{", "[]", '"text"', "{}"])
@pytest.mark.parametrize("name", ["config.json", "metadata.json"])
def test_a_damaged_file_is_named(preset, name, content):
    (preset / name).write_text(content)
    refuses(preset, "damaged|preset of None")


@pytest.mark.parametrize("content", [b"", b"no HDF5"])
def test_damaged_weights_are_named(preset, content):
    (preset / "model.weights.h5").write_bytes(content)
    refuses(preset, "model.weights.h5")


def test_truncated_weights_are_refused(preset):
    path = preset / "model.weights.h5"
    path.write_bytes(path.read_bytes()[:-1000])
    refuses(preset, "model.weights.h5")


def test_weights_of_another_model_are_refused(tokenizer, preset, tmp_path):
    """Of the same shapes: only the hash can tell."""
    other = ViTVQGAN.from_config(tokenizer.get_config())
    other.save_to_preset(tmp_path / "other")
    (tmp_path / "other" / "model.weights.h5").replace(preset / "model.weights.h5")
    refuses(preset, "hash")


def test_weights_of_another_shape_are_refused(preset):
    config = json.loads((preset / "config.json").read_text())
    config["config"]["config"]["quantizer"]["codes"] = 8
    (preset / "config.json").write_text(json.dumps(config))
    refuses(preset, "model.weights.h5")


def test_a_config_of_another_version_is_refused(preset):
    config = json.loads((preset / "config.json").read_text())
    config["config"]["config"]["colour"] = "blue"
    (preset / "config.json").write_text(json.dumps(config))
    refuses(preset, "config.json")
