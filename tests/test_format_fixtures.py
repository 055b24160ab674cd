"""Files of each supported format, see `fixtures/make.py`: they open, answer and resume."""

import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from vim_tf import formats, train
from vim_tf.data.images import make_image_dataset
from vim_tf.data.token_cache import TokenCache
from vim_tf.runs.run import Run
from vim_tf.runs.trained_run import open_run

HERE = Path(__file__).parent / "fixtures"
FIXTURES = sorted(path.name for path in HERE.glob("format_*"))


def load_script():
    spec = importlib.util.spec_from_file_location("make_fixtures", HERE / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script():
    return load_script()


@pytest.fixture
def folder(request, script, tmp_path):
    script.open_fixture(HERE / request.param, tmp_path / "opened")
    return tmp_path / "opened"


def test_the_present_formats_have_a_fixture():
    assert f"format_{max(formats.NUMBERS.values())}" in FIXTURES


@pytest.mark.parametrize("folder", FIXTURES, indirect=True)
def test_it_answers_as_it_did(folder, script):
    """Tokens are equal. Numbers may differ in their last digits between processors."""
    expected = np.load(folder / "expected.npz")
    found = script.answers(folder)
    assert set(found) == set(expected)
    for name, value in found.items():
        if name in ("tokens", "generated"):
            np.testing.assert_array_equal(value, expected[name])
        else:
            np.testing.assert_allclose(value, expected[name], atol=1e-4)


@pytest.mark.parametrize("folder", FIXTURES, indirect=True)
def test_its_cache_opens(folder):
    experiment = Run(folder / "vim").load_experiment()
    data = make_image_dataset(experiment.data, experiment.seed)
    tokenizer = open_run(folder / "vim").tokenizer
    cache = TokenCache.open(folder / "vim" / "tokens", tokenizer.token_hash(), data=data)
    assert cache.tokens["train"].shape == (2, 24, 16)
    os.utime(folder / "images" / "train" / "red" / "3.png", ns=(1, 1))  # has the same content
    assert open_run(folder / "vim").data.train_size == 24


@pytest.mark.large
@pytest.mark.parametrize("folder", FIXTURES, indirect=True)
def test_its_runs_go_on_to_the_same_weights(folder, script):
    expected = script.weights(folder)
    # VIM first: on another processor the tokenizer's last bits, and so its hash, may differ.
    for stage in reversed(script.STAGES):
        shutil.rmtree(folder / stage / "preset")
        train.main(
            ["--config", str(folder / stage / "config.yaml"), "--workdir", str(folder / stage)]
        )
    for weight, value in zip(script.weights(folder), expected, strict=True):
        np.testing.assert_allclose(weight, value, atol=1e-3)
