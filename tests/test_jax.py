"""The models on Keras' JAX backend: the same code, the same numbers, no TensorFlow."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN

pytestmark = pytest.mark.large  # separate processes
SCRIPT = Path(__file__).with_name("jax_run.py")


@pytest.fixture(scope="module")
def outputs(tiny, tmp_path_factory):
    """The outputs {backend: {name: array}}."""
    folder = tmp_path_factory.mktemp("presets")
    keras.utils.set_random_seed(0)
    tokenizer = ViTVQGAN(
        tiny("vit_vqgan", "model.refinement_channels=5", "model.overlapping_patches=true").model,
        (16, 16),
    )
    last = tokenizer.decoder.refinement.last.kernel  # begins at zero
    last.assign(np.random.default_rng(1).normal(0, 0.1, last.shape))
    tokenizer.save_to_preset(folder / "vit_vqgan", {})
    codes = tokenizer.config.quantizer.codes
    VIM(tiny("vim").model, tokenizer.grid, codes, 2).save_to_preset(folder / "vim", {})
    images = np.random.default_rng(0).uniform(-1, 1, (6, 16, 16, 3)).astype("float32")
    np.save(folder / "images.npy", images)
    found = {}
    for backend in ("tensorflow", "jax"):
        command = [sys.executable, SCRIPT, folder, folder / f"{backend}.npz"]
        environment = {**os.environ, "KERAS_BACKEND": backend}
        done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        found[backend] = dict(np.load(folder / f"{backend}.npz"))
        assert found[backend].pop("backend") == backend
    return found


@pytest.mark.parametrize("name", ["features", "decoded", "logits"])
def test_forward_is_equal(outputs, name):
    ours, theirs = outputs["tensorflow"][name], outputs["jax"][name]
    assert np.std(ours) > 1e-3
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


@pytest.mark.parametrize("name", ["features", "logits"])
def test_the_attention_of_16_bits_is_as_near_to_float32(outputs, name):
    exact = outputs["tensorflow"][name]
    errors = [np.abs(outputs[one][f"{name}, bfloat16"] - exact).max() for one in outputs]
    assert 0 < max(errors) < 0.05 * np.std(exact), errors


@pytest.mark.parametrize("name", ["tokens", "samples"])
def test_tokens_are_equal(outputs, name):
    assert len(np.unique(outputs["jax"][name])) > 2
    np.testing.assert_array_equal(outputs["jax"][name], outputs["tensorflow"][name])


def test_the_models_import_no_tensorflow_on_jax():
    """If TensorFlow is blocked, every module of models/ can still be imported."""
    code = (
        "import sys, pkgutil, importlib\n"
        "sys.modules['tensorflow'] = None\n"
        "import vim_tf.models\n"
        "for found in pkgutil.iter_modules(vim_tf.models.__path__):\n"
        "    importlib.import_module(f'vim_tf.models.{found.name}')\n"
        "    print(found.name)\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"vim", "vit_vqgan", "classifier", "discriminator"} <= set(done.stdout.split())
