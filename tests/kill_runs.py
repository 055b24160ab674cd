"""Kills a tiny run many times, and compares its end with that of a run without kills.

    make kill-test N=50        (python tests/kill_runs.py --kills 50 --stage vit_vqgan)

Two of three kills are at a failpoint: inside a save, inside an evaluation or, in stage vim, inside
the making of the token cache. The others are at a random moment after a random step. After every
fifth kill the newest checkpoint loses its last bytes. The same command is started again until the
run is done. Then all state (weights, averages, slots and counters) must equal that of the other run
bit for bit, metrics.jsonl must have each step once, and nothing may be left over.

At the end an export of the run is killed at each of its failpoints. The next one must give the same
files as an export that was left alone.
"""

import argparse
import json
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
SAVING = ("before_state", "before_manifest", "before_removal", "before_preset", "between_presets")
CACHE = ("after_shard", "before_cache")  # before the first step
EXPORT = ("before_format", "before_publication", "in_publication")
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
            "evaluate_every": 4,
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
    counts = {"in a save": 0, "in the cache": 0, "at other moments": 0, "files cut": 0}
    done = 0
    while done < kills:
        inside = done % 3 != 2
        # The cache is made once a run, so it is killed whenever there is none.
        in_cache = tokenizer is not None and not (workdir / "tokens").exists()
        if inside:
            places = CACHE if in_cache else SAVING
            place = places[rng.randrange(len(places))]
            count = 1 if in_cache else rng.randint(1, 2)
            process = start(config, workdir, tokenizer, f"{place}:{count}")
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
        where = "in the cache" if in_cache else "in a save"
        counts[where if inside else "at other moments"] += 1
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
    check_logs(workdir)
    return len(expected)


def check_logs(workdir):
    """Exits with an error if metrics.jsonl has a step twice or lacks one, or anything is left."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["kind"] == "train"]
    evaluations = [line["step"] for line in lines if line["kind"] == "evaluation"]
    if steps != [*range(1, STEPS + 1)] or evaluations != [*range(4, STEPS + 1, 4)]:
        sys.exit(f"metrics.jsonl has the steps {steps} and the evaluations {evaluations}")
    left = [*workdir.glob(".*"), *workdir.glob("preset*.new"), *workdir.glob("preset*.old")]
    if left:
        sys.exit(f"left over: {left}")


def export(run, out, failpoint=""):
    """Exports a run's SavedModel; returns whether the process was killed."""
    command = [sys.executable, "-m", "vim_tf.export", "--run", run, "--to", out]
    environment = {**os.environ, "VIM_TF_FAILPOINT": failpoint and f"{failpoint}:1"}
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode not in (0, KILLED):
        sys.exit(f"an export failed with code {done.returncode}:\n{done.stderr}")
    return done.returncode == KILLED


def exported(out, version):
    """(names of the files, {name: bytes} of the weights) of a version.

    Two exports differ in the names inside the graph, and in the states of Keras' unused generators
    of random numbers, which are integers.
    """
    folder = out / "vim" / str(version)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    weights = tf.train.load_checkpoint(folder / "variables" / "variables")
    types = weights.get_variable_to_dtype_map()
    floats = [name for name in types if types[name].is_floating]
    assert len(floats) > 20, floats
    return names, {name: weights.get_tensor(name).tobytes() for name in floats}


def kill_exports(run, folder):
    """Kills an export at each failpoint; returns the number of kills."""
    export(run, folder / "alone")
    expected = exported(folder / "alone", 1)
    for place in EXPORT:
        out = folder / place
        if not export(run, out, place):
            sys.exit(f"the export was not killed at {place}")
        export(run, out)
        versions = sorted(int(path.name) for path in (out / "vim").iterdir())
        if versions != ([1, 2] if place == "in_publication" else [1]):
            sys.exit(f"an export that was killed at {place} led to the versions {versions}")
        for version in versions:
            if exported(out, version) != expected:
                sys.exit(f"version {version} after a kill at {place} is another export")
        if list(out.glob(".*")):
            sys.exit(f"left over: {list(out.glob('.*'))}")
    return len(EXPORT)


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
        exports = kill_exports(workdir, folder / "exports")
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(
        f"{arguments.stage}: {told}; all {number} variables equal bit for bit, "
        f"and {exports} killed exports equal one that was not"
    )


if __name__ == "__main__":
    main()
