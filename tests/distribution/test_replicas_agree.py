"""One, two and four replicas, two processes, and parts of batches train the same model.

The training has everything that draws, counts or uses more than one row: dropout, label drop, R1,
minibatch deviation, revival of codes, the entropy of their use. The learning rate is constant:
during the paper's warm-up, weights would change too little for a comparison.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.large  # one process per number of replicas
SCRIPT = Path(__file__).parent / "replica_run.py"


@pytest.fixture(scope="module")
def train(tmp_path_factory, two_workers):
    """A function (stage, way, *mutant) -> {name: array}: the results of a training."""
    folder, done = tmp_path_factory.mktemp("replicas"), {}

    def train(*arguments):
        if arguments not in done:
            stage, way, *mutant = arguments
            environments = two_workers() if way == "two workers" else [None]
            outs, runs = [], []
            for number, environment in enumerate(environments):
                outs.append(folder / f"{'-'.join(arguments)}-{number}.npz".replace(" ", "_"))
                command = [sys.executable, SCRIPT, stage, way, outs[-1], *mutant]
                run = subprocess.Popen(
                    [*map(str, command)], env=environment, stderr=subprocess.PIPE, text=True
                )
                runs.append(run)
            said = [run.communicate()[1][-3000:] for run in runs]  # of all, before any is checked
            assert not any(run.returncode for run in runs), "\n\n".join(said)
            first, *others = [dict(np.load(out)) for out in outs]
            for other in others:
                assert set(first) == set(other)
                assert all(np.array_equal(first[name], other[name]) for name in first)
            done[arguments] = first
        return done[arguments]

    return train


def parts(found, kind):
    """{name: float64 array} of one kind of result."""
    return {k: v.astype("float64") for k, v in found.items() if k.startswith(f"{kind}/")}


def apart(a, b):
    """Distance of all arrays together, divided by the norm of the first ones."""
    distance = sum(np.sum((a[name] - b[name]) ** 2) for name in a)
    return np.sqrt(distance / sum(np.sum(value**2) for value in a.values()))


def movement(found):
    before = list(parts(found, "before").values())
    after = parts(found, "after")
    return {k: v - before[i] for i, (k, v) in enumerate(after.items())}


WAYS = [
    ("2 replicas", "one replica"),
    ("4 replicas", "one replica"),
    ("two workers", "one replica"),
    ("less memory", "one replica"),
    ("parts on 2 replicas", "whole batches"),
]

CASES = [
    (stage, *ways)
    for stage in ("vit_vqgan", "vim", "classifier")
    for ways in WAYS
    # A classifier has no transformer, and says so. For the other ways one stage each is enough.
    if stage == "vit_vqgan" or "replicas" in ways[0] or (stage, ways[0]) == ("vim", "two workers")
]


@pytest.mark.parametrize(
    ("stage", "way", "plain"), CASES, ids=[" ".join(case[:2]) for case in CASES]
)
def test_the_same_model(train, stage, way, plain):
    one, many = train(stage, plain), train(stage, way)
    assert apart(parts(one, "gradient"), parts(many, "gradient")) < 1e-5
    moved = movement(one)
    assert apart(moved, movement(many)) < 1e-3
    for name, change in moved.items():
        difference = np.linalg.norm(one[name].astype("float64") - many[name])
        assert difference < 1e-3 * np.linalg.norm(change) + 1e-7, name
    assert apart(parts(one, "average"), parts(many, "average")) < 1e-4
    for name, value in parts(one, "log").items():
        np.testing.assert_allclose(many[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
    counts = parts(one, "count")
    assert bool(counts) == (stage == "vit_vqgan")
    for name, value in counts.items():
        np.testing.assert_array_equal(many[name], value, err_msg=name)
    moves = {k: np.linalg.norm(v) for k, v in moved.items()}
    assert min(moves.values()) > 0


def test_a_sum_instead_of_the_mean_would_be_seen(train):
    """Only the norm shows it: with clipping and Adam the length of gradients has no effect."""
    right, wrong = train("vim", "one replica"), train("vim", "2 replicas", "sum")
    assert wrong["log/gradient_norm"] > 1.5 * right["log/gradient_norm"]


def test_clipping_before_the_reduction_would_be_seen(train):
    right, wrong = train("vim", "one replica"), train("vim", "2 replicas", "clip_first")
    assert apart(movement(right), movement(wrong)) > 1e-2
