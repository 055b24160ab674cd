"""Which settings may change when a run goes on."""

import dataclasses

import pytest

from vim_tf.config import loader
from vim_tf.config.experiments import EXPERIMENTS
from vim_tf.errors import UserError
from vim_tf.runs import changes
from vim_tf.runs.changes import find_changes
from vim_tf.runs.continuation import open_runs
from vim_tf.runs.run import Run


def keys_of(section, path=""):
    for field in dataclasses.fields(section):
        value, place = getattr(section, field.name), f"{path}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from keys_of(value, f"{place}.")
        else:
            yield place


def test_every_named_key_exists():
    known = {key for cls in EXPERIMENTS.values() for key in keys_of(cls())}
    assert (changes.FREE | changes.ROUNDED | {changes.STEPS, changes.BATCH_SIZE}) <= known


@pytest.fixture
def trained(tmp_path, tiny):
    """A function (experiment) -> the `Run` of it with a checkpoint of step 4."""

    def trained(experiment):
        run = Run(tmp_path / "run")
        run.start(experiment)
        (run.checkpoint_dir / "step_00000004").mkdir(parents=True)
        return run

    return trained


ALLOWED = (
    "training.log_every=1",
    "training.evaluate_every=2",
    "training.checkpoint_every=1",
    "training.keep_checkpoints=9",
    "training.strategy=mirrored",
    "training.steps=40",
    "data.path=elsewhere",
    "data.batch_size=4",
)


@pytest.mark.parametrize("setting", ALLOWED)
def test_these_settings_may_change(trained, tiny, setting):
    run = trained(tiny("vim"))
    found = run.start(tiny("vim", setting))
    key, value = setting.split("=")
    assert found.lines[0].startswith(f"{key}: ") and value in found.lines[0]
    assert found.lines[0] in found.remarks()[0]
    assert ("not bit for bit" in " ".join(found.remarks())) == (key == "training.strategy")
    assert run.load_experiment() == tiny("vim")  # until the checkpoint was accepted


REFUSED = (
    "seed=1",
    "data.image_size=32",
    "data.augmentation.flip=false",
    "model.label_drop=0.2",
    "optimizer.learning_rate=1",
    "tokenizer.passes=3",
    "training.ema_decay=0.5",
    "training.precision=mixed_bfloat16",
)


@pytest.mark.parametrize("setting", REFUSED)
def test_all_other_settings_make_another_experiment(trained, tiny, setting):
    run = trained(tiny("vim"))
    with pytest.raises(UserError) as caught:
        run.check(tiny("vim", setting, "training.log_every=1"))
    assert setting.split("=")[0] in str(caught.value)
    assert "continue_as" in str(caught.value)


def test_evaluations_that_decide_about_the_adversarial_term_stay(tiny):
    for setting in ("training.evaluate_every=2", "training.evaluate_batches=1"):
        assert find_changes(tiny("vit_vqgan"), tiny("vit_vqgan", setting)).refused
        without = "losses.adversarial=0"
        assert not find_changes(
            tiny("vit_vqgan", without), tiny("vit_vqgan", without, setting)
        ).refused


def test_fewer_steps_than_the_run_has_done_are_refused(trained, tiny):
    short = ("training.steps=3", "optimizer.warmup_steps=2", "optimizer.decay_start=3")
    run = trained(tiny("vim", *short[1:]))
    with pytest.raises(UserError, match="training.steps is 3, and .* has done 4 steps"):
        run.check(tiny("vim", *short))
    assert run.check(tiny("vim", *short[1:], "training.steps=4")).steps_before == 6


def test_settings_are_kept_when_they_have_changed(trained, tiny):
    run = trained(tiny("vim"))
    now = tiny("vim", "training.steps=40")
    run.go_on(now, 4, {"changes": run.check(now).lines})
    assert run.load_experiment() == now
    kept = (run.path / "changes.jsonl").read_text().splitlines()
    assert len(kept) == 1 and '"step": 4, "changes": ["training.steps: 6 -> 40"]' in kept[0]


def test_only_a_run_of_the_same_experiment_is_continued_elsewhere(trained, tiny, tmp_path):
    run, experiment = trained(tiny("vim")), tiny("vim")
    new, previous = open_runs(experiment, run.path, tmp_path / "new")
    assert (new.path, previous.path) == (tmp_path / "new", run.path)
    assert open_runs(experiment, run.path, None)[1] is None
    with pytest.raises(UserError, match="run of experiment vim, .* of experiment vit_vqgan"):
        open_runs(tiny("vit_vqgan"), run.path, tmp_path / "new")
    with pytest.raises(UserError, match="the run itself"):
        open_runs(experiment, run.path, run.path)
    with pytest.raises(UserError, match="no run"):
        open_runs(experiment, tmp_path / "nothing", tmp_path / "new")
    (run.checkpoint_dir / "step_00000004").rmdir()
    with pytest.raises(UserError, match="no checkpoint to go on from"):
        open_runs(experiment, run.path, tmp_path / "new")


def test_the_changes_are_listed_by_key(tiny):
    found = loader.find_changes(tiny("vim"), tiny("vim", "seed=3", "training.steps=7"))
    assert found == {"seed": (0, 3), "training.steps": (6, 7)}
