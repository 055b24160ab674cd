"""Both stages, samples and loading, with the commands of a user."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import vim_tf


def command(name, *arguments):
    given = [sys.executable, "-m", f"vim_tf.{name}", *map(str, arguments)]
    result = subprocess.run(given, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr
    return result


@pytest.mark.large
def test_from_images_to_samples(tiny_configs, tmp_path):
    """The second stage on two replicas of the CPU."""
    tokenizer, vim, out = (tmp_path / name for name in ("vit_vqgan", "vim", "x.png"))
    first = command("train", "--config", tiny_configs["vit_vqgan"], "--workdir", tokenizer)
    assert "found CPU" in first.stderr or "GPU" in first.stderr
    assert "starting, 6 steps of 8 images, 24 images per epoch" in first.stderr
    assert "step 6/6" in first.stderr
    assert "Traceback" not in first.stderr
    assert str(tokenizer / "preset") in first.stdout
    overrides = (f"tokenizer.run={tokenizer}", "training.strategy=mirrored")
    second = command(
        *("train", "--config", tiny_configs["vim"], "--workdir", vim),
        *("--set", *overrides, "training.cpu_replicas=2"),
    )
    assert "MirroredStrategy, 2 replicas" in second.stderr
    again = command("train", "--config", vim / "config.yaml", "--workdir", vim)
    assert "resuming at step 6" in again.stderr
    made = command("generate", "--run", vim, "--labels", "red", "--n", 4, "--out", out)
    assert str(out) in made.stdout
    assert np.std(np.asarray(Image.open(out))) > 1
    model = vim_tf.load(vim)
    assert model.metadata["steps"] == 6
    np.testing.assert_array_equal(
        model.generate([0, 1], seed=1), vim_tf.load(vim / "preset").generate([0, 1], seed=1)
    )
