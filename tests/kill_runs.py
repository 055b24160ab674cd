"""Kills a tiny run many times, and compares its end with that of a run without kills.

    make kill-test N=50        (python tests/kill_runs.py --kills 50 --stage vit_vqgan)

Two of three kills are inside a save, at a failpoint. The others are at a random moment after a
random step. After every fifth kill the newest checkpoint loses its last bytes. The same command is
started again until the run is done. Then all state (weights, averages, slots and counters) must
equal that of the other run bit for bit.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import conftest
import numpy as np
import tensorflow as tf
import yaml

STEPS = 40
PLACES = ("before_state", "before_manifest", "before_removal")
KILLED = -9
CONFIGS = {"vit_vqgan": conftest.TINY_VIT_VQGAN, "vim": conftest.TINY_VIM}


def write_configs(folder):
    """Writes tiny configs of both stages that save every second step; returns their paths."""
    images = conftest.write_tiny_images(folder / "images")
    paths = {}
    for stage, text in CONFIGS.items():
        config = yaml.safe_load(text + conftest.TINY_DATA.format(images=images))
        config["training"] = {
            "steps": STEPS,
            "log_every": 1,
            "evaluate_every": STEPS,
            "checkpoint_every": 2,
            "keep_checkpoints": 3,
        }
        paths[stage] = folder / f"{stage}.yaml"
        paths[stage].write_text(yaml.safe_dump(config))
    return paths


def start(config, workdir, tokenizer, failpoint=None):
    """Starts a training in its own process."""
    command = [sys.executable, "-m", "vim_tf.train", "--config", config, "--workdir", workdir]
    command += ["--deterministic"]
    if tokenizer:
        command += ["--set", f"tokenizer.run={tokenizer}"]
    environment = {**os.environ}
    if failpoint:
        environment["VIM_TF_FAILPOINT"] = failpoint
    return subprocess.Popen(
        [*map(str, command)], stderr=subprocess.PIPE, text=True, env=environment
    )


def finish(config, workdir, tokenizer):
    """Runs a training to its end."""
    process = start(config, workdir, tokenizer)
    _, said = process.communicate()
    if process.returncode:
        sys.exit(f"a run failed with code {process.returncode}:\n{said}")


def kill_behind(process, steps, seconds):
    """Kills a process shortly after it has reported so many steps; True if it was killed."""
    for line in process.stderr:
        if line.startswith("step "):
            steps -= 1
            if steps == 0:
                time.sleep(seconds)
                process.kill()
                break
    process.stderr.read()
    return process.wait() == KILLED


def newest(workdir):
    """The folder of the newest checkpoint that has a manifest, or None."""
    found = sorted((workdir / "checkpoints").glob("step_*/manifest.json"))
    return found[-1].parent if found else None


def cut_short(workdir):
    """Removes the last bytes of the newest checkpoint's largest file; False if there is none."""
    folder = newest(workdir)
    if folder is None:
        return False
    path = max(folder.iterdir(), key=lambda file: file.stat().st_size)
    os.truncate(path, path.stat().st_size - 5)
    return True


def kill_again_and_again(config, workdir, tokenizer, kills, rng):
    """Returns the numbers of kills inside a save, of kills at other moments, and of cut files."""
    counts = {"in a save": 0, "at other moments": 0, "files cut": 0}
    done = 0
    while done < kills:
        inside = done % 3 != 2
        if inside:
            place = PLACES[rng.randrange(len(PLACES))]
            process = start(config, workdir, tokenizer, f"{place}:{rng.randint(1, 2)}")
            process.communicate()
            killed = process.returncode == KILLED
        else:
            process = start(config, workdir, tokenizer)
            killed = kill_behind(process, rng.randint(1, 4), rng.uniform(0, 0.1))
        if not killed:
            if process.returncode:
                sys.exit(f"a run failed with code {process.returncode}")
            # The run ended before there were enough kills: starts another run.
            compare(workdir, config, tokenizer)
            shutil.rmtree(workdir)
            continue
        done += 1
        counts["in a save" if inside else "at other moments"] += 1
        if done % 5 == 0 and cut_short(workdir):
            counts["files cut"] += 1
        print(f"kill {done} of {kills}: at {newest(workdir)}", flush=True)
    finish(config, workdir, tokenizer)
    return counts


def state(workdir):
    """The state {name: array} of the last checkpoint."""
    folder = newest(workdir)
    assert folder.name == f"step_{STEPS:08}", folder
    reader = tf.train.load_checkpoint(folder / "state")
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    return {name: reader.get_tensor(name) for name in names if "save_counter" not in name}


_expected = {}


def compare(workdir, config, tokenizer):
    """Exits with an error unless the run's state equals that of a run without kills."""
    if config not in _expected:
        alone = workdir.with_name(f"{workdir.name}_alone")
        finish(config, alone, tokenizer)
        _expected[config] = state(alone)
    expected, found = _expected[config], state(workdir)
    if set(expected) != set(found):
        sys.exit(f"other variables: {set(expected) ^ set(found)}")
    for name, value in expected.items():
        if not np.array_equal(value, found[name]):
            sys.exit(f"{name} differs from the run that was left alone")
    return len(expected)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--stage", choices=[*CONFIGS], default="vit_vqgan")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="vim_tf_kill_test_") as folder:
        folder = Path(folder)
        configs = write_configs(folder)
        tokenizer = None
        if arguments.stage == "vim":
            tokenizer = folder / "tokenizer"
            finish(configs["vit_vqgan"], tokenizer, None)
        config, workdir = configs[arguments.stage], folder / "run"
        counts = kill_again_and_again(config, workdir, tokenizer, arguments.kills, rng)
        number = compare(workdir, config, tokenizer)
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{arguments.stage}: {told}; all {number} variables equal bit for bit")


if __name__ == "__main__":
    main()
