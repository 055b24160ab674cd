"""`evaluate images` with a small frozen graph: every figure is compared with its definition."""

import hashlib
import json
import re

import numpy as np
import pytest
import scipy.linalg
from PIL import Image

from vim_tf import evaluate, formats
from vim_tf.errors import UserError
from vim_tf.evaluation import compute_metrics
from vim_tf.evaluation.features import open_extractor
from vim_tf.metrics.kid import bootstrap_error, kid
from vim_tf.metrics.precision_recall import precision_recall


def make_images(seed, count=30, size=(20, 24)):
    # Half of them dark, so that the two sets differ in more than noise.
    images = np.random.default_rng(seed).integers(0, 256, (count, *size, 3))
    return (images * np.linspace(0.3 + seed / 4, 1, count)[:, None, None, None]).astype("uint8")


@pytest.fixture
def scene(tmp_path, write_frozen_graph):
    """Two .npz of images and a network of 6 features and 14 spatial ones."""
    write_frozen_graph(tmp_path / "net.pb", size=(5, 3), spatial=7)
    np.savez(tmp_path / "a.npz", make_images(0))
    np.savez(tmp_path / "b.npz", make_images(1, 32))
    return tmp_path


def run(scene, *more, a="a.npz", b="b.npz", out="x.json", extractor="net.pb"):
    given = ["--images", scene / a, "--reference", scene / b, "--out", scene / out]
    given += ["--extractor", scene / extractor, *more]
    evaluate.main(["images", *map(str, given)])
    return json.loads((scene / out).read_text())


def frechet(a, b):
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)


def test_every_figure_by_its_definition(scene, capsys):
    result = run(scene, "--batch-size", "7")
    network = open_extractor(scene / "net.pb")
    a, b = network(make_images(0)), network(make_images(1, 32))
    figures = result["figures"]
    assert figures["FID[net]"] == pytest.approx(frechet(a.pooled, b.pooled), rel=1e-5)
    assert figures["sFID[net]"] == pytest.approx(frechet(a.spatial, b.spatial), rel=1e-5)
    scores = [
        np.exp(np.mean(np.sum(p * np.log(p / p.mean(0)), 1))) for p in np.split(a.probabilities, 10)
    ]
    assert figures["IS[net]"] == pytest.approx(np.mean(scores), rel=1e-5)
    assert figures["IS[net] std"] == pytest.approx(np.std(scores), rel=1e-4)
    mean, deviation = kid(a.pooled, b.pooled, subsets=100, subset_size=15, seed=2020)
    assert figures["KID[net]"] == pytest.approx(mean, rel=1e-4)
    assert figures["KID[net] std"] == pytest.approx(deviation, rel=1e-4)
    of_subsets = deviation / np.sqrt(99)
    error = np.hypot(bootstrap_error(a.pooled, b.pooled), of_subsets)
    assert figures["KID[net] standard error"] == pytest.approx(error, rel=1e-4)
    pair = figures["precision[net]"], figures["recall[net]"]
    assert pair == precision_recall(b.pooled, a.pooled)
    assert result["missing"] == {}
    names = ["KID[net]", "KID[net] std", "KID[net] standard error", "KID real[net]", "FID[net]"]
    assert list(figures)[: len(names)] == names  # KID is the first
    assert result["markdown"].startswith(f"| KID[net] {figures['KID[net]']:.4g}, ")
    shown = capsys.readouterr().out
    assert re.search(rf"^FID\[net\] +{figures['FID[net]']:.6g}$", shown, re.MULTILINE)
    assert result["markdown"] in shown


