"""Two processes train one model on loopback: files of one, kills, signals, wrong settings."""

import json
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from vim_tf.runs.run import Run

pytestmark = pytest.mark.large  # two processes per run

STEPS = 40
SETTINGS = ["training.strategy=multi_worker", f"training.steps={STEPS}", "training.log_every=1"]
SETTINGS += ["training.checkpoint_every=10", "training.evaluate_every=20"]
# No discriminator: it takes long to compile, and test_replicas_agree tests it.
MORE = {"vit_vqgan": ["losses.adversarial=0"], "vim": []}


@pytest.fixture
def start(two_workers, tiny_configs, tiny_runs, tmp_path):
    """A function (stage, workdir, *settings of the second worker) -> two processes."""
    started = []

    def start(stage, workdir, *seconds):
        command = [sys.executable, "-m", "vim_tf.train", "--config", tiny_configs[stage]]
        command += ["--workdir", workdir, "--deterministic", "--set", *SETTINGS, *MORE[stage]]
        if stage == "vim":
            command.append(f"tokenizer.run={tiny_runs['vit_vqgan']}")
        processes = []
        for environment, more in zip(two_workers(), ([], seconds), strict=True):
            process = subprocess.Popen(
                [*map(str, command), *more],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            processes.append(process)
        started.extend(processes)
        return processes

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(processes):
    """[(exit code, standard error)] of both."""
    ends = [process.communicate(timeout=200) for process in processes]
    return [(process.returncode, end[1]) for process, end in zip(processes, ends, strict=True)]


def wait_for(process, step):
    """Returns once a process reports a step."""
    for line in process.stderr:
        if line.startswith(f"step {step}/"):
            return
    raise AssertionError(f"it ended before step {step}")


def state(workdir):
    reader = tf.train.load_checkpoint(workdir / "checkpoints" / f"step_{STEPS:08}" / "state")
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    return {name: reader.get_tensor(name) for name in names if "save_counter" not in name}


@pytest.mark.parametrize("stage", ["vit_vqgan", "vim"])
def test_a_killed_worker_and_a_signal_to_one_change_nothing(start, stage, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for code, said in finish(start(stage, whole)):
        assert code == 0, said[-3000:]

    chief, other = start(stage, parts)
    wait_for(chief, 13)
    other.kill()
    begun = time.monotonic()
    (code, said), _ = finish([chief, other])
    assert code == 75, said[-3000:]
    assert "another worker has stopped" in said.splitlines()[-1]
    assert time.monotonic() - begun < 60
    assert Run(parts).checkpoint_dir.joinpath("step_00000010").exists()

    chief, other = start(stage, parts)
    wait_for(chief, 14)
    other.terminate()
    (code, said), (other_code, other_said) = finish([chief, other])
    assert (code, other_code) == (75, 75), said[-3000:] + other_said[-3000:]
    assert "SIGTERM: saving after this step" in other_said
    assert "stopped at step" in said.splitlines()[-1]
    assert said.splitlines()[-1] == other_said.splitlines()[-1]

    for code, said in finish(start(stage, parts)):
        assert code == 0, said[-3000:]
        assert "resuming at step 1" in said
    expected, found = state(whole), state(parts)
    assert set(expected) == set(found)
    assert len(expected) > 30
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    lines = Run(whole).read_metrics()
    assert [line["step"] for line in lines if line["kind"] == "train"] == [*range(1, STEPS + 1)]
    text = Run(whole).metrics_path.read_text()
    assert text.count("\n") == len(lines)  # only one worker wrote
    assert len(list(Run(whole).tensorboard_dir.iterdir())) == 1
    assert Run(whole).preset_dir.exists() and Run(whole).best_preset_dir.exists()


def test_workers_must_be_given_the_same(start, tmp_path):
    (code, said), (other_code, other_said) = finish(start("vim", tmp_path / "run", "seed=5"))
    assert (code, other_code) == (2, 2)
    assert "error: the config of 1 of 2 workers differs from that of the chief" in said
    assert "error: the config of this worker differs from that of the chief" in other_said
    assert "Traceback" not in said + other_said


def test_an_address_that_is_taken(two_workers, tiny_configs, tmp_path):
    """We print one line; TensorFlow's own lines come before it."""
    environment = two_workers()[0]
    command = [sys.executable, "-m", "vim_tf.train", "--config", tiny_configs["vit_vqgan"]]
    command += ["--workdir", tmp_path / "run", "--set", "training.strategy=multi_worker"]
    address, other = json.loads(environment["TF_CONFIG"])["cluster"]["worker"]
    with socket.socket() as taken:
        taken.bind(("", int(address.split(":")[1])))
        taken.listen()
        done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr[-2000:]
    assert f"worker 0 of 2, at {address}; waiting for {other}" in done.stderr
    assert "error: the workers of TF_CONFIG do not come together" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


# The probe --------------------------------------------------------------------------------------

# Batches of four images, so that both workers have some.
PROBE = """
from vim_tf import command_line, probe
from vim_tf.linear_probe import features as probe_features
probe_features.BATCH_SIZE = 4
command_line.run(probe.main)
"""
HEADS = {
    "logistic_regression": [],
    "sgd": ["--set", "sgd.optimizer=sgd", "sgd.epochs=30", "sgd.warmup_epochs=2"],
}
HEADS["sgd"] += ["sgd.batch_size=8", "sgd.learning_rate=1.0"]


def run_together(commands):
    """Runs the commands (words, environment) together; returns the standard output of each."""
    processes = [
        subprocess.Popen(
            [*map(str, words)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words, environment in commands
    ]
    ends = [process.communicate(timeout=200) for process in processes]
    failed = any(process.returncode for process in processes)
    assert not failed, "\n\n".join(said[-3000:] for _, said in ends)
    return [printed for printed, _ in ends]


@pytest.mark.parametrize("head", HEADS)
def test_workers_probe_as_one_does(two_workers, tiny_runs, tmp_path, head):
    """Each computes a share of the features, in the right order. Head and result are equal."""
    features, results = [], []
    for how, environments in (("one_device", [None]), ("multi_worker", two_workers())):
        run, out = tmp_path / how, tmp_path / f"{how}_out"
        shutil.copytree(tiny_runs["vim"], run)
        command = [sys.executable, "-c", PROBE, "--run", run, "--out", out, "--head", head]
        command += ["--strategy", how, *HEADS[head]]
        said = run_together([(command, environment) for environment in environments])
        assert [bool(text) for text in said] == [True, *[False] * (len(said) - 1)]
        results.append(json.loads((out / "probe.json").read_text()))
        files = sorted((run / "features").rglob("*.npy"))
        features.append({path.relative_to(run): np.load(path) for path in files})
    alone, together = features
    assert set(alone) == set(together)
    assert len(alone) == 2 * 5  # splits * (two blocks, tokenizer, pixels, labels)
    for name, values in alone.items():
        np.testing.assert_allclose(together[name], values, atol=2e-3, err_msg=str(name))
    for key in ("features", "block", "test", "pictures", "models"):
        assert results[0][key] == results[1][key], key
    assert min(results[0]["test"].values()) > 0.5


HEAD = """
import sys
import numpy as np
from vim_tf.config.sections import SGDHeadConfig
from vim_tf.distribution.strategies import strategy_of
from vim_tf.config.experiments import LinearProbeExperiment
from vim_tf.linear_probe.sgd_head import train_head

strategy = strategy_of(LinearProbeExperiment(strategy=sys.argv[1]))
random = np.random.default_rng(0)
features = random.normal(1000, 1, (101, 12)).astype("float32")
config = SGDHeadConfig("sgd", 3.0, batch_size=100, epochs=10, warmup_epochs=2)
with strategy.scope():
    head = train_head(features, random.integers(0, 4, 101), 4, config, seed=0)
np.savez(sys.argv[2], *[weights.numpy() for weights in head.weights])
"""


def test_workers_train_the_same_head(two_workers, tmp_path):
    heads = []
    for how, environments in (("one_device", [None]), ("multi_worker", two_workers())):
        outs = [tmp_path / f"{how}{number}.npz" for number in range(len(environments))]
        commands = [[sys.executable, "-c", HEAD, how, out] for out in outs]
        run_together(zip(commands, environments, strict=True))
        heads += [list(np.load(out).values()) for out in outs]
    alone, chief, other = heads
    for a, b, c in zip(alone, chief, other, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(c, b)
