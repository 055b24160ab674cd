"""`evaluate network`: networks that see blur and noise are admitted, and others are not."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

import vim_tf
from vim_tf import evaluate
from vim_tf.errors import UserError
from vim_tf.evaluation import network_check
from vim_tf.evaluation.degraded_images import SEED, add_noise, blur
from vim_tf.metrics.kid import bootstrap_error, kid, squared_mmd

SIZE = 32


def make_images(count=240):
    """Rectangles of one colour on a background of another."""
    random = np.random.default_rng(0)
    images = np.empty((count, SIZE, SIZE, 3), "uint8")
    for image in images:
        image[:] = random.integers(0, 256, 3)
        top, left = random.integers(0, 16, 2)
        image[top : top + 14, left : left + 14] = random.integers(0, 256, 3)
    return images


def make_network(path, kind):
    """A classifier of features that see sharpness or the mean colour, are random, or constant."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((SIZE, SIZE, 3))
    if kind == "sharp":
        # relu(d) and relu(-d) of the differences d of neighbours: their mean is that of |d|.
        step = np.zeros((1, 2, 3, 6), "float32")
        for channel in range(3):
            step[0, :, channel, 2 * channel] = 1, -1
            step[0, :, channel, 2 * channel + 1] = -1, 1
        layer = keras.layers.Conv2D(6, (1, 2), activation="relu", use_bias=False)
        x = layer(x)
        layer.set_weights([20 * step])
    elif kind in ("random", "constant"):
        start = "zeros" if kind == "constant" else "glorot_uniform"
        x = keras.layers.Conv2D(70, 3, activation="relu", kernel_initializer=start)(x)
    features = keras.layers.GlobalAveragePooling2D()(x)
    keras.Model(inputs, keras.layers.Dense(2, "softmax")(features)).save(path)
    return keras.Model(inputs, features)


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """Images in an .npz. The check takes 120 of them in each half."""
    monkeypatch.setattr(network_check, "FEWEST", 120)
    np.savez(tmp_path / "images.npz", make_images())
    return tmp_path


def run(scene, network, *more, out="x.json"):
    given = ["--extractor", scene / network, "--images", scene / "images.npz", "--out", scene / out]
    evaluate.main(["network", *map(str, [*given, *more])])
    return json.loads((scene / out).read_text())


def test_a_network_that_sees_both_is_admitted(scene, capsys):
    network = make_network(scene / "sharp.keras", "sharp")
    result = run(scene, "sharp.keras", "--batch-size", "32")
    assert result["admitted"] is True
    assert result["failures"] == []
    shown = capsys.readouterr().out
    assert "admitted: KID rises with every blur and with every noise" in shown
    assert result["markdown"] in shown

    # Each figure from the images themselves.
    images, order = make_images(), np.random.RandomState(network_check.SEED).permutation(240)
    reference, judged = images[np.sort(order[:120])], images[np.sort(order[120:])]
    noisy = [add_noise(judged, sigma, np.random.RandomState(SEED)) for sigma in (10, 20, 40)]
    changed = [judged, *(blur(judged, sigma) for sigma in (0.5, 1.0, 2.0)), *noisy]
    names = ["unchanged", "blur 0.5 px", "blur 1 px", "blur 2 px", "noise 10", "noise 20"]
    names.append("noise 40")
    features = [network.predict(part / 127.5 - 1, verbose=0) for part in (reference, *changed)]
    for name, found in zip(names, features[1:], strict=True):
        mean, deviation = kid(found, features[0], 100, 60, 2020)
        error = np.hypot(bootstrap_error(found, features[0]), deviation / np.sqrt(99))
        assert result["figures"][f"KID[sharp] {name}"] == pytest.approx(mean, rel=1e-3, abs=1e-5)
        assert result["figures"][f"KID[sharp] standard error {name}"] == (
            pytest.approx(error, rel=1e-2)
        )
    # The same order by all pairs of images.
    distances = [squared_mmd(part, features[0]) for part in features[1:]]
    assert distances[0] < distances[1] < distances[2] < distances[3]
    assert distances[0] < distances[4] < distances[5] < distances[6]
    assert result["missing"] == {"FD64[sharp]": "the network has 6 features"}
    assert (result["images"]["count"], result["reference"]["count"]) == (120, 120)
    assert result["settings"]["blur"] == [0.5, 1.0, 2.0]
    assert result["settings"]["noise"] == [10, 20, 40]


