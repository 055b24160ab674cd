import numpy as np
import pytest

from vim_tf import UserError
from vim_tf.metrics.kid import draw_subsets, kid, squared_mmd

RNG = np.random.default_rng(0)


def definition(a, b):
    """Two sums over pairs of different rows, and one over all pairs, term by term."""
    kernel = lambda x, y: (float(x @ y) / len(x) + 1) ** 3  # noqa: E731
    a, b = a.astype("float64"), b.astype("float64")
    m, n = len(a), len(b)
    within_a = sum(kernel(a[i], a[j]) for i in range(m) for j in range(m) if i != j)
    within_b = sum(kernel(b[i], b[j]) for i in range(n) for j in range(n) if i != j)
    across = sum(kernel(x, y) for x in a for y in b)
    return within_a / (m * (m - 1)) + within_b / (n * (n - 1)) - 2 * across / (m * n)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("rows_a", "rows_b", "dim"), [(2, 2, 1), (30, 17, 8), (17, 30, 5)])
def test_squared_mmd_is_its_definition(rows_a, rows_b, dim, dtype):
    a = (3 * RNG.normal(size=(rows_a, dim))).astype(dtype)
    b = (RNG.normal(size=(rows_b, dim)) + 1).astype(dtype)
    assert squared_mmd(a, b) == pytest.approx(definition(a, b), rel=1e-12)


def test_kid_is_the_mean_over_its_subsets():
    a, b = RNG.normal(size=(50, 6)), RNG.normal(size=(40, 6)) + 0.5
    expected = [definition(a[i], b[j]) for i, j in draw_subsets(50, 40, 5, 12, seed=7)]
    mean, deviation = kid(a, b, subsets=5, subset_size=12, seed=7)
    assert mean == pytest.approx(np.mean(expected), rel=1e-12)
    assert deviation == pytest.approx(np.std(expected), rel=1e-10)
    assert kid(a, b, subsets=5, subset_size=12, seed=8)[0] != mean


def test_subsets_have_no_row_twice_and_differ():
    drawn = list(draw_subsets(20, 30, 4, 15, seed=0))
    assert len(drawn) == 4
    for rows_a, rows_b in drawn:
        assert len(set(rows_a)) == len(set(rows_b)) == 15
        assert rows_a.max() < 20 <= rows_b.max() < 30
    assert len({tuple(rows) for rows, _ in drawn}) == 4


def test_kid_is_unbiased():
    """Two samples of one distribution give 0 within the error, even with small subsets."""
    a, b = RNG.normal(size=(4000, 4)), RNG.normal(size=(4000, 4))
    mean, deviation = kid(a, b, subsets=200, subset_size=20, seed=0)
    assert abs(mean) < 4 * deviation / np.sqrt(200)
    shifted, _ = kid(a, b + 1, subsets=200, subset_size=20, seed=0)
    assert shifted > 20 * deviation / np.sqrt(200)


def test_kid_reads_a_memmap(tmp_path):
    features = RNG.normal(size=(60, 6)).astype("float32")
    features.tofile(tmp_path / "features")
    mapped = np.memmap(tmp_path / "features", "float32", "r", shape=(60, 6))
    assert kid(mapped, features[::2], 3, 20, 0) == kid(features, features[::2], 3, 20, 0)


@pytest.mark.parametrize("size", [0, 1, 11])
def test_sizes_that_cannot_be_are_refused(size):
    with pytest.raises(UserError, match=f"subset size is {size} for sets of 20 and 10"):
        kid(np.zeros((20, 3)), np.zeros((10, 3)), 2, size, 0)


def test_other_lengths_are_refused():
    with pytest.raises(UserError, match="length 3 and 4"):
        kid(np.zeros((20, 3)), np.zeros((20, 4)), 2, 5, 0)
