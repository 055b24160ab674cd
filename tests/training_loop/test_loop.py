"""A run that was stopped and resumed ends in the same state as one without a stop."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import vim_tf
from vim_tf import train
from vim_tf.runs.checkpoints import Checkpoints
from vim_tf.runs.run import Run
from vim_tf.training_loop import loop
from vim_tf.training_loop.reporter import Reporter

pytestmark = pytest.mark.large  # two runs per stage, and the discriminator takes long to compile


class Stop(Exception):
    pass


class StoppingReporter(Reporter):
    """Stops the training at its fifth step, after the checkpoint of an earlier step."""

    def train(self, step, values):
        if step >= 5:
            raise Stop
        super().train(step, values)


def arguments(stage, configs, runs, workdir):
    more = [] if stage == "vit_vqgan" else ["--set", f"tokenizer.run={runs['vit_vqgan']}"]
    return ["--config", str(configs[stage]), "--workdir", str(workdir), *more]


@pytest.fixture(scope="module")
def whole_runs(tiny_configs, tiny_runs, tmp_path_factory):
    """`tiny_runs`, but with the discriminator in stage 1."""
    workdir = tmp_path_factory.mktemp("whole") / "vit_vqgan"
    train.main(arguments("vit_vqgan", tiny_configs, tiny_runs, workdir))
    return {**tiny_runs, "vit_vqgan": workdir}


@pytest.fixture(scope="module", params=["vit_vqgan", "vim"])
def resumed(request, tiny_configs, tiny_runs, whole_runs, tmp_path_factory):
    """(stage, the uninterrupted run, the resumed run)."""
    stage = request.param
    workdir = tmp_path_factory.mktemp("resumed") / stage
    given = arguments(stage, tiny_configs, tiny_runs, workdir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Reporter", StoppingReporter)
        with pytest.raises(Stop):
            train.main(given)
    assert saved_steps(Run(workdir)) == [3]
    train.main(given)
    return stage, Run(whole_runs[stage]), Run(workdir)


def saved_steps(run):
    return Checkpoints({}, run.checkpoint_dir, keep=3).steps()


def read_checkpoint(run):
    newest = max(run.checkpoint_dir.glob("step_*"))
    reader = tf.train.load_checkpoint(newest / "state")
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names if "OBJECT_GRAPH" not in name}


def test_all_state_equals_that_of_the_uninterrupted_run(resumed):
    _, whole, parts = resumed
    expected, actual = read_checkpoint(whole), read_checkpoint(parts)
    assert set(actual) == set(expected)
    assert len(expected) > 50
    for name, value in expected.items():
        if value.dtype.kind != "O" and "save_counter" not in name:
            np.testing.assert_array_equal(actual[name], value, err_msg=name)


def test_it_measures_the_same(resumed):
    stage, whole, parts = resumed
    expected = {(r["step"], r["kind"]): r for r in whole.read_metrics()}
    actual = {(r["step"], r["kind"]): r for r in parts.read_metrics()}
    # Loops of log_every 2 also end at evaluations, every 3 steps.
    steps = [(step, "train") for step in (2, 3, 5, 6)]
    assert set(expected) == set(actual) == {*steps, (3, "evaluation"), (6, "evaluation")}
    for key, record in expected.items():
        for name, value in record.items():
            if name not in ("kind", "images_per_second"):
                assert actual[key][name] == pytest.approx(value, rel=1e-5), (key, name)
    lines = whole.metrics_path.read_text().splitlines()
    assert len(lines) == len(expected)
    assert json.loads(lines[0])["step"] == 2
    names = {"reconstruction_loss", "psnr", "l1", "l2", "usage", "perplexity", "dead_codes"}
    evaluated = set(expected[6, "evaluation"]) - {"step", "kind"}
    assert evaluated == (names if stage == "vit_vqgan" else {"nats", "accuracy", "below_unigram"})


def test_the_preset_has_the_averaged_weights(resumed):
    _, whole, parts = resumed
    models = [vim_tf.load(run.path) for run in (whole, parts)]
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(a, b)
    values = read_checkpoint(whole)
    # The averaged codebook has the name that revival uses.
    places = ("ema_model/", "revival/averaged")
    averages = [value for name, value in values.items() if name.startswith(places)]
    for weight in models[0].weights:
        assert any(np.array_equal(weight, value) for value in averages), weight.path
    assert models[0].metadata["steps"] == 6
    assert models[0].metadata["class_names"] == ["blue", "red"]


def test_images_and_tensorboard_are_written(resumed):
    stage, whole, _ = resumed
    names = {"curves.png"}
    if stage == "vit_vqgan":
        names |= {"reconstructions.png"}
    else:
        names |= {"samples.png", "samples_by_class.png"}
    assert {path.name for path in whole.image_dir.iterdir()} == names
    for name in names:
        assert np.std(np.asarray(Image.open(whole.image_dir / name))) > 1
    tags = set()
    for path in whole.tensorboard_dir.iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            tags |= {(value.tag, event.step) for value in event.summary.value}
    expected = {"vit_vqgan": ["total", "psnr", "reconstructions", "tokens"], "vim": ["samples"]}
    for tag in expected[stage]:
        assert (tag, 6) in tags


def test_only_so_many_checkpoints_are_kept(whole_runs):
    assert saved_steps(Run(whole_runs["vit_vqgan"])) == [3, 6]


def test_a_finished_run_is_evaluated_again(tiny_configs, tiny_runs, whole_runs, capsys):
    stage = "vit_vqgan"
    run = Run(whole_runs[stage])
    before, lines = read_checkpoint(run), run.read_metrics()
    train.main(arguments(stage, tiny_configs, tiny_runs, run.path))
    output = capsys.readouterr()
    assert "resuming at step 6" in output.err
    assert f"psnr {lines[-1]['psnr']:.4g}" in output.out
    after = read_checkpoint(run)
    for name, value in before.items():
        if value.dtype.kind != "O":
            np.testing.assert_array_equal(after[name], value, err_msg=name)
    assert run.read_metrics() == lines


def test_the_best_evaluation_keeps_its_checkpoint_and_its_preset(whole_runs, resumed):
    stage, whole, parts = resumed
    evaluations = [r for r in whole.read_metrics() if r["kind"] == "evaluation"]
    name = "reconstruction_loss" if stage == "vit_vqgan" else "nats"
    best = min(evaluations, key=lambda record: record[name])
    for run in (whole, parts):
        found = Checkpoints({}, run.checkpoint_dir, keep=3).best()
        assert found == (best["step"], pytest.approx(best[name], rel=1e-5))
        assert vim_tf.load(run.best_preset_dir).metadata["steps"] == best["step"]


def test_the_discriminator_waits_for_a_plateau(tiny_configs, tmp_path, capsys):
    given = ["--config", str(tiny_configs["vit_vqgan"]), "--workdir", str(tmp_path / "run")]
    settings = ["discriminator.plateau=1000", "discriminator.start=4", "training.steps=9"]
    train.main([*given, "--set", *settings, "training.log_every=1"])
    assert "the discriminator takes part from step 6 on" in capsys.readouterr().err
    weights = {
        record["step"]: record.get("adversarial_weight")
        for record in Run(tmp_path / "run").read_metrics()
        if record["kind"] == "train"
    }
    # Its first step measures its gradient, and has no weight yet.
    assert [weights[step] for step in range(1, 8)] == [None] * 6 + [0]
    assert min(weights[8], weights[9]) > 0
