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
    assert set(run.hashes()) == {"tokenizer", "vim"}
    alone = open_run(tiny_runs["vit_vqgan"])
    assert alone.vim is None
    assert alone.hashes() == {"tokenizer": run.hashes()["tokenizer"]}


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
        open_run(tiny_runs["vim"] / "preset")


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
    for models, expected in ((open_run(path).hashes(), 1), ({"vim": "of another"}, None)):
        text = formats.to_json("probe", {"block": 1, "models": models})
        (path / "probe" / "probe.json").write_text(text)
        assert open_run(path).probed_block == expected
    assert open_run(tiny_runs["vit_vqgan"]).probed_block is None
