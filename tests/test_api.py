"""The Python API of `import vim_tf`, on tiny runs."""

import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

import vim_tf
from vim_tf.config.experiments import EXPERIMENTS
from vim_tf.evaluation.protocol import EvaluationResult
from vim_tf.generation.image_generator import ImageGenerator
from vim_tf.linear_probe.run import ProbeResult
from vim_tf.models.preset import MODELS
from vim_tf.models.vim import VIM

CODE = """
import importlib, pkgutil, sys
import vim_tf
import vim_tf.export
for found in pkgutil.walk_packages(vim_tf.__path__, "vim_tf."):
    importlib.import_module(found.name)
print([name for name in vim_tf.__all__ if not callable(getattr(vim_tf, name))])
"""


def test_every_public_name_is_callable_after_all_modules_are_imported():
    """An imported module becomes an attribute of its package, and may replace a function."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_public_names_are_listed_and_unlike_modules():
    assert set(vim_tf.__all__) <= set(dir(vim_tf))
    modules = {found.name for found in pkgutil.iter_modules(vim_tf.__path__)} | {"export"}
    assert not modules & set(vim_tf.__all__)
    for name in ("ViTVQGANConfig", "VIMConfig", "TransformerConfig", "evaluate_generation"):
        assert name in vim_tf.__all__
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        vim_tf.lode  # noqa: B018


def test_a_users_mistake_is_a_value_error(tiny_runs):
    with pytest.raises(ValueError, match="block is 99"):
        vim_tf.load(tiny_runs["vim"]).features(np.zeros((1, 16), "int32"), block=99)


def test_a_model_is_built_from_its_config():
    blocks = vim_tf.TransformerConfig(blocks=1, heads=2, dim=16, mlp_dim=32)
    quantizer = vim_tf.QuantizerConfig(codes=8, code_dim=4)
    config = vim_tf.ViTVQGANConfig(
        patch_size=4, encoder=blocks, decoder=blocks, quantizer=quantizer
    )
    model = vim_tf.ViTVQGAN(config, (8, 12))
    assert model.tokenize(np.zeros((2, 8, 12, 3), "float32")).shape == (2, 6)


def test_evaluate_reconstruction(tiny_runs):
    result = vim_tf.evaluate_reconstruction(tiny_runs["vit_vqgan"], n=4)
    assert isinstance(result, EvaluationResult)
    assert result.images["count"] == 4
    assert re.search(rf"PSNR +{result.figures['PSNR']:.6g}\n", str(result))
    assert result.to_dict()["command"] is None
    with pytest.raises(vim_tf.UserError, match="^n is 0; it must be 1 or more$"):
        vim_tf.evaluate_reconstruction(tiny_runs["vit_vqgan"], n=0)
    with pytest.raises(vim_tf.UserError, match="^split is test; allowed are validation, train$"):
        vim_tf.evaluate_reconstruction(tiny_runs["vit_vqgan"], split="test")


@pytest.fixture
def colours(tmp_path):
    """A feature network with random weights."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(3, 4, 4),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, "softmax"),
        ]
    )
    model.save(tmp_path / "colours.keras")
    return tmp_path / "colours.keras"


def test_evaluate_generation_and_images(tiny_runs, tmp_path, colours):
    run = tiny_runs["vim"]
    ours = tmp_path / "ours.npz"
    np.savez(ours, vim_tf.generate_images(run, [0, 1], n=8))
    result = vim_tf.evaluate_generation(
        run, extractor=colours, reference=ours, metrics={"fid", "kid"}, n=8
    )
    kid = {"KID[colours]", "KID[colours] std", "KID[colours] standard error", "KID real[colours]"}
    assert set(result.figures) == {"gFID[colours]", *kid}
    # Two parts of 4 images are too few.
    assert set(result.missing) == {"FID real[colours]"}
    assert result.figures["gFID[colours]"] == pytest.approx(0, abs=1e-6)  # the same images
    images = vim_tf.evaluate_images(ours, ours, extractor=colours, metrics=["fid"], n=7)
    assert images.figures["FID[colours]"] == pytest.approx(0, abs=1e-6)
    assert (images.models, images.run) == ({}, None)


def test_generate_images(tiny_runs, tiny_classifier):
    generator = ImageGenerator.load(tiny_runs["vim"])
    expected = generator.generate([0, 1, 0], seed=5, top_k=3)
    for labels in ([0, 1], ["blue", "red"], ["blue", 1]):
        found = vim_tf.generate_images(tiny_runs["vim"], labels, n=3, seed=5, top_k=3)
        np.testing.assert_array_equal(found, expected)
    found = vim_tf.generate_images(generator, "red", n=2)
    np.testing.assert_array_equal(found, generator.generate([1, 1]))
    assert vim_tf.generate_images(generator).shape == (16, 16, 16, 3)
    judge = vim_tf.open_classifier(tiny_classifier)
    kept = vim_tf.generate_images(generator, [0], n=2, classifier=judge, acceptance=0.5)
    assert kept.shape == (2, 16, 16, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 0}, "^n is 0; it must be 1 or more$"),
        ({"labels": ["green"]}, "label green is none of the model's classes: 0 blue, 1 red"),
        ({"labels": [2]}, "label 2 is none of the model's classes"),
        ({"seed": 2**40}, f"seed is {2**40}; it must be from"),
        ({"seed": 1.5}, "seed is 1.5; it must be an integer"),
        ({"acceptance": 0.5}, "give both or neither"),
        ({"top_p": 0}, "top_p is 0"),
    ],
)
def test_what_generate_images_refuses(tiny_runs, given, message):
    with pytest.raises(vim_tf.UserError, match=message):
        vim_tf.generate_images(tiny_runs["vim"], **given)


