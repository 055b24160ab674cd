"""Tests that fail if a file is missing from the wheel; `make test-wheel` runs them there.

They also run in a checkout, except those that repeat other tests there.
"""

import importlib
import importlib.util
import pkgutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vim_tf
import vim_tf.export
from vim_tf import generate
from vim_tf.config.sections import DataConfig
from vim_tf.data.images import make_image_dataset
from vim_tf.export import __main__ as export

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    {
        module.name
        for package in (vim_tf, vim_tf.export)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    }
)
on_the_wheel = pytest.mark.skipif((ROOT / "vim_tf").is_dir(), reason="nothing is missing here")


def source(name):
    return Path(importlib.util.find_spec(name).origin).read_text()


COMMANDS = [name for name in MODULES if "ArgumentParser(" in source(name)]


@on_the_wheel
def test_nothing_else_is_imported():
    installed = Path(sysconfig.get_path("purelib"))
    assert Path(sys.executable).parent.parent in installed.parents
    for name in ("vim_tf", *MODULES):
        assert installed in Path(importlib.util.find_spec(name).origin).parents, name


def test_every_module_can_be_imported():
    assert {"vim_tf.data.build_emoji", "vim_tf.export.serving.kit.client"} <= set(MODULES)
    for name in MODULES:
        importlib.import_module(name)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_starts(name, tmp_path):
    name = name.removesuffix(".__main__")
    command = [sys.executable, "-m", name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout and "--help" in done.stdout


@on_the_wheel
def test_the_emoji_are_there():
    data = make_image_dataset(DataConfig(image_size=(32, 32), batch_size=8), seed=0)
    assert np.std(next(iter(data.train()))["image"]) > 0.1
    assert len(data.class_names) == 10


@on_the_wheel
def test_a_tiny_model_is_trained_and_draws_and_is_exported(tiny_runs, tmp_path):
    out = tmp_path / "x.png"
    generate.main(["--run", str(tiny_runs["vim"]), "--n", "2", "--out", str(out)])
    assert np.std(np.asarray(Image.open(out))) > 1
    formats = ["--formats", "saved_model,tflite"]
    export.main(["--run", str(tiny_runs["vim"]), "--to", str(tmp_path / "out"), *formats])
    written = {path.name for path in (tmp_path / "out").rglob("*")}
    assert {"saved_model.pb", "decoder_float32.tflite", "compose.yaml"} <= written
