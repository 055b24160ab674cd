import warnings

import numpy as np
import pytest
import scipy.linalg

from vim_tf import UserError
from vim_tf.metrics.fid import FeatureStatistics, frechet_distance

DIM = 24


def make_features(seed, rows=500, dim=DIM, rank=None, mean=0.0):
    """Correlated features with variances that differ by a factor of about 100."""
    random = np.random.default_rng(seed)
    rank = rank or dim
    mixing = random.normal(size=(rank, dim)) * np.linspace(0.3, 3, rank)[:, None]
    return random.normal(size=(rows, rank)) @ mixing + mean + random.normal(size=dim)


def gather(features, *bounds):
    statistics = FeatureStatistics(features.shape[1])
    for batch in np.split(features, bounds):
        statistics.update(batch)
    return statistics


def scipy_distance(a, b):
    """The definition, with SciPy's square root of the product. Its trace may be complex."""
    covariances = [np.cov(features, rowvar=False) for features in (a, b)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy warns of singular matrices
        root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    difference = a.mean(0) - b.mean(0)
    return difference @ difference + np.trace(covariances[0] + covariances[1] - 2 * root.real)


# Statistics -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [0.0, 1e4])
@pytest.mark.parametrize("rows", [2, DIM - 1, DIM, DIM + 1, 500])
def test_moments_equal_numpy(rows, mean):
    features = make_features(0, rows, mean=mean)
    statistics = gather(features, 1, min(7, rows))
    assert statistics.count == rows
    np.testing.assert_allclose(statistics.mean, features.mean(0), rtol=1e-13, atol=1e-13)
    expected = np.cov(features, rowvar=False)
    np.testing.assert_allclose(statistics.covariance, expected, rtol=1e-10, atol=1e-9)


def test_large_means_cost_no_digits():
    """Squares of values near 1e8 need all digits of float64. Adding 1 is exact."""
    features = np.random.default_rng(0).integers(0, 2, (600, DIM)).astype("float64")
    expected = np.cov(features, rowvar=False)
    covariance = gather(features + 1e8, 100, 250).covariance
    np.testing.assert_allclose(covariance, expected, atol=1e-7)


def test_batches_do_not_matter():
    features = make_features(0, 131)
    whole = gather(features)
    for bounds in ([1], [24], [25, 26, 100], list(range(131))):
        cut = gather(features, *bounds)
        np.testing.assert_array_equal(cut.mean, whole.mean)
        np.testing.assert_array_equal(cut.covariance, whole.covariance)


def test_float32_is_summed_in_float64():
    features = make_features(0, mean=100.0).astype("float32")
    expected = np.cov(features.astype("float64"), rowvar=False)
    np.testing.assert_allclose(gather(features).covariance, expected, rtol=1e-10, atol=1e-10)


def test_reading_in_the_middle_changes_nothing():
    features = make_features(0, 100)
    statistics = FeatureStatistics(DIM)
    for batch in np.split(features, 10):
        statistics.update(batch)
        assert np.isfinite(statistics.mean).all()
    np.testing.assert_allclose(statistics.covariance, np.cov(features, rowvar=False), atol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 30, 99])
def test_rows_can_be_taken_away(count):
    features = make_features(0, 100, mean=50.0)
    rest = gather(features).without(gather(features[:count]))
    assert rest.count == 100 - count
    np.testing.assert_allclose(rest.mean, features[count:].mean(0), rtol=1e-11)
    if count < 99:
        expected = np.cov(features[count:], rowvar=False)
        np.testing.assert_allclose(rest.covariance, expected, rtol=1e-8, atol=1e-9)
    with pytest.raises(ValueError, match="100 rows cannot be taken from 100"):
        gather(features).without(gather(features))


def test_projected_statistics_are_those_of_projected_rows():
    features = make_features(0, 100, mean=5.0)
    axes = np.random.default_rng(1).normal(size=(DIM, 5))
    found, expected = gather(features).projected(axes), features @ axes
    np.testing.assert_allclose(found.mean, expected.mean(0), rtol=1e-11)
    np.testing.assert_allclose(found.covariance, np.cov(expected, rowvar=False), rtol=1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_row_that_is_not_finite_is_named(value):
    statistics = gather(make_features(0, 50))
    bad = make_features(1, 8)
    bad[5, 3] = value
    with pytest.raises(UserError, match=f"row 55 of the features holds {value} at place 3"):
        statistics.update(bad)
    assert statistics.count == 50


def test_too_few_rows_are_refused():
    statistics = FeatureStatistics(DIM)
    with pytest.raises(UserError, match="the mean of 0 features"):
        _ = statistics.mean
    statistics.update(make_features(0, 1))
    with pytest.raises(UserError, match="the covariance of 1 features"):
        _ = statistics.covariance


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 5\); it must be \[B, 24\]"):
        FeatureStatistics(DIM).update(np.zeros((3, 5)))


# Files ------------------------------------------------------------------------------------------


