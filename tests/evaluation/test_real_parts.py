"""Real images against real images: a part of the reference against the rest of it."""

import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import scipy.linalg

from vim_tf import evaluate
from vim_tf.errors import UserError
from vim_tf.evaluation.real_parts import choose_part
from vim_tf.metrics.kid import kid

JUDGE = SimpleNamespace(name="judge", dim=1280)
ALL = ("kid", "fid", "fd64", "is", "pr")


def test_the_part_has_as_many_images_as_are_judged():
    part, metrics, missing = choose_part(3000, 9000, ALL, JUDGE, False)
    assert part is not None
    assert part.description == {"images": 3000, "reference": 6000, "seed": 2020}
    assert np.count_nonzero(part.inside) == part.count == 3000
    assert metrics == ("kid", "fid", "fd64")
    assert missing == {}
    # The images are random: a class that comes first is not in one part alone.
    assert 900 < np.count_nonzero(part.inside[:3000]) < 1100


def test_the_part_is_at_most_half_of_the_reference():
    part, metrics, missing = choose_part(3000, 3001, ALL, JUDGE, False)
    assert part is not None
    assert part.description["images"] == 1500
    assert metrics == ("kid", "fd64")
    assert missing == {
        "FID real[judge]": "a part of the reference is compared with the rest, and both need 2,560 "
        "images; the reference has 3,001, and 3,000 are judged; give real"
    }
    part, metrics, missing = choose_part(900, 9000, ALL, JUDGE, False)
    assert metrics == ("kid",)
    assert set(missing) == {"FID real[judge]", "FD64 real[judge]"}


def test_there_may_be_no_part():
    for count, reference in ((3000, None), (1, 9000), (9000, 3)):
        part, metrics, missing = choose_part(count, reference, ALL, JUDGE, False)
        assert (part, metrics) == (None, ())
        assert set(missing) == {"KID real[judge]", "FID real[judge]", "FD64 real[judge]"}
    assert choose_part(3000, 9000, ("is", "pr"), JUDGE, False) == (None, (), {})


def test_other_images_are_not_halved():
    others = SimpleNamespace(count=2600, description={"kind": "npz", "path": "other.npz"})
    part, metrics, missing = choose_part(3000, None, ALL, JUDGE, False, others)
    assert part is not None
    described = {"kind": "npz", "path": "other.npz", "images": 2600, "seed": 2020}
    assert part.description == described
    assert (metrics, missing) == (("kid", "fid", "fd64"), {})
    part, metrics, missing = choose_part(2000, 9000, ALL, JUDGE, False, others)
    assert part is not None
    assert (part.count, len(part.inside), metrics) == (2000, 2600, ("kid", "fd64"))
    reason = "it needs 2,560 real images; real has 2,600, and 2,000 are judged"
    assert missing == {"FID real[judge]": reason}


# In results ---------------------------------------------------------------------------------------


