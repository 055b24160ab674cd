"""Shows whether this checkout is slower than another one.

    git worktree add ../before <commit>
    python benchmarks/commits.py --other ../before

One process per checkout runs its benchmarks/rounds.py. Rounds alternate between the checkouts. The
checkout that starts a pair alternates too. The table has the median of each checkout, and the
median of the ratios of the pairs. A ratio above 1 says that this checkout is slower.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from vim_tf import command_line
from vim_tf.errors import UserError

HERE = Path(__file__).resolve().parents[1]
KINDS = ("vit_vqgan", "vim", "generation", "opening")
CLASSES, SIDE = 20, 64


def main(arguments=None):
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--other", type=Path, required=True, help="folder of the other checkout")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--images", type=int, default=20_000, help="number of images to open")
    parser.add_argument("--pairs", type=int, default=7)
    arguments = parser.parse_args(arguments)
    command_line.check_positive(vars(arguments), "images", "pairs")
    checkouts = HERE, arguments.other.resolve()
    for checkout in checkouts:
        if not (checkout / "benchmarks" / "rounds.py").is_file():
            raise UserError(f"{checkout} has no benchmarks/rounds.py; --other must be a checkout")
    print("| work | this, s | other, s | ratio | of processor time |\n|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        if "opening" in arguments.kinds:
            write_images(Path(folder), arguments.images)
        for kind in arguments.kinds:
            pairs = np.array(alternate(checkouts, [kind, "--folder", folder], arguments.pairs))
            ours, theirs = np.median(pairs[:, :, 0], 0)
            ratios = [statistics.median(pairs[:, 0, i] / pairs[:, 1, i]) for i in range(2)]
            print(f"| {kind} | {ours:.2f} | {theirs:.2f} | {ratios[0]:.3f} | {ratios[1]:.3f} |")


def alternate(checkouts, arguments, pairs):
    """Returns [pairs][checkout] of (seconds of the wall clock, seconds of the processors)."""
    workers = [start(checkout, arguments) for checkout in checkouts]
    try:
        found = []
        for pair in range(pairs):
            order = [0, 1] if pair % 2 == 0 else [1, 0]
            answers = {place: ask(workers[place]) for place in order}
            found.append([answers[0], answers[1]])
        return found
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def start(checkout, arguments):
    """Starts the worker of a checkout. Its errors go to standard error."""
    return subprocess.Popen(
        [sys.executable, str(checkout / "benchmarks" / "rounds.py"), *map(str, arguments)],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def ask(worker):
    """Lets a worker run one round."""
    worker.stdin.write("\n")
    answer = worker.stdout.readline()
    if not answer:
        raise UserError("a worker ended; its error is above")
    return [float(number) for number in answer.split()]


def write_images(folder, count):
    """Writes small JPEGs of noise, in one folder per class."""
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class_{number % CLASSES:02}" / f"{number:06}.jpg"
        path.parent.mkdir(exist_ok=True)
        pixels = random.integers(0, 256, (8, 8, 3), "uint8")
        Image.fromarray(pixels).resize((SIDE, SIDE)).save(path, quality=90)


if __name__ == "__main__":
    command_line.run(main)
