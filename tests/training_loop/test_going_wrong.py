"""Numbers that are not finite: the graph finds them, and the run goes back. Requested stops."""

import re
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import vim_tf
from vim_tf import stopping, train
from vim_tf.errors import UserError
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.runs.checkpoints import Checkpoints
from vim_tf.runs.run import Run
from vim_tf.trainers.vim_trainer import VIMTrainer
from vim_tf.training_loop.loop import NotFinite, TrainLoop


def poison(monkeypatch, name, is_bad):
    """From now on a log, or "gradients", is NaN if `is_bad(trainer)` is true."""
    original = VIMTrainer.compute_gradients

    def compute_gradients(self, batch):
        gradients, logs, extras = original(self, batch)
        nothing = tf.where(is_bad(self), np.nan, 0.0)
        if name == "gradients":
            gradients = [tf.convert_to_tensor(g) + nothing for g in gradients]
        else:
            logs = {**logs, name: logs[name] + nothing}
        return gradients, logs, extras

    monkeypatch.setattr(VIMTrainer, "compute_gradients", compute_gradients)


def make_loop(tiny, strategy):
    tokens = np.random.default_rng(0).integers(0, 16, (8, 16)).astype("int32")
    data = {"token": tokens, "label": np.zeros(8, "int32")}
    keras.utils.set_random_seed(0)
    with strategy.scope():
        tokenizer = ViTVQGAN(tiny("vit_vqgan").model, (16, 16))
        trainer = VIMTrainer(tiny("vim"), tokenizer, 2)
        trainer.compile()
    dataset = tf.data.Dataset.from_tensors(data).repeat()
    batches = strategy.experimental_distribute_dataset(dataset)
    return TrainLoop(trainer, strategy, batches, images_per_epoch=8)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize(
    ("name", "named"), [("accuracy", "accuracy"), ("gradients", "gradient_norm")]
)
def test_the_first_step_and_the_number_are_named(
    tiny, two_replicas, monkeypatch, replicas, name, named
):
    """It is on one replica of two, at the third of ten steps of one loop, which ends there."""

    def is_bad(trainer):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return (trainer.step == 2) & (replica == replicas - 1)

    poison(monkeypatch, name, is_bad)
    one = tf.distribute.OneDeviceStrategy("CPU:0")
    loop = make_loop(tiny, one if replicas == 1 else two_replicas)
    with pytest.raises(NotFinite, match=rf"^{named} not finite at step 2$"):
        loop.train(tf.constant(10))
    assert int(loop.trainer.step.numpy()) == 3
    loop.trainer.forget_not_finite()
    if name == "accuracy":  # the weights are still good
        assert np.isfinite(loop.train(tf.constant(2))["nats"])
        assert int(loop.trainer.step.numpy()) == 5


def arguments(tiny_configs, tiny_runs, workdir, *more):
    given = ["--config", str(tiny_configs["vim"]), "--workdir", str(workdir)]
    return [*given, "--set", f"tokenizer.run={tiny_runs['vit_vqgan']}", *more]


@pytest.mark.large
def test_a_run_goes_back_and_on_in_another_order(
    tiny_configs, tiny_runs, tmp_path, monkeypatch, capsys
):
    """It is bad once, at its fifth step. After that, the data has another order."""
    poison(monkeypatch, "gradients", lambda trainer: (trainer.step == 4) & (trainer.rollbacks == 0))
    train.main(arguments(tiny_configs, tiny_runs, tmp_path / "run"))
    said = capsys.readouterr().err
    assert "gradient_norm not finite at step 4: back to step 3" in said
    assert "(rollback 1 of 3)" in said
    run = Run(tmp_path / "run")
    weights = vim_tf.load(run.path).get_weights()
    assert all(np.isfinite(weight).all() for weight in weights)
    usual = vim_tf.load(tiny_runs["vim"]).get_weights()
    assert any(np.any(a != b) for a, b in zip(weights, usual, strict=True))
    assert [r["step"] for r in run.read_metrics() if r["kind"] == "train"] == [2, 3, 5, 6]
    reader = tf.train.load_checkpoint(run.checkpoint_dir / "step_00000006" / "state")
    assert reader.get_tensor("rollbacks/.ATTRIBUTES/VARIABLE_VALUE") == 1


@pytest.mark.large
@pytest.mark.parametrize(
    ("step", "message", "lines"),
    [
        (4, "gradient_norm not finite at step 4, after 3 rollbacks; lower optimizer.learn", 3),
        (1, "gradient_norm not finite at step 1, before the first checkpoint; lower optimizer", 0),
    ],
)
def test_what_stays_bad_ends_the_run(
    tiny_configs, tiny_runs, tmp_path, monkeypatch, capsys, step, message, lines
):
    poison(monkeypatch, "gradients", lambda trainer: trainer.step == step)
    with pytest.raises(UserError, match=message) as caught:
        train.main(arguments(tiny_configs, tiny_runs, tmp_path / "run"))
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().err.count("back to step 3") == lines


@pytest.mark.large
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_and_goes_on(tiny_configs, tiny_runs, tmp_path, number):
    more = ["training.steps=100000", "training.log_every=20", "training.evaluate_every=100000"]
    given = arguments(tiny_configs, tiny_runs, tmp_path / "run", "--set", *more)
    command = [sys.executable, "-m", "vim_tf.train", *given, "training.checkpoint_every=100000"]
    first = 0
    for _ in range(2):
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            for line in process.stderr:
                if line.startswith("step "):
                    break
            process.send_signal(number)
            said = process.stderr.read()
            assert process.wait() == stopping.EXIT_GOES_ON
        assert signal.Signals(number).name in said
        step = int(re.search(r"^stopped at step (\d+) and saved; the same", said, re.M)[1])
        assert step > first
        assert Checkpoints({}, tmp_path / "run" / "checkpoints", keep=3).steps()[-1] == step
        first = step
    assert "Traceback" not in said
