import numpy as np
import pytest

from vim_tf import UserError
from vim_tf.metrics import kid as kid_module
from vim_tf.metrics.kid import bootstrap_error, draw_subsets, kid, squared_mmd

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


def test_a_subset_that_is_the_whole_set_is_computed_once(monkeypatch):
    a, b = RNG.normal(size=(20, 3)), RNG.normal(size=(20, 3))
    calls = []
    monkeypatch.setattr(kid_module, "squared_mmd", lambda *sets: calls.append(1) or 0.5)
    assert kid(a, b, 10, 20, 0) == (0.5, 0.0)
    assert len(calls) == 1
    kid(a[:19], b, 10, 19, 0)
    assert len(calls) == 11


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


# The error of a bootstrap -------------------------------------------------------------------------


def resampled(a, b, resamples, seed):
    """The estimates of `resamples` resamples, pair by pair, with a kernel that is centred."""
    rows = np.concatenate([a, b]).astype("float64")
    kernel = (rows @ rows.T / rows.shape[1] + 1) ** 3
    kernel = kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
    random, drawn = np.random.RandomState(seed), []
    for count in (len(a), len(b)):
        drawn.append([random.randint(count, size=count) for _ in range(resamples)])
    estimates, of_pairs = [], []
    for i, j in zip(*drawn, strict=True):
        weights = np.bincount(i, minlength=len(a)) / len(a)
        weights = np.append(weights, -np.bincount(j, minlength=len(b)) / len(b))
        change = weights - np.repeat([1 / len(a), -1 / len(b)], [len(a), len(b)])
        others = ~np.eye(len(rows), dtype=bool)
        estimates.append(np.sum(np.outer(weights, weights) * kernel, where=others))
        of_pairs.append(np.sum(np.outer(change, change) * kernel, where=others))
    return np.array(estimates), np.array(of_pairs)


@pytest.mark.parametrize(("rows_a", "rows_b", "block"), [(40, 25, 2048), (25, 40, 7), (2, 3, 2)])
def test_the_error_is_that_of_its_resamples(rows_a, rows_b, block, monkeypatch):
    monkeypatch.setattr(kid_module, "BLOCK", block)
    a = RNG.normal(size=(rows_a, 5)).astype("float32")
    b = RNG.normal(size=(rows_b, 5)).astype("float32") + 0.4
    estimates, of_pairs = resampled(a, b, 30, seed=4)
    expected = max(np.var(estimates) - 2 * np.var(of_pairs), np.var(of_pairs)) ** 0.5
    assert bootstrap_error(a, b, 30, seed=4) == pytest.approx(expected, rel=1e-9)
    assert bootstrap_error(a, b, 30, seed=5) != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("rows", [(80, 80), (60, 150)])
@pytest.mark.parametrize("shift", [0.0, 0.1, 0.6])
def test_the_error_is_the_spread_of_independent_draws(rows, shift):
    """Also if both sets are from one distribution, where a plain bootstrap gives 1.7 times this."""
    random = np.random.default_rng(int(100 * shift))

    def draw():
        a, b = (random.uniform(-1, 1, (count, 6)) for count in rows)
        return a, b + shift

    spread = np.std([squared_mmd(*draw()) for _ in range(600)])  # known to 3%
    errors = [bootstrap_error(*draw(), 100, seed) for seed in range(40)]
    assert 0.85 < np.sqrt(np.mean(np.square(errors))) / spread < 1.3


def test_an_error_of_one_image_is_refused():
    with pytest.raises(UserError, match="KID's error of 1 images"):
        bootstrap_error(np.zeros((20, 3)), np.zeros((1, 3)))
    with pytest.raises(UserError, match="length 3 and 4"):
        bootstrap_error(np.zeros((20, 3)), np.zeros((20, 4)))