def test_the_protocol(scene):
    result = run(scene, "--resize", "legacy", "--n", "29", "--batch-size", "8")
    assert result["command"].startswith("python -m vim_tf.evaluate images --images ")
    assert result["images"]["count"] == result["reference"]["count"] == 29
    expected = hashlib.sha256()
    for image in make_images(0)[:29]:
        expected.update(np.array([20, 24], "<i8").tobytes() + image.tobytes())
    assert result["images"]["sha256"] == expected.hexdigest()
    assert result["reference"]["sha256"] != expected.hexdigest()
    assert result["extractor"]["resize"] == "legacy"
    file_hash = hashlib.sha256((scene / "net.pb").read_bytes()).hexdigest()
    assert result["extractor"]["sha256"] == file_hash
    assert result["extractor"]["proxy"]
    assert result["settings"]["kid"] == {
        **{"subsets": 100, "subset_size": 14, "seed": 2020},
        "resamples": 200,
    }
    assert result["settings"]["real"] == {"images": 14, "reference": 15, "seed": 2020}
    assert result["settings"]["inception_score_splits"] == 10
    assert result["versions"].keys() >= {"vim_tf", "python", "tensorflow", "keras", "numpy"}
    assert "model_index" not in result  # no model is evaluated
    row = result["markdown"]
    for part in ("FID[net] ", "29 npz, 20 x 24", f"proxy network net.pb (SHA-256 {file_hash[:12]}"):
        assert part in row
    assert row.count("\n") == 0


def test_kid_takes_the_usual_subsets_where_there_are_enough(scene, monkeypatch):
    monkeypatch.setattr(compute_metrics, "KID_SUBSETS", 1)
    np.savez(scene / "c.npz", make_images(0, 1000, (4, 4)))
    result = run(scene, "--metrics", "kid", a="c.npz", b="c.npz")
    assert result["settings"]["kid"]["subset_size"] == 1000


def test_a_real_inception_is_called_by_no_name(scene, write_frozen_graph):
    write_frozen_graph(scene / "real.pb", dim=2048, classes=1008, size=(68, 68))
    result = run(scene, "--metrics", "kid,is", extractor="real.pb")
    kid_names = {"KID", "KID std", "KID standard error", "KID real"}
    assert set(result["figures"]) == {*kid_names, "IS", "IS std"}
    assert not result["extractor"]["proxy"]


def test_metrics_are_chosen(scene):
    assert set(run(scene, "--metrics", "fid")["figures"]) == {"FID[net]", "FID real[net]"}
    for given, message in (
        ("fid,xyz", "metrics has xyz; allowed are kid, fid, fd64, sfid, is, pr"),
        ("fd64", "fd64, which needs 64 features or more; .*net.pb has 6"),
        (",", "metrics is empty"),
    ):
        with pytest.raises(UserError, match=message):
            run(scene, "--metrics", given, out="y.json")


def test_too_few_images_are_refused_and_why(scene, capsys):
    np.savez(scene / "few.npz", make_images(0, 11))
    with pytest.raises(UserError, match="fid of 11 images with 6 features .* 12: .*1911.07023"):
        run(scene, "--metrics", "fid", a="few.npz")
    with pytest.raises(UserError, match="sfid of 11 reference images with 14 features"):
        run(scene, "--metrics", "sfid", b="few.npz")
    assert not (scene / "x.json").exists()
    assert "FID[net]" in run(scene, "--allow-small-n", a="few.npz")["figures"]
    # A metric that was not asked for is left out.
    result = run(scene, a="few.npz", out="w.json")
    assert "KID[net]" in result["figures"]
    reason = result["missing"]["FID[net]"]
    assert reason.endswith("use KID instead, and read it with its standard error")
    assert f"left out: {reason}\n" in capsys.readouterr().err
    np.savez(scene / "fewer.npz", make_images(0, 9))
    with pytest.raises(UserError, match="is of 9 images needs at least 10; "):
        run(scene, "--metrics", "is", a="fewer.npz", out="y.json")
    assert "IS[net]" in run(scene, "--metrics", "is", b="fewer.npz", out="y.json")["figures"]
    np.savez(scene / "one.npz", make_images(0, 1))
    with pytest.raises(UserError, match="kid of 1 reference images needs at least 2; "):
        run(scene, "--metrics", "kid", b="one.npz", out="z.json")
    with pytest.raises(UserError, match="fid of 1 reference images"):
        run(scene, "--metrics", "fid", "--allow-small-n", b="one.npz", out="z.json")


