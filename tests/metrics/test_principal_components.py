import warnings

import numpy as np
import pytest
import scipy.linalg

from vim_tf import UserError
from vim_tf.metrics.fid import FeatureStatistics, frechet_distance
from vim_tf.metrics.principal_components import (
    COMPONENTS,
    component_distance,
    principal_axes,
)


def make_features(seed, rows, dim, mean=0.0):
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).normal(size=(dim, dim)) * np.linspace(0.1, 3, dim)[:, None]
    return random.normal(size=(rows, dim)) @ mixing + mean


def gather(features):
    statistics = FeatureStatistics(features.shape[1])
    statistics.update(features)
    return statistics


def by_rows(samples, reference, components):
    """Centres, projects each row on the axes of an SVD, and takes SciPy's root of the product."""
    centre = reference.mean(0)
    axes = np.linalg.svd(reference - centre, full_matrices=False)[2][:components].T
    a, b = (samples - centre) @ axes, (reference - centre) @ axes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy warns of singular matrices
        root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)


@pytest.mark.parametrize("dim", [COMPONENTS, 90])
def test_it_is_the_distance_of_projected_rows(dim):
    a, b = make_features(0, 300, dim, 0.3), make_features(1, 200, dim) * 1.2
    expected = by_rows(a, b, COMPONENTS)
    assert component_distance(gather(a), gather(b)) == pytest.approx(expected, rel=1e-8)
    # The axes are those of the reference.
    other = by_rows(b, a, COMPONENTS)
    if dim > COMPONENTS:
        assert other != pytest.approx(expected, rel=1e-4)
    else:
        assert frechet_distance(gather(a), gather(b)) == pytest.approx(expected, rel=1e-8)


def test_the_axes_have_the_most_variance():
    features = make_features(0, 400, 80)
    axes = principal_axes(gather(features), 3)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    variances = np.linalg.eigvalsh(np.cov(features.T))[::-1][:3]
    np.testing.assert_allclose(np.var(features @ axes, axis=0, ddof=1), variances, rtol=1e-9)


def test_it_is_at_most_the_distance_of_all_features():
    for seed in range(4):
        a, b = make_features(seed, 300, 90), make_features(seed + 10, 300, 90, 0.1)
        assert 0 < component_distance(gather(a), gather(b)) < frechet_distance(gather(a), gather(b))


def test_its_floor_is_far_below_that_of_fid():
    """Of two sets of one distribution: the reason for this distance."""
    a, b = make_features(0, 300, 120), make_features(1, 300, 120)
    a, b = gather(a), gather(b)
    assert component_distance(a, b, 10) < frechet_distance(a, b) / 4


def test_what_cannot_be_projected_is_refused():
    few = gather(make_features(0, 50, 20))
    with pytest.raises(UserError, match="64 principal components of 20 features"):
        component_distance(few, few)
    with pytest.raises(UserError, match="statistics of 20 and of 80 features"):
        component_distance(few, gather(make_features(0, 50, 80)))
