"""The evaluations of a run, where there are too few images for a figure."""

import shutil

import keras
import pytest

import vim_tf
from vim_tf.errors import UserError


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The path of a network of 4 features."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(4, 5, 4, activation="tanh"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, "softmax"),
        ]
    )
    path = tmp_path_factory.mktemp("network") / "net.keras"
    model.save(path)
    return path


@pytest.mark.parametrize(
    ("kind", "stage", "name", "what"),
    [
        ("reconstruction", "vit_vqgan", "rFID[net]", "images"),
        ("generation", "vim", "gFID[net]", "samples"),
    ],
)
def test_fid_of_too_few_images(tiny_runs, tmp_path, network, capsys, kind, stage, name, what):
    run = shutil.copytree(tiny_runs[stage], tmp_path / "run")  # statistics are saved in a run
    evaluate = getattr(vim_tf, f"evaluate_{kind}")
    result = evaluate(run, extractor=network, n=7)
    assert {"KID[net]", "KID[net] standard error"} <= set(result.figures)
    assert name not in result.figures
    # A reconstruction has an original of its own, so real images are not compared.
    names = {*result.figures, *result.missing}
    real = [name for name in names if " real" in name]
    assert real == (["KID real[net]"] if kind == "generation" else [])
    reason = result.missing[name]
    assert reason.startswith(f"fid of 7 {what} with 4 features needs at least twice as many")
    assert reason.endswith("; use KID instead, and read it with its standard error")
    assert f"{name}  " in str(result)
    assert f"  -  {reason}\n" in str(result)
    lines = capsys.readouterr().err.splitlines()
    assert f"left out: {reason}" in lines
    few = "KID is of 7 images: below 1,000 it is uncertain; read it with its standard error"
    assert few in lines

    # If it is asked for, it is an error before anything is computed.
    with pytest.raises(UserError, match=f"^fid of 7 {what} .*set metrics to kid, or set allow_"):
        evaluate(run, extractor=network, n=7, metrics=["fid"])
    result = evaluate(run, extractor=network, n=7, metrics=["fid"], allow_small_n=True)
    assert name in result.figures


def test_real_images_of_the_run(tiny_runs, tmp_path, network):
    run = shutil.copytree(tiny_runs["vim"], tmp_path / "run")
    result = vim_tf.evaluate_generation(run, extractor=network, n=9, metrics=["fid"], real="train")
    assert "FID real[net]" in result.figures
    real = result.settings["real"]
    assert (real["kind"], real["images"], real["reference"]) == ("the run's train images", 9, 10)
    with pytest.raises(UserError, match="real and split are train; .* of the other split"):
        vim_tf.evaluate_generation(run, extractor=network, n=9, split="train", real="train")