def test_nan_features_name_the_image(scene, monkeypatch):
    from vim_tf.evaluation import runner

    network = open_extractor(scene / "net.pb")

    class Broken:
        path, dim, spatial_dim, classes, mode, name = "net.pb", 6, 14, 5, "adm", "net"
        batches = 0

        def __call__(self, images):
            self.batches += 1
            features = network(images)
            if self.batches == 3:
                features.pooled[4, 2] = np.nan
            return features

    monkeypatch.setattr(runner, "open_extractor", lambda *_: Broken())
    with pytest.raises(UserError, match="net.pb gives NaN or .* for image 20 .* of the images"):
        run(scene, "--batch-size", "8")


def test_folders_are_cropped_to_one_size(scene):
    for i, image in enumerate(make_images(0)):
        (scene / "a").mkdir(exist_ok=True)
        Image.fromarray(image[: 20 - i % 2]).save(scene / "a" / f"{i:02}.png")
    with pytest.raises(UserError, match="mixed sizes.*give image_size"):
        run(scene, "--metrics", "fid", a="a")
    result = run(scene, "--metrics", "fid", "--image-size", "8x12", a="a")
    assert result["images"]["size"] == [8, 12]
    assert result["reference"]["size"] == [20, 24]
    with pytest.raises(UserError, match="neither images nor reference is a folder"):
        run(scene, "--image-size", "8", out="y.json")


# References ---------------------------------------------------------------------------------------


def spy(monkeypatch):
    """Counts the images that the network gets."""
    seen = []
    take_in = compute_metrics._take_in

    def counted(found, features, *rest):
        seen.append(len(features.pooled))
        return take_in(found, features, *rest)

    monkeypatch.setattr(compute_metrics, "_take_in", counted)
    return seen


STATISTICS = ("--metrics", "fid,sfid,is")


def kept_files(scene):
    return sorted(scene.glob("*.statistics-*"))


def test_statistics_are_kept_next_to_the_reference(scene, monkeypatch, capsys):
    seen = spy(monkeypatch)
    first = run(scene, *STATISTICS)
    assert sum(seen) == 62
    (kept,) = kept_files(scene)
    assert kept.name.startswith("b.npz.statistics-")
    second = run(scene, *STATISTICS, out="y.json")
    assert sum(seen) == 62 + 30
    assert str(kept) in capsys.readouterr().err
    assert second["figures"] == pytest.approx(first["figures"], rel=1e-9)
    assert second["reference"] == first["reference"]
    # KID needs the features themselves.
    assert run(scene, "--metrics", "kid,fid", out="z.json")["figures"]["FID[net]"] == (
        pytest.approx(first["figures"]["FID[net]"], rel=1e-9)
    )
    assert sum(seen) == 62 + 30 + 62


def test_kept_statistics_are_of_these_pixels_this_network_and_this_mode(
    scene, monkeypatch, write_frozen_graph
):
    run(scene, *STATISTICS, out="0.json")
    seen = spy(monkeypatch)
    run(scene, *STATISTICS, "--resize", "clean", out="1.json")
    images = make_images(1, 32)
    images[3, 4, 5, 0] ^= 1
    np.savez(scene / "b.npz", images)
    run(scene, *STATISTICS, out="2.json")
    write_frozen_graph(scene / "net.pb", size=(5, 3), spatial=7, scaled=True)
    run(scene, *STATISTICS, out="3.json")
    assert sum(seen) == 3 * 62
    assert len(kept_files(scene)) == 4


def test_statistics_without_the_spatial_ones_are_completed(scene):
    run(scene, "--metrics", "fid")
    (kept,) = kept_files(scene)
    assert "mu_s" not in np.load(kept)
    assert run(scene, *STATISTICS, out="y.json")["figures"].keys() >= {"FID[net]", "sFID[net]"}
    assert "mu_s" in np.load(kept)


def test_a_reference_in_a_read_only_folder_is_no_error(scene, monkeypatch, capsys):
    def refuse(path, data):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("vim_tf.metrics.fid.write_atomically", refuse)
    run(scene, "--metrics", "fid")
    assert "are not kept in" in capsys.readouterr().err


