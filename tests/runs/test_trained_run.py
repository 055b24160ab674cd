import os
import shutil

import keras
import numpy as np
import pytest

from vim_tf import formats
from vim_tf.errors import UserError
from vim_tf.runs.load import load
from vim_tf.runs.trained_run import open_run


def test_both_stages_open(tiny_runs):
    run = open_run(tiny_runs["vim"])
    assert run.class_names == ("blue", "red")
    assert run.steps == (6, 6)
    assert run.hashes() == {**run.tokenizer.hashes(), "vim": run.vim.model_hash()}
    alone = open_run(tiny_runs["vit_vqgan"])
    assert alone.vim is None
    assert alone.hashes() == run.tokenizer.hashes() == alone.tokenizer.hashes()
    assert run.feature_hashes() == {
        name: value for name, value in run.hashes().items() if name != "decoder"
    }


def test_a_decoder_is_opened_alone_or_with_a_vim(tiny_runs, tiny_decoder):
    alone, run = open_run(tiny_decoder), open_run(tiny_runs["vim"], decoder=tiny_decoder)
    assert alone.experiment.experiment == "decoder" and alone.steps == (6, 6)
    assert run.tokenizer.hashes() == alone.hashes()
    own = open_run(tiny_runs["vim"])
    assert run.feature_hashes() == own.feature_hashes() and run.hashes() != own.hashes()


def test_a_run_without_vim_takes_no_decoder(tiny_runs, tiny_decoder):
    with pytest.raises(UserError, match="has no VIM whose tokens it could decode; give .* itself"):
        open_run(tiny_runs["vit_vqgan"], decoder=tiny_decoder)


def test_images_are_the_held_out_ones(tiny_runs, tiny_images):
    run = open_run(tiny_runs["vim"])
    images = run.images(100)
    assert images.shape == (10, 16, 16, 3)
    assert images.dtype == np.uint8
    assert len(run.images(4)) == 4
    assert len(run.images(100, "train")) == 24


def test_a_run_of_mixed_precision_is_opened_in_float32(tiny_runs):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        run = open_run(tiny_runs["vim"])
        assert load(tiny_runs["vim"]).compute_dtype == "bfloat16"
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    assert run.vim.compute_dtype == run.tokenizer.compute_dtype == "float32"
    assert run.vim.transformer.blocks[0].compute_dtype == "float32"


def test_images_that_have_moved(tiny_runs, tiny_images, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(tiny_images, moved)
    overrides = [f"data.path={moved}/train", f"data.validation_path={moved}/validation"]
    assert len(open_run(tiny_runs["vim"], overrides).images(100)) == 10
    overrides = [f"data.path={moved}/validation", "data.validation_path=null"]
    with pytest.raises(UserError, match="was made from other images: 24 training images then"):
        open_run(tiny_runs["vim"], overrides).images(100)
    images = open_run(tiny_runs["vim"], overrides, other_images=True).images(100)
    assert 0 < len(images) < 10


def test_nothing_but_the_data_can_be_changed(tiny_runs):
    with pytest.raises(
        UserError, match="override model.label_drop=0 would change the trained model"
    ):
        open_run(tiny_runs["vim"], ["model.label_drop=0"])


def test_a_folder_that_is_no_run_is_refused(tiny_runs, tmp_path):
    with pytest.raises(UserError, match="is no run: it has no config.yaml"):
        open_run(tmp_path)
    with pytest.raises(UserError, match="is no run: it has no config.yaml"):
        open_run(tmp_path / "nowhere")


def test_a_run_without_weights_and_a_torn_one(tiny_runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_runs["vim"], run)
    weights = run / "preset" / "model.weights.h5"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model.weights.h5 has .* of its .* bytes"):
        open_run(run)
    shutil.rmtree(run / "preset")
    with pytest.raises(
        UserError, match="has saved no preset yet; wait until its training saves one"
    ):
        open_run(run)


def test_a_classifier_is_no_model_of_images(tiny_classifier):
    with pytest.raises(UserError, match="is a run of experiment classifier; give one of"):
        open_run(tiny_classifier)


def test_the_probe_of_these_weights_says_which_block(tiny_runs, tmp_path):
    path = shutil.copytree(tiny_runs["vim"], tmp_path / "vim")
    assert open_run(path).probed_block is None
    (path / "probe").mkdir()
    for models, expected in ((open_run(path).feature_hashes(), 1), ({"vim": "of another"}, None)):
        text = formats.to_json("probe", {"block": 1, "models": models})
        (path / "probe" / "probe.json").write_text(text)
        assert open_run(path).probed_block == expected
    assert open_run(tiny_runs["vit_vqgan"]).probed_block is None


@pytest.fixture
def copied(tiny_runs, tmp_path):
    """A function (stage) -> a copy of the run whose `preset_best` has other weights."""

    def copy(stage):
        run = shutil.copytree(tiny_runs[stage], tmp_path / stage)
        model = load(run / "preset_best")
        model.weights[0].assign(model.weights[0] + 1)
        model.save_to_preset(run / "preset_best", model.metadata)
        return run

    return copy


@pytest.mark.parametrize("stage", ["vit_vqgan", "vim"])
def test_the_best_weights_of_a_run_are_taken_with_its_config_and_images(copied, stage, monkeypatch):
    path = copied(stage)
    last = open_run(path)
    best = open_run(path / "preset_best")
    assert (last.weights, best.weights) == ("preset", "preset_best")
    assert best.path == last.path
    assert best.experiment == last.experiment
    assert best.data.fingerprint() == last.data.fingerprint()
    trained = best.tokenizer if stage == "vit_vqgan" else best.vim
    assert trained.model_hash() == load(path / "preset_best").model_hash()
    assert best.hashes() != last.hashes()
    assert open_run(path / "preset").hashes() == last.hashes()
    monkeypatch.chdir(path / "preset_best")
    for given in (".", "../preset_best", "../preset_best/"):
        assert open_run(given).hashes() == best.hashes()
    # A run that was killed while it replaced the preset has only the old one.
    os.rename(path / "preset_best", path / "preset_best.old")
    assert open_run(path / "preset_best").hashes() == best.hashes()
    shutil.rmtree(path / "preset_best.old")
    with pytest.raises(UserError, match=r"has saved no preset_best yet; wait until its training"):
        open_run(path / "preset_best")


def test_a_preset_without_its_run_is_refused(tiny_runs, tmp_path):
    for name in ("preset_best", "mine"):
        shutil.copytree(tiny_runs["vim"] / "preset_best", tmp_path / name)
        with pytest.raises(UserError, match=f"{name} is a preset without its run; here the run's"):
            open_run(tmp_path / name)


def test_a_config_and_weights_of_two_experiments_are_refused(copied, tiny_runs):
    run = copied("vim")
    shutil.copy(tiny_runs["vit_vqgan"] / "config.yaml", run)
    with pytest.raises(UserError, match=r"is of experiment vit_vqgan, and preset holds a VIM: one"):
        open_run(run)


def test_each_weights_have_their_probe(copied):
    path = copied("vim")
    (path / "probe_best").mkdir()
    text = formats.to_json(
        "probe", {"block": 1, "models": open_run(path / "preset_best").feature_hashes()}
    )
    (path / "probe_best" / "probe.json").write_text(text)
    assert open_run(path).probed_block is None
    assert open_run(path / "preset_best").probed_block == 1
