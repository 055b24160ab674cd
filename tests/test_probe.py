"""The linear probe on a tiny run: its features, its choice of settings, its result."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from vim_tf import probe, train
from vim_tf.errors import UserError
from vim_tf.linear_probe import features as probe_features
from vim_tf.linear_probe import run as probing
from vim_tf.linear_probe.features import ProbeFeatures, open_features, without_copied_channels
from vim_tf.linear_probe.logistic_head import STRENGTHS
from vim_tf.runs.trained_run import open_run


@pytest.fixture(scope="module")
def vim_run(tiny_runs, tmp_path_factory):
    """A copy of the run, because features are saved in a run."""
    return shutil.copytree(tiny_runs["vim"], tmp_path_factory.mktemp("probed") / "vim")


@pytest.fixture(scope="module")
def result(vim_run):
    probe.main(["--run", str(vim_run), "--blocks", "all"])
    return json.loads((vim_run / "probe" / "probe.json").read_text())


# Features ---------------------------------------------------------------------------------------


def test_features_are_those_of_the_models(vim_run):
    run = open_run(vim_run)
    batches = list(run.data.evaluation("validation"))
    images = np.concatenate([b["image"] for b in batches])
    found = open_features(run, "validation")
    np.testing.assert_array_equal(found.labels, np.concatenate([b["label"] for b in batches]))
    tokens = run.tokenizer.tokenize(images)
    expected = {
        "block_0": run.vim.features(tokens, 0),
        "block_1": run.vim.features(tokens, 1),
        "tokenizer": np.mean(run.tokenizer.encoder(images), 1),
        "pixels": images.reshape(len(images), -1),
    }
    assert set(found.arrays) == set(expected)
    for name, values in expected.items():
        assert found.arrays[name].dtype == np.float16
        np.testing.assert_allclose(found.arrays[name], values, rtol=2e-3, atol=2e-3)
    assert found.pixels == "pixels, 16 x 16"


def test_large_images_are_made_smaller_for_the_pixels():
    words, smaller = probe_features._smaller((128, 64))
    assert words == "pixels, 32 x 16 (made smaller)"
    images = np.random.default_rng(0).uniform(-1, 1, (2, 128, 64, 3)).astype("float32")
    means = images.reshape(2, 32, 4, 16, 4, 3).mean((2, 4))
    np.testing.assert_allclose(smaller(images), means.reshape(2, -1), rtol=1e-4, atol=1e-6)


def test_grey_images_have_one_channel():
    def make(pixels):
        return ProbeFeatures({"pixels": np.float16(pixels), "block_0": None}, np.zeros(2), "pixels")

    grey = make([[1, 1, 1, 2, 2, 2], [3, 3, 3, 4, 4, 4]])
    red = make([[1, 1, 1, 2, 2, 2], [3, 3, 3, 4, 4, 5]])
    for split in without_copied_channels(grey, grey):
        np.testing.assert_array_equal(split.arrays["pixels"], [[1, 2], [3, 4]])
        assert (split.pixels, set(split.arrays)) == ("pixels, grey", {"pixels", "block_0"})
    assert without_copied_channels(grey, red) == (grey, red)
    assert without_copied_channels(red, grey) == (red, grey)


def test_features_are_worked_out_once(vim_run, monkeypatch):
    run = open_run(vim_run)
    first = open_features(run, "validation")
    monkeypatch.setattr(probe_features, "_write", lambda *_: pytest.fail("worked out again"))
    again = open_features(run, "validation")
    np.testing.assert_array_equal(first.arrays["block_1"], again.arrays["block_1"])


def test_other_weights_have_other_features(vim_run):
    run = open_run(vim_run)
    open_features(run, "validation")
    before = set((vim_run / "features").iterdir())
    run.vim.token_embedding.set_weights([np.ones((16, 16), "float32")])
    changed = open_features(run, "validation")
    assert len(set((vim_run / "features").iterdir()) - before) == 1
    np.testing.assert_allclose(
        changed.arrays["block_1"],
        run.vim.features(run.tokenizer.tokenize(run.held_out.images), 1),
        atol=2e-3,
    )


def test_an_interrupted_write_is_begun_again(vim_run):
    run = open_run(vim_run)
    whole = open_features(run, "train")
    (folder,) = (vim_run / "features").glob("train-*")
    (folder / "complete.json").unlink()
    (folder / "labels.npy").write_bytes(b"half")
    np.testing.assert_array_equal(open_features(run, "train").labels, whole.labels)


def test_features_too_large_for_float16_are_refused():
    with pytest.raises(UserError, match="block_3 has features up to 1e.05, which float16"):
        probe_features._narrow(np.float32([[1, -1e5]]), "block_3")


# The probe --------------------------------------------------------------------------------------


def accuracy(fit, labels, test, test_labels, c):
    """Scikit-learn's own accuracy."""
    fit, test = np.asarray(fit, "float64"), np.asarray(test, "float64")
    scale = np.where(fit.std(0) > 0, fit.std(0), 1)
    model = LogisticRegression(C=c, max_iter=5000).fit((fit - fit.mean(0)) / scale, labels)
    return np.mean(model.predict((test - fit.mean(0)) / scale) == test_labels)


