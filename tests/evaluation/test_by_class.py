"""`evaluate reconstruction --by-class` on tiny runs."""

import json
import shutil
from pathlib import Path

import pytest

from vim_tf import evaluate
from vim_tf.errors import UserError
from vim_tf.runs.run import Run


@pytest.fixture
def run(tiny_runs, tmp_path):
    """A function (*arguments) -> the result, read from the written file."""

    def run(*arguments):
        out = tmp_path / "x.json"
        given = ["--run", tiny_runs["vit_vqgan"], "--out", out, "--by-class", *arguments]
        evaluate.main(["reconstruction", *map(str, given)])
        return json.loads(out.read_text())

    return run


def test_each_class_is_measured_alone(run, capsys):
    result = run()
    found, shown = result["by_class"], capsys.readouterr().out
    assert len(found) == 2
    assert sum(figures["images"] for figures in found.values()) == result["images"]["count"]
    together = sum(figures["images"] * figures["PSNR"] for figures in found.values())
    assert together / result["images"]["count"] == pytest.approx(result["figures"]["PSNR"])
    for name, figures in found.items():
        assert f"| {name} | {figures['images']:.4g} | {figures['PSNR']:.4g} |" in shown


def test_images_without_labels(run, tiny_runs, tmp_path):
    tiny = Run(tiny_runs["vit_vqgan"]).load_experiment().data
    for key, path in (("path", tiny.path), ("validation_path", tiny.validation_path)):
        shutil.copytree(next(Path(path).iterdir()), tmp_path / key)
    paths = [f"data.{key}={tmp_path / key}" for key in ("path", "validation_path")]
    with pytest.raises(UserError, match="by_class is set, but the run's images have no classes"):
        run("--set", *paths, "--other-images")