@pytest.fixture
def scene(tmp_path):
    """A network of 70 features, and images: 200 to judge and 500 of a reference."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 3))
    features = keras.layers.Dense(70, "tanh")(keras.layers.Flatten()(inputs))
    keras.Model(inputs, keras.layers.Dense(2)(features)).save(tmp_path / "net.keras")
    network = keras.Model(inputs, features)
    random = np.random.default_rng(0)
    images = {"a": random.integers(0, 250, (200, 4, 4, 3), "uint8")}
    images["b"] = random.integers(0, 256, (500, 4, 4, 3), "uint8")
    for name, pixels in images.items():
        np.savez(tmp_path / f"{name}.npz", pixels)
    answer = network.predict(images["b"] / 127.5 - 1, verbose=0).astype("float64")
    return tmp_path, answer


def frechet(a, b):
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)


def run(folder, out, *more):
    given = ["--images", folder / "a.npz", "--reference", folder / "b.npz", "--out", folder / out]
    evaluate.main(["images", *map(str, [*given, "--extractor", folder / "net.keras", *more])])
    return json.loads((folder / out).read_text())


def test_the_figures_of_real_images(scene):
    folder, features = scene
    given = ("--metrics", "kid,fid,fd64", "--allow-small-n", "--batch-size", "33")
    figures = run(folder, "x.json", *given)["figures"]
    rows = np.random.RandomState(2020).permutation(500)
    part, rest = features[np.sort(rows[:200])], features[np.sort(rows[200:])]
    assert figures["FID real[net]"] == pytest.approx(frechet(part, rest), rel=1e-4)
    axes = np.linalg.svd(rest - rest.mean(0), full_matrices=False)[2][:64].T
    expected = frechet(part @ axes, rest @ axes)
    assert figures["FD64 real[net]"] == pytest.approx(expected, rel=1e-4)
    assert figures["FD64[net]"] < figures["FID[net]"]
    expected, _ = kid(part, rest, 100, 100, 2020)
    assert figures["KID real[net]"] == pytest.approx(expected, rel=1e-3)


def test_the_figures_of_other_real_images(scene):
    folder, features = scene
    random = np.random.default_rng(1)
    real = random.integers(0, 256, (300, 4, 4, 3), "uint8")
    np.savez(folder / "real.npz", real)
    network = keras.saving.load_model(folder / "net.keras")
    network = keras.Model(network.inputs, network.layers[-1].input)
    given = ("--metrics", "kid,fid,fd64", "--allow-small-n", "--real", folder / "real.npz")
    result = run(folder, "x.json", *given)
    chosen = real[np.sort(np.random.RandomState(2020).permutation(300)[:200])]
    answer = network.predict(chosen / 127.5 - 1, verbose=0).astype("float64")
    figures = result["figures"]
    assert figures["FID real[net]"] == pytest.approx(frechet(answer, features), rel=1e-4)
    axes = np.linalg.svd(features - features.mean(0), full_matrices=False)[2][:64].T
    expected = frechet(answer @ axes, features @ axes)
    assert figures["FD64 real[net]"] == pytest.approx(expected, rel=1e-4)
    expected, _ = kid(answer, features, 100, 100, 2020)
    assert figures["KID real[net]"] == pytest.approx(expected, rel=1e-3)
    settings = result["settings"]["real"]
    assert (settings["images"], settings["reference"]) == (200, 500)
    assert settings["path"] == str(folder / "real.npz")
    # They can be compared with statistics too.
    (kept,) = folder.glob("b.npz.statistics-*")
    given = ["--images", folder / "a.npz", "--reference", kept, "--out", folder / "y.json"]
    given += ["--extractor", folder / "net.keras", "--metrics", "fid", "--allow-small-n"]
    evaluate.main(["images", *map(str, given), "--real", str(folder / "real.npz")])
    again = json.loads((folder / "y.json").read_text())["figures"]
    assert again["FID real[net]"] == pytest.approx(figures["FID real[net]"], rel=1e-9)
    with pytest.raises(UserError, match="real and reference are both .*b.npz; give other"):
        run(folder, "z.json", "--real", folder / "b.npz")


def test_kept_statistics_have_those_of_the_part(scene, capsys):
    folder, _ = scene
    given = ("--metrics", "fid,fd64", "--allow-small-n")
    first = run(folder, "x.json", *given)["figures"]
    assert set(first) == {"FID[net]", "FID real[net]", "FD64[net]", "FD64 real[net]"}
    (kept,) = folder.glob("b.npz.statistics-*")
    with np.load(kept) as arrays:
        assert (arrays["count"], arrays["count_part"]) == (500, 200)
    capsys.readouterr()
    assert run(folder, "y.json", *given)["figures"] == pytest.approx(first, rel=1e-9)
    assert "statistics of the reference: " in capsys.readouterr().err
    # A part of another size needs the images again.
    fewer = run(folder, "z.json", *given, "--n", "190")
    assert fewer["settings"]["real"]["images"] == 95
    other = ("--metrics", "fd64", "--allow-small-n")
    with np.load(kept) as arrays:
        changed = dict(arrays)
    np.savez(kept, **changed | {"count": np.int64(100)})
    assert run(folder, "w.json", *other)["figures"]["FD64 real[net]"] == (
        pytest.approx(first["FD64 real[net]"], rel=1e-9)
    )
