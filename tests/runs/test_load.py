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


def test_vim_is_no_tokenizer(tiny_runs):
    with pytest.raises(UserError, match="holds a VIM; tokenizer.run needs"):
        presets.load_tokenizer(tiny_runs["vim"])
    assert isinstance(presets.load_tokenizer(tiny_runs["vit_vqgan"]), ViTVQGAN)