def test_the_best_on_the_validation_part_is_tested_on_all(result, vim_run):
    run = open_run(vim_run)
    training, test = open_features(run, "train"), open_features(run, "validation")
    order = np.random.default_rng(0).permutation(24)
    part, rest = np.sort(order[:2]), np.sort(order[2:])
    assert result["pictures"] == {
        "fit": 22, "validation": 2, "test": 10, "pixels": "pixels, 16 x 16"
    }  # fmt: skip
    for name, found in result["features"].items():
        x = training.arrays[name]
        tried = [
            accuracy(x[rest], training.labels[rest], x[part], training.labels[part], c)
            for c in STRENGTHS
        ]
        assert found["validation"] == max(tried)
        assert found["c"] == STRENGTHS[int(np.argmax(tried))]
        assert found["converged"] is True
    best = max(("block_0", "block_1"), key=lambda name: result["features"][name]["validation"])
    assert result["block"] == int(best[-1])
    assert set(result["test"]) == {best, "tokenizer", "pixels"}
    for name, found in result["test"].items():
        c = result["features"][name]["c"]
        given = (training.arrays[name], training.labels, test.arrays[name], test.labels)
        assert found == accuracy(*given, c)
    assert result["models"] == run.feature_hashes()
    assert result["command"] == f"python -m vim_tf.probe --run {vim_run} --blocks all"


def test_test_images_decide_about_nothing(result, vim_run, tmp_path, monkeypatch):
    def without_test(run, split):
        features = open_features(run, split)
        if split == "validation":
            features = features._replace(labels=1 - features.labels)
        return features

    monkeypatch.setattr(probing, "open_features", without_test)
    probe.main(["--run", str(vim_run), "--out", str(tmp_path / "p")])
    other = json.loads((tmp_path / "p" / "probe.json").read_text())
    assert (other["features"], other["block"]) == (result["features"], result["block"])
    assert other["test"] == {n: pytest.approx(1 - a) for n, a in result["test"].items()}


def test_people_get_a_table_and_a_curve(result, vim_run, capsys):
    table = probing.format_table(result)
    assert table.startswith("| features | validation | test |\n|---|---:|---:|\n| tokenizer's enc")
    shown = f"{100 * result['test']['pixels']:.2f}% |\n"
    assert (
        f"| raw pixels | {100 * result['features']['pixels']['validation']:.2f}% | {shown}" in table
    )
    assert f"\nblock {result['block']} was chosen\n" in table
    with Image.open(vim_run / "probe" / "probe.png") as curve:
        assert curve.size[0] > 300


def test_blocks_seed_and_part_can_be_chosen(vim_run, tmp_path):
    given = ["--run", str(vim_run), "--blocks", "1", "--out", str(tmp_path / "p")]
    probe.main([*given, "--set", "validation_fraction=0.5", "seed=3"])
    found = json.loads((tmp_path / "p" / "probe.json").read_text())
    assert set(found["features"]) == {"block_1", "tokenizer", "pixels"}
    assert (found["pictures"]["validation"], found["seed"], found["block"]) == (12, 3, 1)


SGD = ("optimizer=sgd", "epochs=30", "warmup_epochs=2", "batch_size=8")