def test_kept_statistics_are_a_reference_in_the_format_of_adm(scene):
    expected = run(scene)["figures"]
    (kept,) = kept_files(scene)
    network = open_extractor(scene / "net.pb")
    features = network(make_images(1, 32))
    with np.load(kept) as arrays:
        np.testing.assert_allclose(arrays["mu"], features.pooled.mean(0), rtol=1e-5)
        np.testing.assert_allclose(arrays["sigma_s"], np.cov(features.spatial.T), rtol=1e-4)
        adm = {name: arrays[name] for name in ("mu", "sigma", "mu_s", "sigma_s")}
    result = run(scene, b=kept.name, out="y.json")
    for name in ("FID[net]", "sFID[net]", "IS[net]"):
        assert result["figures"][name] == pytest.approx(expected[name], rel=1e-9)
    reason = "the reference has statistics and no images"
    missing = ("KID[net]", "KID[net] std", "KID[net] standard error")
    missing = dict.fromkeys((*missing, "precision[net]", "recall[net]"), reason)
    reason = "the reference has statistics of all its images together; give real"
    real = dict.fromkeys(("KID real[net]", "FID real[net]"), reason)
    assert result["missing"] == missing | real
    assert result["reference"]["sha256"] == hashlib.sha256(kept.read_bytes()).hexdigest()
    assert result["reference"]["count"] == 32
    # The ADM suite's own files have no count, and have images for precision and recall.
    np.savez(scene / "adm.npz", arr_0=make_images(1, 32), **adm)
    result = run(scene, b="adm.npz", out="z.json")
    assert result["missing"] == real
    for name in real:
        del expected[name]
    assert result["figures"] == pytest.approx(expected, rel=1e-9)
    assert result["reference"]["count"] is None
    np.savez(scene / "no_spatial.npz", mu=adm["mu"], sigma=adm["sigma"])
    result = run(scene, *STATISTICS, b="no_spatial.npz", out="w.json")
    missing = {"sFID[net]": "the reference has no statistics of spatial features"}
    assert result["missing"] == missing | {"FID real[net]": reason}


def rewrite(path, **changes):
    """Changes arrays of an .npz; None removes an array."""
    with np.load(path) as arrays:
        arrays = dict(arrays) | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"format": np.int64(1)}, "the format 1 and was written by vim_tf"),
        ({"format": None, "written_by": None}, "no format number and was written by an earlier"),
    ],
)
def test_statistics_of_another_format_are_made_anew(scene, monkeypatch, changes, found):
    expected = run(scene, *STATISTICS)["figures"]
    (kept,) = kept_files(scene)
    with np.load(kept) as arrays:
        assert arrays["format"] == formats.NUMBERS["statistics"]
        assert str(arrays["written_by"]) == formats.WRITTEN_BY
    rewrite(kept, **changes, mu=np.ones(6))
    with pytest.raises(UserError, match=f"reference .*{kept.name} has {found}.*: make it again"):
        run(scene, b=kept.name, out="y.json")
    # They do not count as kept statistics. A newer version uses another name for its own.
    assert run(scene, *STATISTICS, out="z.json")["figures"] == expected
    monkeypatch.setitem(formats.NUMBERS, "statistics", 99)
    assert run(scene, *STATISTICS, out="w.json")["figures"] == expected
    assert len(kept_files(scene)) == 2


def test_kept_statistics_that_are_damaged_are_made_anew(scene, capsys):
    expected = run(scene, *STATISTICS)["figures"]
    (kept,) = kept_files(scene)
    whole = kept.read_bytes()
    for data in (whole[:1000], whole[:700] + b"\0" * 9 + whole[709:]):
        kept.write_bytes(data)
        assert run(scene, *STATISTICS, out=f"{len(data)}.json")["figures"] == expected
        assert kept.read_bytes() == whole


def test_statistics_of_something_else_are_refused(scene):
    np.savez(scene / "c.npz", mu=np.zeros(4), sigma=np.eye(4))
    with pytest.raises(UserError, match="statistics of 4 features in mu, and .*net.pb has 6"):
        run(scene, b="c.npz")
    run(scene, "--metrics", "fid", out="y.json")
    (kept,) = kept_files(scene)
    with pytest.raises(UserError, match="was made with resize adm, and now it is clean"):
        run(scene, "--resize", "clean", b=kept.name)
    np.savez(scene / "d.npz", features=np.zeros((3, 4)))
    with pytest.raises(UserError, match="reference .*d.npz holds features; an .npz with arr_0"):
        run(scene, b="d.npz")
