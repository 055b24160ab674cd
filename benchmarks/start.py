"""Measures how long commands take to start: help, an error, and a training's first step.

    python benchmarks/start.py

Each command has its own process and is timed by the wall clock. The training is that of the emoji
tokenizer, timed from its start to the line of its first step. The last row is the import of
TensorFlow alone.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "configs" / "emoji" / "vit_vqgan.yaml"
TRAIN = [sys.executable, "-m", "vim_tf.train", "--config", CONFIG]
ROWS = {
    "`vim_tf.train --help`": [sys.executable, "-m", "vim_tf.train", "--help"],
    "a key that does not exist": [*TRAIN, "--set", "no.such=1"],
    "`import tensorflow`": [sys.executable, "-c", "import tensorflow"],
}


def main(arguments=None):
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args(arguments)
    taken = {name: [] for name in ["train, to its first step", *ROWS]}
    for _ in range(arguments.repeats):
        for name, command in ROWS.items():
            taken[name].append(time_command(command))
        taken["train, to its first step"].append(time_first_step())
    print(f"median of {arguments.repeats}\n\n| command | s |\n|---|---:|")
    for name, seconds in taken.items():
        print(f"| {name} | {statistics.median(seconds):.2f} |")


def time_command(command):
    """Seconds until a command ends."""
    started = time.perf_counter()
    subprocess.run([*map(str, command)], capture_output=True, check=False)
    return time.perf_counter() - started


def time_first_step():
    """Seconds from the start of a training to the line of its first step."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*TRAIN, "--workdir", Path(folder) / "run", "--set", "training.log_every=1"]
        command += ["training.steps=1000"]
        started = time.perf_counter()
        process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if line.startswith("step 1/"):
                break
        seconds = time.perf_counter() - started
        process.kill()
        process.communicate()
        return seconds


if __name__ == "__main__":
    main()
