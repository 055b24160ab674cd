import json

import numpy as np
import pytest

import vim_tf
from vim_tf import formats
from vim_tf.config.sections import TransformerConfig, VIMConfig
from vim_tf.errors import UserError
from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN

TINY = TransformerConfig(blocks=1, heads=2, dim=16, mlp_dim=24, dropout=0.1)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3)).astype("float32")


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


def test_saving_again_replaces(tokenizer, preset):
    bias = tokenizer.decoder.head.outer.bias
    bias.assign(bias + 1)
    tokenizer.save_to_preset(preset)
    np.testing.assert_array_equal(ViTVQGAN.from_preset(preset)(IMAGES), tokenizer(IMAGES))


def test_another_class_is_refused(preset):
    refuses(preset, "is a preset of ViTVQGAN, not of VIM", VIM.from_preset)


def rewrite(path, change):
    """Changes one of our JSON files, and updates its checksum, as a stranger would."""
    content = formats.read_json(path, "preset", "")
    change(content)
    path.write_text(formats.to_json("preset", content))


def test_an_unknown_class_is_refused(preset):
    rewrite(preset / "config.json", lambda content: content.update({"class": "GPT"}))
    refuses(preset, "preset of GPT; vim_tf knows .*VIM, ViTVQGAN", vim_tf.load)


@pytest.mark.parametrize("name", ["config.json", "metadata.json", "model.weights.h5"])
def test_a_missing_file_is_named(preset, name):
    (preset / name).unlink()
    refuses(preset, name)


@pytest.mark.parametrize("content", ["{", "[]", '"text"', "{}"])
@pytest.mark.parametrize("name", ["config.json", "metadata.json"])
def test_a_damaged_file_is_named(preset, name, content):
    (preset / name).write_text(content)
    refuses(preset, f"{name} (is damaged|has no format number)")


@pytest.mark.parametrize("name", ["config.json", "metadata.json", "model.weights.h5"])
def test_a_flipped_bit_is_found(preset, name):
    data = bytearray((preset / name).read_bytes())
    data[len(data) // 2] ^= 1
    (preset / name).write_bytes(data)
    refuses(preset, f"{name} (is damaged|does not have the hash)")


@pytest.mark.parametrize("content", [b"", b"no HDF5"])
def test_damaged_weights_are_named(preset, content):
    (preset / "model.weights.h5").write_bytes(content)
    refuses(preset, "model.weights.h5 has .* of its .* bytes")


def test_truncated_weights_are_refused(preset):
    path = preset / "model.weights.h5"
    path.write_bytes(path.read_bytes()[:-1000])
    refuses(preset, "model.weights.h5 has .* of its .* bytes")


def test_weights_are_hashed_before_they_are_opened(preset, monkeypatch):
    path = preset / "model.weights.h5"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr("h5py.File", None)
    refuses(preset, "does not have the hash in config.json")


def test_weights_of_another_model_are_refused(tokenizer, preset, tmp_path):
    """The shapes are the same: only the hash shows it."""
    other = ViTVQGAN.from_config(tokenizer.get_config())
    other.save_to_preset(tmp_path / "other")
    (tmp_path / "other" / "model.weights.h5").replace(preset / "model.weights.h5")
    refuses(preset, "hash")


def test_a_preset_put_together_of_two_is_refused(tokenizer, preset, tmp_path):
    other = ViTVQGAN.from_config(tokenizer.get_config())
    other.save_to_preset(tmp_path / "other")
    (tmp_path / "other" / "metadata.json").replace(preset / "metadata.json")
    refuses(preset, "does not have the hash that config.json and metadata.json say")


def test_the_config_is_part_of_the_hash(tokenizer, preset):
    """Two or four heads have the same weights but give different tokens."""
    config = tokenizer.get_config()
    config["config"]["encoder"]["heads"] = 4
    other = ViTVQGAN.from_config(config)
    other.set_weights(tokenizer.get_weights())
    assert np.any(other.tokenize(IMAGES) != tokenizer.tokenize(IMAGES))
    assert other.model_hash() != tokenizer.model_hash()

    def heads(content):
        content["config"]["config"]["encoder"]["heads"] = 4

    rewrite(preset / "config.json", heads)
    refuses(preset, "does not have the hash")


HOSTILE = {
    "codes": 10**13,
    "many codes": 2**24,
    "blocks": 10**9,
    "many blocks": 1024,
    "image": [10**9, 10**9],
    "large image": [16384, 16384],
    "text": "16",
    "float": 16.5,
    "none": None,
    "list": [1] * 100,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_config_asks_for_is_checked_before_it_is_made(preset, name, monkeypatch):
    def change(content):
        inner, value = content["config"], HOSTILE[name]
        if "image" in name:
            inner["image_size"] = value
        elif "blocks" in name:
            inner["config"]["encoder"]["blocks"] = value
        else:
            inner["config"]["quantizer"]["codes"] = value

    rewrite(preset / "config.json", change)
    monkeypatch.setattr(ViTVQGAN, "__init__", None)
    refuses(preset, "config.json describes no ViTVQGAN of this version")


@pytest.mark.parametrize(
    ("key", "value"), [("grid", [10**9, 10**9]), ("grid", [256, 257]), ("codes", 2**24)]
)
def test_vims_sizes_are_checked_before_it_is_made(tmp_path, key, value, monkeypatch):
    VIM(VIMConfig(TINY), (2, 2), 16, 5).save_to_preset(tmp_path)
    rewrite(tmp_path / "config.json", lambda content: content["config"].update({key: value}))
    monkeypatch.setattr(VIM, "__init__", None)
    refuses(tmp_path, "describes no VIM", VIM.from_preset)


def test_weights_of_another_shape_are_refused(preset):
    def fewer(content):
        content["config"]["config"]["quantizer"]["codes"] = 8

    rewrite(preset / "config.json", fewer)
    refuses(preset, "model.weights.h5")


def test_a_config_of_another_version_is_refused(preset):
    rewrite(preset / "config.json", lambda c: c["config"]["config"].update({"colour": "blue"}))
    refuses(preset, "config.json .*colour")


def test_a_preset_of_an_earlier_format_says_what_to_do(preset):
    """The preset is as vim_tf wrote it before files had format numbers."""
    old = {"class": "ViTVQGAN", "config": {}}
    (preset / "config.json").write_text(json.dumps(old))
    refuses(preset, "no format number and was written by an earlier vim_tf.*or train again")
