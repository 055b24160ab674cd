"""`python -m vim_tf.views` on tiny runs."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vim_tf import views
from vim_tf.data.transforms import to_uint8
from vim_tf.drawing import attention as attention_views
from vim_tf.drawing import codes as code_views
from vim_tf.drawing.neighbours import nearest_images
from vim_tf.drawing.spread_images import spread_images
from vim_tf.errors import UserError
from vim_tf.generation.image_generator import ImageGenerator
from vim_tf.runs import trained_run
from vim_tf.runs.run import Run
from vim_tf.runs.trained_run import open_run


@pytest.fixture
def run(tiny_runs, tmp_path):
    """A function (stage, *arguments) -> {name: content} of the written folder."""

    def run(stage, *arguments, out="views"):
        folder = tmp_path / out
        views.main(["--run", str(tiny_runs[stage]), "--out", str(folder), *map(str, arguments)])
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    return run


@pytest.fixture
def nothing_is_opened(monkeypatch):
    """Makes a test fail if a run is opened: the error must be found before."""

    def fail(*_):
        raise AssertionError("opened")

    monkeypatch.setattr(trained_run, "open_run", fail)


# Written files ----------------------------------------------------------------------------------


def test_a_run_of_stage_1_has_two_views(run, tmp_path, capsys):
    assert set(run("vit_vqgan")) == {"codes.png", "attention.png"}
    lines = capsys.readouterr().out.splitlines()
    assert lines == [str(tmp_path / "views" / name) for name in ("codes.png", "attention.png")]
    for name in ("codes.png", "attention.png"):
        image = np.asarray(Image.open(tmp_path / "views" / name))
        assert image.shape[2] == 3 and min(image.shape[:2]) > 100


def nearest_distances(folder, samples):
    """The rounded distances that neighbours.json must have."""
    data = open_run(folder).data
    training = [to_uint8(batch["image"]) for batch in data.evaluation("train")]
    held_out, _ = spread_images(data, "validation", len(samples))
    asked = {"samples": samples, "held_out": held_out}
    return {
        name: np.round(nearest_images(images, training, 1)[1][:, 0], 3).tolist()
        for name, images in asked.items()
    }


@pytest.mark.large
def test_a_run_of_stage_2_has_all_and_settings_reach_the_samples(run, tiny_runs, monkeypatch):
    asked, samples = [], np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), "uint8")

    def generate(self, labels, n, batch_size, seed, **settings):
        asked.append((self.class_names, labels.tolist(), n, batch_size, seed, settings))
        yield from (samples[:2], samples[2:])

    monkeypatch.setattr(ImageGenerator, "generate_batches", generate)
    for module, view in ((code_views, "view_codes"), (attention_views, "view_attention")):
        monkeypatch.setattr(module, view, lambda *_: samples[0])  # not tested here
    given = ["--n", 5, "--seed", 3, "--temperature", 0.7, "--top-k", 9, "--top-p", 0.9]
    files = run("vim", *given, "--guidance-scale", 2, "--batch-size", 6)
    assert set(files) == {"codes.png", "attention.png", "neighbours.png", "neighbours.json"}
    settings = {"temperature": 0.7, "top_k": 9, "top_p": 0.9, "guidance_scale": 2.0}
    assert asked == [(("blue", "red"), [0, 1, 0, 1, 0], 5, 6, 3, settings)]
    report = json.loads(files["neighbours.json"])
    assert report["distances"] == nearest_distances(tiny_runs["vim"], samples)
    assert report["models"] == open_run(tiny_runs["vim"]).hashes()
    assert settings.items() <= report["samples"].items()


@pytest.mark.large
def test_samples_are_those_of_the_generator(run, tiny_runs):
    files = run("vim", "--n", 5, "--seed", 3, "--top-k", 9, "--views", "neighbours")
    samples = ImageGenerator.load(tiny_runs["vim"]).generate([0, 1, 0, 1, 0], seed=3, top_k=9)
    report = json.loads(files["neighbours.json"])
    assert report["distances"] == nearest_distances(tiny_runs["vim"], samples)


def test_only_the_views_that_are_named(run):
    assert set(run("vim", "--views", "codes")) == {"codes.png"}
    # Files of other views in the folder do not matter.
    assert set(run("vim", "--views", "attention")) == {"codes.png", "attention.png"}


def test_settings_reach_the_codes_and_the_attention(run, monkeypatch):
    asked, image = [], np.zeros((2, 2, 3), "uint8")

    def view(opened, *settings):
        asked.append(settings)
        return image

    monkeypatch.setattr(code_views, "view_codes", view)
    monkeypatch.setattr(attention_views, "view_attention", view)
    run("vit_vqgan", "--split", "train", "--seed", 4, "--batch-size", 3)
    run("vit_vqgan", out="defaults")
    assert asked == [("train",), ("train", 4, 3), ("validation",), ("validation", 0, 64)]


def test_images_that_have_moved(run, tiny_runs, tiny_images, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(tiny_images, moved)
    shutil.copytree(tiny_runs["vit_vqgan"], tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(tiny_images), "/gone"))
    arguments = ["--run", str(tmp_path / "run"), "--views", "codes", "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="data.path is /gone/train"):
        views.main(arguments)
    places = [f"data.path={moved}/train", f"data.validation_path={moved}/validation"]
    views.main([*arguments, "--set", *places])
    assert (tmp_path / "out" / "codes.png").exists()


# Mistakes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "arguments", "message"),
    [
        (
            "vim",
            ["--views", "codes,colours"],
            "--views has colours; allowed are codes, attention, ",
        ),
        ("vim", ["--views", ","], "--views is empty"),
        (
            "vit_vqgan",
            ["--views", "codes,neighbours"],
            "of vit_vqgan; its views are codes, at",
        ),
        ("vim", ["--n", "0"], "--n is 0"),
        ("vim", ["--batch-size", "0"], "--batch-size is 0"),
    ],
)
def test_mistakes_are_found_before_anything_is_opened(
    run, nothing_is_opened, tmp_path, stage, arguments, message
):
    with pytest.raises(UserError, match=message):
        run(stage, *arguments)
    assert not (tmp_path / "views").exists()


@pytest.mark.parametrize("name", ["codes.png", "neighbours.json"])
def test_nothing_is_overwritten(run, nothing_is_opened, tmp_path, name):
    (tmp_path / "views").mkdir()
    (tmp_path / "views" / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} exists; delete it or give another --out"):
        run("vim")
    assert [path.read_text() for path in (tmp_path / "views").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top-p", "0"], "top_p is 0"),
        (["--top-k", "17"], "top_k is 17"),
        (["--seed", str(2**40)], "seed"),
        (["--set", "model.label_drop=0"], "would change the trained model"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(run, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        run("vim", *arguments)
    assert not list((tmp_path / "views").iterdir())


def test_a_run_of_something_else(tiny, tmp_path, nothing_is_opened):
    from vim_tf.config.experiments import ClassifierExperiment

    Run(tmp_path / "run").start(ClassifierExperiment(data=tiny("vim").data))
    with pytest.raises(UserError, match="run of experiment classifier, which has no views"):
        views.main(["--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")])


def test_no_run_is_one_line_and_code_2(tmp_path):
    command = [sys.executable, "-m", "vim_tf.views", "--run", str(tmp_path), "--out", "x"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path} is no run: it has no config.yaml")
    assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert not list(tmp_path.iterdir())