def test_a_network_that_is_blind_to_blur_is_not_admitted(scene, capsys):
    """A blur keeps the mean colour of an image, except for rounding."""
    make_network(scene / "mean.keras", "mean")
    with pytest.raises(UserError, match="mean.keras is not admitted, because KID") as caught:
        run(scene, "mean.keras")
    assert "KID of blur " in str(caught.value)
    assert "\n" not in str(caught.value)
    # It is a measurement: the table is shown and the result is written.
    shown = capsys.readouterr().out
    assert "not admitted:\n  KID of blur " in shown
    result = json.loads((scene / "x.json").read_text())
    assert result["admitted"] is False
    assert result["failures"][0] in str(caught.value)
    assert result["markdown"] in shown


def test_features_that_are_constant_do_not_rise(scene):
    make_network(scene / "constant.keras", "constant")
    with pytest.raises(UserError, match="KID of blur 0.5 px is 0, and that of unchanged is 0"):
        run(scene, "constant.keras")
    assert len(json.loads((scene / "x.json").read_text())["failures"]) == 6


def test_the_verdict_of_a_random_network_is_that_of_its_figures(scene):
    """Random weights may see both or not; the verdict follows from the figures."""
    make_network(scene / "random.keras", "random")
    result = vim_tf.evaluate_network(scene / "random.keras", images=scene / "images.npz")
    figures = result.figures
    chains = [
        [figures[f"KID[random] {name}"] for name in ("unchanged", *names)]
        for names in (
            ("blur 0.5 px", "blur 1 px", "blur 2 px"),
            ("noise 10", "noise 20", "noise 40"),
        )
    ]
    rising = [chain == sorted(set(chain)) for chain in chains]
    assert result.admitted == all(rising)
    assert "FD64[random] blur 1 px" in figures
    assert figures["FD64[random] noise 40"] > figures["FD64[random] unchanged"]


def test_a_run_gives_its_images(scene, tiny_runs, monkeypatch):
    monkeypatch.setattr(network_check, "FEWEST", 5)
    monkeypatch.setattr(network_check, "SMALLEST", 16)
    keras.Sequential(
        [keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    ).save(scene / "net.keras")
    result = vim_tf.evaluate_network(scene / "net.keras", run=tiny_runs["vit_vqgan"])
    assert result.images["kind"] == "the run's validation images"
    assert (result.images["count"], result.reference["count"]) == (5, 5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "images or a run are needed; give one of them"),
        ({"images": "images.npz", "run": "runs/x"}, "images or a run are needed"),
        ({"images": "images.npz", "split": "train"}, "split, overrides and other_images are of a"),
        ({"images": "images.npz", "image_size": (8, 8)}, "image_size crops the images of a folder"),
        ({"images": "images.npz", "n": 239}, "at least 240 images, 120 in each half, and there .*"),
        ({"images": "images.npz", "n": 241}, "n is 241, but images .* holds 240"),
        ({"images": "small.npz"}, "images have 23 x 40 pixels, so the smallest blur"),
    ],
)
def test_mistakes(scene, given, message):
    make_network(scene / "mean.keras", "mean")
    np.savez(scene / "small.npz", np.zeros((240, 23, 40, 3), "uint8"))
    if "images" in given:
        given = given | {"images": scene / given["images"]}
    with pytest.raises(UserError, match=message):
        vim_tf.evaluate_network(scene / "mean.keras", **given)


@pytest.mark.large
def test_the_exit_code(tmp_path):
    """With the number of images that the command really asks for."""
    make_network(tmp_path / "mean.keras", "mean")
    np.savez(tmp_path / "images.npz", make_images(2000))
    command = [sys.executable, "-m", "vim_tf.evaluate", "network", "--extractor", "mean.keras"]
    command += ["--images", "images.npz", "--out", "x.json"]
    done = subprocess.run([*command, "--n", "1999"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "needs at least 2,000 images, 1,000 in each half" in done.stderr
    assert not (tmp_path / "x.json").exists()
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "error: extractor mean.keras is not admitted" in done.stderr
    assert "Traceback" not in done.stderr
    assert "| blur 2 px |" in done.stdout
    assert json.loads((tmp_path / "x.json").read_text())["admitted"] is False