def test_statistics_survive_a_file(tmp_path):
    a, spatial = gather(make_features(0, 60)), gather(make_features(1, 60, dim=10))
    path = tmp_path / "reference.npz"
    a.save(path, spatial=spatial)
    assert set(np.load(path)) == {"mu", "sigma", "count", "mu_s", "sigma_s"}
    assert [file.name for file in tmp_path.iterdir()] == ["reference.npz"]
    for saved, loaded in (
        (a, FeatureStatistics.load(path)),
        (spatial, FeatureStatistics.load(path, "_s")),
    ):
        assert loaded.dim == saved.dim
        np.testing.assert_array_equal(loaded.mean, saved.mean)
        np.testing.assert_allclose(loaded.covariance, saved.covariance, rtol=1e-14)
    assert FeatureStatistics.load(path).count == 60


def test_statistics_from_a_file_can_go_on(tmp_path):
    features = make_features(0, 90)
    gather(features[:40]).save(tmp_path / "a.npz")
    statistics = FeatureStatistics.load(tmp_path / "a.npz")
    statistics.update(features[40:])
    np.testing.assert_allclose(statistics.covariance, np.cov(features, rowvar=False), atol=1e-12)


def test_the_adm_format_has_no_count(tmp_path):
    features = make_features(0)
    sigma = np.cov(features, rowvar=False)
    np.savez(tmp_path / "adm.npz", arr_0=np.zeros(3, "uint8"), mu=features.mean(0), sigma=sigma)
    loaded = FeatureStatistics.load(tmp_path / "adm.npz")
    assert loaded.count is None
    np.testing.assert_array_equal(loaded.covariance, sigma)
    assert frechet_distance(gather(features), loaded) == pytest.approx(0, abs=1e-9)
    loaded.save(tmp_path / "copy.npz")
    assert set(np.load(tmp_path / "copy.npz")) == {"mu", "sigma"}
    with pytest.raises(UserError, match="does not say of how many images"):
        loaded.update(features)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_0": np.zeros(3)}, "has no mu and no sigma"),
        ({"mu": np.zeros(3)}, "has no sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"shape \(3,\) and sigma of the shape \(4, 4\)"),
        ({"mu": np.zeros(2), "sigma": np.full((2, 2), np.nan)}, "NaN, infinity or"),
        ({"mu": np.zeros(2), "sigma": np.array([[1, 2], [0, 1]])}, "not symmetric"),
    ],
)
def test_other_archives_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=message):
        FeatureStatistics.load(tmp_path / "x.npz")


def test_files_that_are_no_archive_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        FeatureStatistics.load(tmp_path / "none.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("mu")
    (tmp_path / "empty.npz").touch()
    whole = tmp_path / "whole.npz"
    gather(make_features(0)).save(whole)
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:900])
    np.savez(tmp_path / "pickle.npz", mu=np.array([None]), sigma=np.eye(1))
    for name in ("array.npy", "text.npz", "empty.npz", "cut.npz", "pickle.npz"):
        with pytest.raises(UserError, match=f"{name} is no .npz that can be read"):
            FeatureStatistics.load(tmp_path / name)


# Distance ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 64])
def test_distance_equals_scipy(dim):
    a, b = make_features(0, 400, dim), make_features(1, 300, dim, mean=0.5)
    expected = (
        scipy_distance(a, b)
        if dim > 1
        else (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    )
    assert frechet_distance(gather(a), gather(b)) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("rows", "rank"), [(400, 40), (30, 64), (2, 64)])
def test_distance_of_singular_covariances_equals_scipy(rows, rank):
    """There are fewer images than features, or features depend on each other."""
    a, b = make_features(0, rows, 64, rank), make_features(1, 300, 64, rank, mean=0.5)
    distance = frechet_distance(gather(a), gather(b))
    assert distance == pytest.approx(scipy_distance(a, b), rel=1e-5)
    assert frechet_distance(gather(b), gather(a)) == pytest.approx(distance, rel=1e-6)


def test_distance_of_commuting_covariances_is_known():
    """Independent features: the sum of (difference of means)^2 + (difference of deviations)^2."""
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], "float64")
    a, b = 3.0 * signs, signs * [1.0, 7.0] + [2.0, 0.0]
    expected = 2.0**2 + (4 / 3) * ((3 - 1) ** 2 + (3 - 7) ** 2)
    assert frechet_distance(gather(a), gather(b)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rows", [2, 20, 500])
def test_distance_to_itself_is_zero_and_never_below(rows):
    for seed in range(5):
        features = make_features(seed, rows)
        distance = frechet_distance(gather(features), gather(features[::-1]))
        assert 0 <= distance < 1e-4


def test_a_constant_set_has_a_distance():
    a, b = np.ones((50, DIM)), make_features(0)
    expected = np.sum((1 - b.mean(0)) ** 2) + np.trace(np.cov(b, rowvar=False))
    assert frechet_distance(gather(a), gather(b)) == pytest.approx(expected, rel=1e-12)


def test_other_dimensions_are_refused():
    a, b = gather(make_features(0, 9, 4)), gather(make_features(0, 9, 5))
    with pytest.raises(UserError, match="4 and of 5 features"):
        frechet_distance(a, b)