@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.large)])
def test_the_head_in_batches(vim_run, tmp_path, two_replicas, monkeypatch, replicas):
    """On one device, and with replicas that share the images and the head's batches."""
    given = ["--run", str(vim_run), "--head", "sgd", "--blocks", "1", "--out", str(tmp_path / "p")]
    given += ["--set", *(f"sgd.{setting}" for setting in SGD)]
    if replicas == 2:
        run = open_run(vim_run)
        alone = {split: open_features(run, split) for split in ("train", "validation")}
        shutil.rmtree(vim_run / "features")  # open files stay readable
        asked = []
        monkeypatch.setattr(probing, "strategy_of", lambda e: asked.append(e) or two_replicas)
        given += ["--strategy", "mirrored", "--cpu-replicas", "2"]
    probe.main(given)
    found = json.loads((tmp_path / "p" / "probe.json").read_text())
    assert found["head"] == "sgd"
    assert found["test"]["pixels"] > 0.8  # red or blue
    if replicas == 2:
        assert (asked[0].strategy, asked[0].cpu_replicas) == ("mirrored", 2)
        for split, features in alone.items():
            shared = open_features(run, split).arrays["block_1"]
            np.testing.assert_allclose(shared, features.arrays["block_1"], atol=2e-3)


def test_a_config_is_probed_by_train(vim_run, tmp_path, capsys):
    config = tmp_path / "probe.yaml"
    config.write_text(f"experiment: linear_probe\nrun: {vim_run}\nblocks: '0'\n")
    train.main(["--config", str(config), "--workdir", str(tmp_path / "p")])
    assert "block 0 was chosen" in capsys.readouterr().out
    assert json.loads((tmp_path / "p" / "probe.json").read_text())["block"] == 0
    for mode in ("--list-classes", "--describe", "--dry-run"):
        with pytest.raises(UserError, match=f"{mode} is for trainings"):
            train.main(["--config", str(config), mode])


# Mistakes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--run is missing"),
        (["--set", "experiment=vim"], "experiment is vim; vim_tf.probe runs linear_probe alone"),
        (["--run", "none"], "none is no run"),
        (["--run", "STAGE_1"], "is a run of stage 1; the probe is of a run of experiment vim"),
        (["--run", "VIM", "--blocks", "0,2"], "blocks has 2; this model has blocks 1 to 1"),
        (["--run", "VIM", "--blocks", "first"], "blocks is first; it must be all, or numbers"),
        (["--run", "VIM", "--head", "mlp"], 'head is "mlp"; expected one of logistic_regression'),
        (["--run", "VIM", "--set", "data.path=/none"], "/none"),
        (["--run", "VIM", "--strategy", "multi_worker"], "multi_worker and TF_CONFIG is not set"),
        (["--run", "VIM", "--cpu-replicas", "2"], "cpu_replicas is 2 and strategy is one_device"),
    ],
)
def test_mistakes_are_one_line(tiny_runs, vim_run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    paths = {"VIM": str(vim_run), "STAGE_1": str(tiny_runs["vit_vqgan"])}
    with pytest.raises(UserError, match=message) as caught:
        probe.main([*[paths.get(a, a) for a in arguments], "--out", "p"])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "p").exists()


def test_images_need_labels(vim_run, tiny_images):
    where = [f"data.path={tiny_images}/train/red", "data.validation_path=null"]
    with pytest.raises(UserError, match="have no labels, and a probe predicts them"):
        probe.main(["--run", str(vim_run), "--out", "nowhere", "--other-images", "--set", *where])


def test_a_result_is_not_written_over(result, vim_run):
    with pytest.raises(UserError, match="probe.json exists; delete it"):
        probe.main(["--run", str(vim_run)])


def test_more_features_than_memory_are_sent_to_the_other_head(vim_run, tmp_path, monkeypatch):
    monkeypatch.setattr(probing.logistic_head, "MOST_BYTES", 100)
    with pytest.raises(UserError, match="logistic_regression, which would hold .* set head: sgd"):
        probe.main(["--run", str(vim_run), "--out", str(tmp_path / "p")])


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_folder_that_is_a_file_is_refused_before_the_work(
    tiny_runs, tmp_path, below, monkeypatch
):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr("vim_tf.linear_probe.run.open_run", lambda *_: pytest.fail("opened"))
    out = tmp_path / "file" / below
    with pytest.raises(
        UserError, match=r"folder for the result is .*, but .*file is a file; give a"
    ):
        probe.main(["--run", str(tiny_runs["vim"]), "--out", str(out)])
    assert (tmp_path / "file").read_text() == "mine"
