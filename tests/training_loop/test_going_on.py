"""Runs that go on with other settings, in other places, or in another folder."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from vim_tf import train
from vim_tf.data.token_cache import TokenCache
from vim_tf.errors import UserError
from vim_tf.runs.run import Run
from vim_tf.trainers.schedules import learning_rate_schedule

pytestmark = pytest.mark.large  # each test trains


def state_of(run, step):
    """{name: array} of all state in a checkpoint."""
    reader = tf.train.load_checkpoint(run / "checkpoints" / f"step_{step:08}" / "state")
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    return {name: reader.get_tensor(name) for name in names if "save_counter" not in name}


def assert_same_state(run, other, step, tolerance=0.0):
    ours, theirs = state_of(run, step), state_of(other, step)
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.fixture
def finished_runs(tiny_runs, tiny_decoder):
    return {**tiny_runs, "decoder": tiny_decoder}


@pytest.fixture
def stopped(finished_runs, tmp_path):
    """A function (stage) -> a copy of the finished run, without its last checkpoint."""

    def stopped(stage):
        run = tmp_path / stage
        shutil.copytree(finished_runs[stage], run)
        shutil.rmtree(run / "checkpoints" / "step_00000006")
        return run

    return stopped


def go_on(run, *settings, config=None, continue_as=None):
    arguments = ["--config", str(config or run / "config.yaml"), "--workdir", str(run)]
    arguments += ["--continue-as", str(continue_as)] if continue_as else []
    train.main([*arguments, *(["--set", *settings] if settings else [])])


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FREE = ("training.log_every=1", "training.evaluate_every=2", "training.checkpoint_every=1")
FREE += ("training.keep_checkpoints=9", "data.on_error=skip")


@pytest.mark.parametrize("stage", ["vit_vqgan", "decoder", "vim"])
def test_free_settings_give_the_same_weights(stopped, finished_runs, stage, capsys):
    run = stopped(stage)
    go_on(run, *FREE)
    assert_same_state(run, finished_runs[stage], 6)
    assert "training.log_every: 2 -> 1" in capsys.readouterr().err
    assert {path.name for path in (run / "checkpoints").glob("step*")} == {
        f"step_{step:08}" for step in (3, 4, 5, 6)
    }
    kept = json.loads((run / "changes.jsonl").read_text())
    assert kept["step"] == 3 and "training.log_every: 2 -> 1" in kept["changes"]
    go_on(run)  # with the config that the run has now
    assert "other settings" not in capsys.readouterr().err
    assert len((run / "changes.jsonl").read_text().splitlines()) == 1


def test_a_run_goes_on_in_another_place_with_its_images_and_tokenizer_moved(
    stopped, tiny_runs, tiny_images, tmp_path, capsys
):
    """As on another machine: other paths, other times of the files, another host in the lock."""
    run = stopped("vim").rename(tmp_path / "elsewhere [1]")
    (run / "lock").write_text("process 12 on another-machine\n")
    images = tmp_path / "moved images"
    shutil.copytree(tiny_images, images, copy_function=shutil.copyfile)
    tokenizer = tmp_path / "moved tokenizer"
    shutil.copytree(tiny_runs["vit_vqgan"] / "preset", tokenizer)
    places = [f"data.path={images}/train", f"data.validation_path={images}/validation"]
    go_on(run, *places, f"tokenizer.run={tokenizer}")
    run = run.rename(tmp_path / "plain")  # TensorFlow's reader takes "[" for a pattern
    assert_same_state(run, tiny_runs["vim"], 6)
    assert "data.path: " in capsys.readouterr().err


def test_other_images_at_the_new_place_are_refused_and_the_config_stays(
    stopped, tiny_images, tmp_path
):
    run = stopped("vit_vqgan")
    before = (run / "config.yaml").read_text()
    images = tmp_path / "other"
    shutil.copytree(tiny_images, images)
    Image.new("RGB", (16, 16), "white").save(images / "train" / "red" / "0.png")
    with pytest.raises(UserError, match="made from other images"):
        go_on(run, f"data.path={images}/train", f"data.validation_path={images}/validation")
    assert (run / "config.yaml").read_text() == before
    assert not (run / "changes.jsonl").exists()


def test_another_strategy_agrees_to_rounding(stopped, tiny_runs, capsys):
    """In its own process, since a process has only one MirroredStrategy."""
    run = stopped("vit_vqgan")
    settings = ("--set", "training.strategy=mirrored", "training.cpu_replicas=2")
    command = [sys.executable, "-m", "vim_tf.train", "--config", run / "config.yaml"]
    command += ["--workdir", run, *settings]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "not bit for bit" in done.stderr and "2 replicas" in done.stderr
    assert_same_state(run, tiny_runs["vit_vqgan"], 6, tolerance=1e-5)
    go_on(run, "training.strategy=one_device", "training.cpu_replicas=1", "training.steps=7")
    assert (run / "checkpoints" / "step_00000007").exists()


def test_another_batch_size_goes_on_at_the_next_image(stopped, monkeypatch, capsys):
    run, starts, read = stopped("vim"), [], TokenCache.train

    def note(self, seed, batch_size, start=0, *rest):
        starts.append(start)
        return read(self, seed, batch_size, start, *rest)

    monkeypatch.setattr(TokenCache, "train", note)
    go_on(run, "data.batch_size=4")
    said = capsys.readouterr().err
    assert "data.batch_size was 8 and is 4: the data goes on after its first 24 images" in said
    go_on(run, "training.steps=8")
    assert "was 8" not in capsys.readouterr().err
    assert starts == [24, 24 + 3 * 4]
    origin = next(value for name, value in state_of(run, 8).items() if name.startswith("origin"))
    assert origin.tolist() == [3, 24, 4]


def test_more_steps_have_the_rate_of_the_longer_run(tiny_runs, tmp_path, tiny, capsys):
    run = tmp_path / "run"
    shutil.copytree(tiny_runs["vim"], run)
    go_on(run, "training.steps=9")
    optimizer = tiny("vim").optimizer
    rates = [float(learning_rate_schedule(optimizer, steps)(6)) for steps in (6, 9)]
    assert rates[0] < rates[1]
    line = f"learning rate of optimizer at step 6: {rates[0]:.3g} -> {rates[1]:.3g}"
    assert line in capsys.readouterr().err
    assert (run / "checkpoints" / "step_00000009").exists()
    with pytest.raises(UserError, match="has done 9 steps"):
        go_on(run, "training.steps=8")


def test_a_run_goes_on_in_another_folder_with_another_config(tiny_runs, tmp_path, capsys):
    old, new = tiny_runs["vim"], tmp_path / "new"
    before = files_of(old)
    settings = ("training.steps=8", "optimizer.learning_rate=1e-2", "model.label_drop=0")
    go_on(old, *settings, continue_as=new)
    said = capsys.readouterr().err
    assert "goes on from" in said and "optimizer.learning_rate: 0.001 -> 0.01" in said
    assert files_of(old) == before
    assert_same_state(new, old, 6)
    kept = json.loads((new / "changes.jsonl").read_text())
    assert kept["continues"] == str(old) and kept["step"] == 6
    # The same command resumes the new run.
    shutil.rmtree(new / "checkpoints" / "step_00000008")
    whole = new.with_name("whole")
    go_on(old, *settings, continue_as=new)
    assert "resuming at step 6" in capsys.readouterr().err
    go_on(old, *settings, continue_as=whole)
    assert_same_state(new, whole, 8)


def test_a_run_goes_on_with_other_images_and_with_a_discriminator(
    tiny_runs, tiny_images, tmp_path, capsys
):
    images = tmp_path / "other"
    shutil.copytree(tiny_images, images)
    for path in (images / "train" / "red").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    new = tmp_path / "new"
    settings = ("training.steps=7", "losses.adversarial=0.1", f"data.path={images}/train")
    go_on(tiny_runs["vit_vqgan"], *settings, continue_as=new)
    said = capsys.readouterr().err
    assert "goes on with other images: as many images then as now; first difference" in said
    assert "has no discriminator, discriminator_optimizer" in said
    old, now = state_of(tiny_runs["vit_vqgan"], 6), state_of(new, 6)
    assert set(old) < set(now)
    for name, value in old.items():
        np.testing.assert_array_equal(now[name], value, err_msg=name)
    # It learns from that step on.
    assert "the discriminator takes part from step 6 on" in said
    assert now["adversarial_start/.ATTRIBUTES/VARIABLE_VALUE"] == 6
    later = state_of(new, 7)
    moved = [name for name in later if name.startswith("discriminator/")]
    assert moved and all((later[name] != now[name]).any() for name in moved if now[name].any())
    rates = [record.get("discriminator_learning_rate") for record in Run(new).read_metrics()]
    assert any(rates)
    # And without it again.
    go_on(new, "training.steps=8", "losses.adversarial=0", continue_as=tmp_path / "newer")
    assert set(state_of(tmp_path / "newer", 7)) == set(old)


REFUSED = (
    ("model.transformer.dim=32", "another architecture"),
    ("optimizer.second_moment=factored", "another kind of optimizer"),
    ("training.steps=5", "has done 6 steps; give at least as many"),
)


@pytest.mark.parametrize("setting, message", REFUSED)
def test_weights_that_do_not_fit_are_refused(tiny_runs, tmp_path, setting, message):
    with pytest.raises(UserError, match=message):
        go_on(tiny_runs["vim"], setting, continue_as=tmp_path / "new")
    assert not list((tmp_path / "new").rglob("manifest.json"))


def test_another_tokenizer_is_refused_and_damage_is_passed_over(
    tiny_runs, stopped, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(tiny_runs["vim"], run)
    other = tmp_path / "tokenizer"
    go_on(tiny_runs["vit_vqgan"], "training.steps=7", continue_as=other)
    with pytest.raises(UserError, match="was trained on the tokens .*, and the tokenizer in use"):
        go_on(run, f"tokenizer.run={other}", continue_as=tmp_path / "new")
    state = run / "checkpoints" / "step_00000006" / "state.data-00000-of-00001"
    state.write_bytes(state.read_bytes()[:-5])
    before = files_of(run)
    go_on(run, continue_as=tmp_path / "newer")
    assert "the one before it is used" in capsys.readouterr().err
    assert files_of(run) == before
    assert_same_state(tmp_path / "newer", tiny_runs["vim"], 6)
