import numpy as np
import pytest

from vim_tf import UserError
from vim_tf.metrics import precision_recall as module
from vim_tf.metrics.precision_recall import precision_recall


def make_sets(seed, rows=60, samples=45, dim=4, shift=0.7):
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, dim)), 0.8 * random.normal(size=(samples, dim)) + shift


def radius(point, others, k):
    return sorted(float(np.linalg.norm(point - other)) for other in others)[k - 1]


def covered(points, manifold, k):
    """Share of points inside any ball. A ball reaches to the k-th nearest of the other rows."""
    radii = [radius(row, np.delete(manifold, i, 0), k) for i, row in enumerate(manifold)]
    inside = [
        any(np.linalg.norm(point - row) <= r for row, r in zip(manifold, radii, strict=True))
        for point in points
    ]
    return np.mean(inside)


@pytest.mark.parametrize("block", [7, 45, 2048])
@pytest.mark.parametrize("neighbours", [1, 3])
def test_equals_brute_force(neighbours, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    reference, samples = make_sets(0)
    expected = covered(samples, reference, neighbours), covered(reference, samples, neighbours)
    assert 0.2 < min(expected) < max(expected) < 0.98
    assert abs(expected[0] - expected[1]) > 0.1
    assert precision_recall(reference, samples, neighbours) == pytest.approx(expected, abs=1e-12)


def test_three_neighbours_are_the_default():
    reference, samples = make_sets(1)
    assert precision_recall(reference, samples) == precision_recall(reference, samples, 3)
    assert precision_recall(reference, samples) != precision_recall(reference, samples, 1)


def test_limits():
    reference, samples = make_sets(0)
    assert precision_recall(reference, reference[::-1]) == (1, 1)
    assert precision_recall(reference, samples + 100) == (0, 0)
    # Copies of one good image: precision 1, but it covers nothing.
    assert precision_recall(reference, np.tile(reference.mean(0), (30, 1))) == (1, 0)


@pytest.mark.parametrize("block", [7, 2048])
@pytest.mark.parametrize("seed", range(5))
def test_copies_are_found_whatever_the_rounding(seed, block, monkeypatch):
    """Balls have radius 0, because the reference has each image four times."""
    monkeypatch.setattr(module, "BLOCK", block)
    distinct = 3 * np.random.default_rng(seed).normal(size=(20, 300)) + 5
    reference = np.tile(distinct, (4, 1))
    assert precision_recall(reference, distinct[::2])[0] == 1.0
    assert precision_recall(reference, np.tile(distinct[::2], (4, 1))) == (1.0, 0.5)


def test_large_means_cost_no_digits():
    reference, samples = make_sets(3)
    expected = precision_recall(reference, samples)
    assert precision_recall(reference + 1e6, samples + 1e6) == expected


def test_reads_memmaps(tmp_path):
    reference, samples = (x.astype("float32") for x in make_sets(4))
    reference.tofile(tmp_path / "reference")
    mapped = np.memmap(tmp_path / "reference", "float32", "r", shape=reference.shape)
    assert precision_recall(mapped, samples) == precision_recall(reference, samples)


@pytest.mark.parametrize(
    ("reference", "samples", "message"),
    [
        ((3, 2), (9, 2), "reference has 3 images"),
        ((9, 2), (3, 2), "samples has 3 images"),
        ((9, 2), (9, 3), "length 2 and 3"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(reference, samples, message):
    with pytest.raises(UserError, match=message):
        precision_recall(np.zeros(reference), np.zeros(samples))
