import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from vim_tf import train
from vim_tf.config import loader
from vim_tf.errors import UserError
from vim_tf.runs.run import Run

# Runs a module like `python -m`. The last printed line says whether TensorFlow was imported.
WATCHED = """
import runpy, sys
name, sys.argv[1:] = sys.argv[1], sys.argv[2:]
try:
    runpy.run_module(name, run_name="__main__", alter_sys=True)
    code = 0
except SystemExit as stopped:
    code = stopped.code or 0
slow = [m for m in ("tensorflow", "keras", "matplotlib", "orbit") if m in sys.modules]
sys.stdout.write("\\nimported: " + " ".join(slow) + "\\n")
sys.exit(code)
"""


def command(name, *arguments):
    """Returns (exit code, standard output without the last line, standard error, imported)."""
    given = [sys.executable, "-c", WATCHED, f"vim_tf.{name}", *map(str, arguments)]
    result = subprocess.run(given, capture_output=True, text=True, timeout=300)
    output, _, imported = result.stdout.rpartition("\nimported: ")
    return result.returncode, output, result.stderr, imported.split()


def refused(name, *arguments):
    """The one line of a command that is refused before any slow import."""
    code, output, errors, imported = command(name, *arguments)
    assert code == 2, errors
    assert output == ""
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert imported == []
    return errors


@pytest.mark.parametrize("name", ["train", "tokenize_dataset", "generate", "evaluate", "export"])
def test_help_comes_without_tensorflow(name):
    code, output, errors, imported = command(name, "--help")
    assert code == 0
    assert f"python -m vim_tf.{name}" in output
    assert errors == ""
    assert imported == []
    if name == "train":
        assert "optimizer.learning_rate" in output


def test_an_export_of_nothing_known_is_one_line(tmp_path):
    (tmp_path / "letter.txt").touch()
    given = ["--run", "runs/x", "--to", tmp_path]
    text = refused("export", *given)
    assert "is not empty and holds no earlier export; give a new or empty folder" in text
    assert "--formats has onnx; allowed are" in refused("export", *given, "--formats", "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_wrong_key_is_one_line(tiny_configs, tmp_path):
    config = tiny_configs["vit_vqgan"]
    text = refused("train", "--config", config, "--set", "data.bach_size=8")
    assert "did you mean data.batch_size?" in text
    text = refused("train", "--config", config, "--set", "model.patch_size=5")
    assert "16 x 16 and model.patch_size is 5" in text
    assert "nowhere.yaml" in refused("train", "--config", tmp_path / "nowhere.yaml")


def test_a_foreign_workdir_is_one_line(tiny_configs, tmp_path):
    (tmp_path / "thesis.tex").write_text("text")
    arguments = ["--config", tiny_configs["vit_vqgan"], "--workdir", tmp_path]
    assert "no run of vim_tf" in refused("train", *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_config_in_the_same_workdir_is_one_line(tiny_configs, tmp_path, tiny):
    run = Run(tmp_path / "run")
    run.start(tiny("vit_vqgan"))
    (run.checkpoint_dir / "step_00000003").mkdir(parents=True)
    arguments = ["--config", tiny_configs["vit_vqgan"], "--workdir", run.path, "--set", "seed=4"]
    assert "seed: 0 -> 4" in refused("train", *arguments)


@pytest.mark.parametrize("stage", ["vit_vqgan", "vim"])
def test_the_printed_config_repeats_itself(stage, tiny_configs, tiny, tmp_path, capsys):
    arguments = ["--config", str(tiny_configs[stage]), "--set", "seed=3", "training.steps=7"]
    train.main([*arguments, "--print-config"])
    text = capsys.readouterr().out
    path = tmp_path / "printed.yaml"
    path.write_text(text)
    assert loader.load_config([path]) == tiny(stage, "seed=3", "training.steps=7")
    train.main(["--config", str(path), "--print-config"])
    assert capsys.readouterr().out == text


def test_the_classes_are_listed_in_order(tiny_configs, capsys, tmp_path):
    for name in ("10", "9", "a\x1b[31m"):
        (tmp_path / name).mkdir()
        for index in range(2):
            pixels = np.random.default_rng(len(name) + index).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    given = ["--config", str(tiny_configs["vim"]), "--list-classes", "--set"]
    alone = "data.validation_path=null"
    train.main([*given, f"data.path={tmp_path}", alone])
    assert capsys.readouterr().out == "9\n10\na\\x1b[31m\n"
    train.main([*given, f"data.path={tmp_path / '9'}", alone])
    assert capsys.readouterr().out == ""


def test_a_config_error_comes_at_once(tiny_configs):
    """The import of TensorFlow alone takes longer on any machine."""
    started = time.perf_counter()
    refused("train", "--config", tiny_configs["vim"], "--set", "seed=x")
    failing = time.perf_counter() - started
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import tensorflow"], check=True, capture_output=True)
    assert failing < (time.perf_counter() - started) / 2


def test_the_workdir_is_named_after_the_config():
    assert str(train._default_workdir("configs/emoji/vim.yaml")) == "runs/emoji_vim"
    assert str(train._default_workdir("mine.yaml")) == "runs/mine"


def test_modes_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as caught:
        train.parse_arguments(["--config", "x", "--describe", "--dry-run"])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("stage", "override", "message"),
    [
        ("vit_vqgan", "data.path=/nowhere", "/nowhere"),
        ("vim", "seed=0", "tokenizer.run is not set"),
        ("vim", "tokenizer.run=/nowhere", "/nowhere is neither a run nor a preset"),
    ],
)
def test_mistakes_found_later_are_one_line(stage, override, message, tiny_configs, tmp_path):
    given = ["--config", str(tiny_configs[stage]), "--workdir", str(tmp_path / "run")]
    with pytest.raises(UserError, match=message) as caught:
        train.main([*given, "--set", override])
    assert "\n" not in str(caught.value)
