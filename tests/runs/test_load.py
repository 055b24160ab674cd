import dataclasses

import numpy as np
import pytest

import vim_tf
from vim_tf.errors import UserError
from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.runs import load as presets


@pytest.mark.parametrize(("name", "cls"), [("vit_vqgan", ViTVQGAN), ("vim", VIM)])
def test_a_run_and_its_preset_load_alike(tiny_runs, name, cls):
    models = [vim_tf.load(tiny_runs[name]), vim_tf.load(str(tiny_runs[name] / "preset"))]
    for model in models:
        assert type(model) is cls
        assert model.metadata["hash"] == model.model_hash()
        assert model.metadata["class_names"] == ["blue", "red"]
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(a, b)


def test_vims_preset_holds_the_tokenizer_it_was_trained_with(tiny_runs):
    inside = vim_tf.load(tiny_runs["vim"] / "preset" / "tokenizer")
    assert inside.model_hash() == vim_tf.load(tiny_runs["vit_vqgan"]).model_hash()


def test_nonsense_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere", __file__):
        with pytest.raises(UserError, match="neither a run nor a preset"):
            vim_tf.load(path)


def test_a_run_without_a_preset_is_told_to_go_on(tmp_path):
    (tmp_path / "config.yaml").write_text("experiment: vim")
    with pytest.raises(UserError, match="has saved no preset yet"):
        vim_tf.load(tmp_path)


@pytest.fixture
def other(tmp_path):
    """A tokenizer of the same shapes as that of `tiny_runs`, but with other weights."""

    def make(model):
        copy = ViTVQGAN(model.config, model.image_size)
        copy.save_to_preset(tmp_path / "other")
        return tmp_path / "other"

    return make


def test_a_vim_takes_another_decoder_for_its_tokens(tiny_runs, tiny_decoder):
    vim = vim_tf.load(tiny_runs["vim"])
    own, names = presets.load_tokenizer_of(vim, tiny_runs["vim"])
    tuned, same_names = presets.load_tokenizer_of(vim, tiny_runs["vim"], tiny_decoder)
    assert names == same_names
    assert tuned.token_hash() == own.token_hash() == vim.metadata["token_hash"]
    assert vim.metadata["decoder_hash"] == own.decoder_hash() != tuned.decoder_hash()
    images = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3)).astype("float32")
    tokens = own.tokenize(images)
    np.testing.assert_array_equal(tokens, tuned.tokenize(images))
    assert np.abs(own.decode_tokens(tokens) - tuned.decode_tokens(tokens)).max() > 1e-3


def test_a_decoder_for_other_tokens_is_refused(tiny_runs, other):
    own = presets.load_tokenizer(tiny_runs["vit_vqgan"])
    path = other(own)
    theirs = vim_tf.load(path).token_hash()
    with pytest.raises(UserError) as caught:
        presets.load_decoder(own, path)
    assert str(caught.value) == (
        f"decoder {path} is for the tokens {theirs[:16]}, and the tokens here are "
        f"{own.token_hash()[:16]}: they mean different things; give a run of experiment decoder "
        "whose tokenizer.run is the tokenizer of this run"
    )
    with pytest.raises(UserError, match="holds a VIM; decoder needs a run of experiment vit_vqgan"):
        presets.load_decoder(own, tiny_runs["vim"])


def test_a_vim_whose_names_or_tokenizer_do_not_fit_is_refused(tiny_runs, tmp_path):
    """A preset that VIM.save_to_preset wrote says nothing of its tokenizer."""
    vim, tokenizer = vim_tf.load(tiny_runs["vim"]), presets.load_tokenizer(tiny_runs["vit_vqgan"])
    vim.save_to_preset(tmp_path, {"class_names": ["a", "b", "c"]})
    tokenizer.save_to_preset(tmp_path / "tokenizer")
    with pytest.raises(UserError, match="names 3 classes, and its VIM has 2; take a whole copy"):
        presets.load_tokenizer_of(vim_tf.load(tmp_path), tmp_path)
    vim.save_to_preset(tmp_path)
    assert presets.load_tokenizer_of(vim_tf.load(tmp_path), tmp_path)[1] == ("0", "1")
    quantizer = dataclasses.replace(tokenizer.config.quantizer, codes=15)
    config = dataclasses.replace(tokenizer.config, quantizer=quantizer)
    ViTVQGAN(config, tokenizer.image_size).save_to_preset(tmp_path / "tokenizer")
    with pytest.raises(UserError, match="VIM and tokenizer differ in codes or grid"):
        presets.load_tokenizer_of(vim_tf.load(tmp_path), tmp_path)


def test_vim_is_no_tokenizer(tiny_runs):
    with pytest.raises(UserError, match="holds a VIM; tokenizer.run needs"):
        presets.load_tokenizer(tiny_runs["vim"])
    assert isinstance(presets.load_tokenizer(tiny_runs["vit_vqgan"]), ViTVQGAN)