def test_logits_are_modified_by_a_function(tiny_runs):
    vim = vim_tf.load(tiny_runs["vim"])

    def only_even(logits, position):
        odd = keras.ops.arange(logits.shape[-1]) % 2 == 1
        return keras.ops.where(odd, -1e9, logits)

    tokens = np.asarray(vim.generate([0, 1], seed=3, modify_logits=only_even))
    assert not np.any(tokens % 2)
    steps = []
    by_rows = vim.generate(
        [0, 1], seed=3, modify_logits=only_even, callback=lambda done, _: steps.append(done)
    )
    np.testing.assert_array_equal(by_rows, tokens)
    assert steps == [4, 8, 12, 16]
    assert np.any(np.asarray(vim.generate([0, 1], seed=3)) % 2)


def test_a_subclass_loads_as_itself(tiny_runs, tmp_path):
    class MyVIM(VIM):
        pass

    try:
        generator = ImageGenerator.load(tiny_runs["vim"])
        ours = MyVIM(generator.vim.config, generator.vim.grid, generator.vim.codes, 2)
        ours.set_weights(generator.vim.get_weights())
        ImageGenerator(ours, generator.tokenizer, generator.class_names).save(tmp_path / "mine")
        assert type(vim_tf.load(tmp_path / "mine")) is MyVIM
        again = ImageGenerator.load(tmp_path / "mine")
        np.testing.assert_array_equal(again.generate([0]), generator.generate([0]))
    finally:
        MODELS.pop("MyVIM")


def test_run_linear_probe(tiny_runs, tmp_path):
    run = shutil.copytree(tiny_runs["vim"], tmp_path / "run")  # features are kept in it
    result = vim_tf.run_linear_probe(run, blocks="0,1")
    assert (run / "probe" / "probe.json").exists()
    assert isinstance(result, ProbeResult)
    assert result.block in (0, 1)
    assert set(result.test) == {"tokenizer", "pixels", f"block_{result.block}"}
    assert str(result).startswith("| features | validation | test |")


class Watch(keras.callbacks.Callback):
    def __init__(self, stop_at=None):
        super().__init__()
        self.seen, self.stop_at = [], stop_at

    def on_train_begin(self, logs=None):
        self.seen.append("begin")

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append((batch, "cross_entropy" in logs))
        if batch + 1 == self.stop_at:
            self.model.stop_training = True

    def on_test_end(self, logs=None):
        self.seen.append(sorted(logs))

    def on_train_end(self, logs=None):
        self.seen.append("end")


@pytest.mark.large
def test_run_training_calls_callbacks_and_lets_steps_print(tiny, tmp_path, monkeypatch, capsys):
    trainer = importlib.import_module("vim_tf.trainers.classifier_trainer").ClassifierTrainer
    evaluate = trainer.evaluate_batch

    def printing(self, batch):
        print("evaluated")
        return evaluate(self, batch)

    monkeypatch.setattr(trainer, "evaluate_batch", printing)
    watch = Watch()
    results = vim_tf.run_training(tiny("classifier"), tmp_path / "run", callbacks=[watch])
    assert set(results) == {"cross_entropy", "accuracy"}
    names = ["accuracy", "cross_entropy"]
    expected = ["begin", (1, True), (2, True), names, (4, True), (5, True), names, "end"]
    assert watch.seen == expected
    printed = capsys.readouterr().out
    assert "evaluated" in printed
    assert "train | step" not in printed  # a line of orbit itself
    assert vim_tf.load(tmp_path / "run").classes == 2


@pytest.mark.large
def test_a_callback_stops_a_training_that_goes_on_later(tiny, tmp_path):
    from vim_tf.errors import Interrupted

    with pytest.raises(Interrupted, match="stopped at step 2 and saved"):
        vim_tf.run_training(tiny("classifier"), tmp_path / "run", callbacks=[Watch(stop_at=2)])
    watch = Watch()
    vim_tf.run_training(tiny("classifier"), tmp_path / "run", callbacks=[watch])
    assert watch.seen[1] == (2, True)


def test_a_probe_is_not_a_training(tmp_path):
    with pytest.raises(vim_tf.UserError, match="linear_probe is not a training"):
        vim_tf.run_training(EXPERIMENTS["linear_probe"](run="x"), tmp_path)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_backend_that_is_not_installed_is_named(backend):
    code = f"""
import sys
sys.modules[{backend!r}] = None
import vim_tf
try:
    vim_tf.VIM
except ImportError as error:
    print(error)
"""
    environment = {**os.environ, "KERAS_BACKEND": backend}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    line = (
        f"KERAS_BACKEND is {backend}, and {backend} cannot be imported; install it, or unset the "
    )
    assert done.stdout == f"{line}variable\n", done.stderr
