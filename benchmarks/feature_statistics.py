r"""Measures the seconds for statistics of features and their FID, ours and torch-fidelity's.

    VIM_TF_REFERENCE_PYTHON=.venv-reference/bin/python \
        .venv/bin/python benchmarks/feature_statistics.py --rows 50000 --dim 2048

Both get the same file of float32 features and the same reference moments, one after the other in
every repeat. Ours takes the features in batches, as an evaluation does. torch-fidelity takes all
at once, as its own evaluation does. It is installed in the environment of
tests/reference/requirements.txt, which `make test-large` makes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from vim_tf.metrics.fid import FeatureStatistics, frechet_distance

REFERENCE = "VIM_TF_REFERENCE_PYTHON"
SCRIPT = Path(__file__).parents[1] / "tests" / "reference" / "torch_fidelity_seconds.py"
BATCH = 64


def main():
    """Prints a Markdown table, and says whether both distances agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=2_048)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        features, reference = Path(folder, "features.npy"), Path(folder, "reference.npz")
        make_features(features, reference, arguments.rows, arguments.dim)
        times = [
            (time_ours(features, reference), time_theirs(features, reference))
            for _ in range(arguments.repeats)
        ]
    ours, theirs = ({key: [t[i][key] for t in times] for key in times[0][0]} for i in range(2))
    print(f"{arguments.rows:,} x {arguments.dim:,}, median of {arguments.repeats}, NumPy", end=" ")
    print(f"{ours['numpy'][0]} (ours) and {theirs['numpy'][0]} (torch-fidelity)\n")
    print("| | vim_tf | torch-fidelity | ratio |\n|---|---:|---:|---:|")
    for key in ("statistics", "distance", "both"):
        a, b = statistics.median(ours[key]), statistics.median(theirs[key])
        print(f"| {key} | {a:.2f} s | {b:.2f} s | {a / b:.2f} |")
    print(f"\nFID {ours['fid'][0]:.8g} and {theirs['fid'][0]:.8g}")


def make_features(features, reference, rows, dim):
    """Writes features [rows,dim] as after a ReLU, and moments of others like them."""
    random = np.random.default_rng(0)
    mixing = random.normal(size=(dim, dim)).astype("float32") / np.sqrt(np.float32(dim))
    file = np.lib.format.open_memmap(features, "w+", "float32", (rows, dim))
    others = FeatureStatistics(dim)
    for start in range(0, rows, dim):
        batch = file[start : start + dim]
        batch[:] = np.maximum(random.normal(size=batch.shape).astype("float32") @ mixing, 0)
        if start < 4 * dim:
            others.update(
                np.maximum(random.normal(size=batch.shape).astype("float32") @ mixing + 0.1, 0)
            )
    file.flush()
    others.save(reference)


def time_ours(features, reference):
    """{name: seconds or figure}."""
    rows, reference = np.load(features), FeatureStatistics.load(reference)
    start = time.perf_counter()
    moments = FeatureStatistics(rows.shape[1])
    for place in range(0, len(rows), BATCH):
        moments.update(rows[place : place + BATCH])
    _ = moments.mean  # including the last rows
    middle = time.perf_counter()
    fid = frechet_distance(moments, reference)
    end = time.perf_counter()
    return {
        "statistics": middle - start,
        "distance": end - middle,
        "both": end - start,
        "fid": fid,
        "numpy": np.__version__,
    }


def time_theirs(features, reference):
    """The same for torch-fidelity, without the time of its imports."""
    done = subprocess.run(
        [os.environ[REFERENCE], SCRIPT, features, reference], capture_output=True, check=True
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    if REFERENCE not in os.environ:
        sys.exit(f"{REFERENCE} is not set; name the Python that has torch-fidelity")
    main()
