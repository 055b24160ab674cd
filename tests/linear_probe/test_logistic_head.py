import numpy as np
import pytest
import scipy.optimize
from scipy.special import logsumexp

from vim_tf.linear_probe import logistic_head
from vim_tf.linear_probe.logistic_head import solve


@pytest.fixture(scope="module")
def data():
    """Three classes that overlap. One feature has another scale, and one is constant."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    features = rng.normal(size=(400, 4)) + np.eye(3, 4)[labels]
    features[:, 1] = 100 * features[:, 1] + 7
    features[:, 3] = 5.0
    return features, labels


def test_solutions_are_minima_of_the_penalised_likelihood(data):
    """SciPy minimises sum of -log p + |W|^2 / 2C over standardised features, in float64."""
    features, labels = data
    deviation = np.where(features.std(0) > 0, features.std(0), 1)
    x = (features - features.mean(0)) / deviation

    def objective(flat, c):
        weights, bias = flat[:12].reshape(3, 4), flat[12:]
        logits = x @ weights.T + bias
        nats = logsumexp(logits, axis=1) - logits[np.arange(400), labels]
        return nats.sum() + np.square(weights).sum() / (2 * c)

    found = list(solve(features, labels, (0.01, 1.0)))
    assert [one.c for one in found] == [0.01, 1.0]
    for one in found:
        best = scipy.optimize.minimize(objective, np.zeros(15), (one.c,), tol=1e-10).x
        np.testing.assert_allclose(one.model.coef_, best[:12].reshape(3, 4), atol=5e-3)
        said = np.argmax(x @ best[:12].reshape(3, 4).T + best[12:], axis=1)
        assert np.mean(one.predict(features) == said) > 0.99
        assert one.converged
    assert np.abs(found[1].model.coef_).max() > 2 * np.abs(found[0].model.coef_).max()


def test_what_has_not_converged_says_so(data, monkeypatch):
    monkeypatch.setattr(logistic_head, "MOST_ITERATIONS", 1)
    assert [one.converged for one in solve(*data, (1.0,))] == [False]
