"""The linear probe's head that is solved to convergence: multinomial logistic regression."""

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from vim_tf.errors import UserError

# Inverse strengths of the penalty for features of standard deviation 1, strong to weak.
STRENGTHS = (0.001, 0.01, 0.1)
MOST_BYTES = 8 * 2**30  # of features in memory, in float32
MOST_ITERATIONS = 5000


class Solved(NamedTuple):
    """A solution.

    Attributes:
        c: scikit-learn's C, the inverse strength of the penalty.
        mean: float32 [D], subtracted from the features.
        scale: float32 [D], by which they are then divided.
        model: the `LogisticRegression`, with scikit-learn's `coef_` and `intercept_`.
        converged: False if `MOST_ITERATIONS` were not enough.
    """

    c: float
    mean: np.ndarray
    scale: np.ndarray
    model: LogisticRegression
    converged: bool

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Features [M,D] -> labels [M]."""
        return self.model.predict((np.asarray(features, "float32") - self.mean) / self.scale)


def solve(
    features: np.ndarray, labels: np.ndarray, strengths: Sequence[float] = STRENGTHS
) -> Iterator[Solved]:
    """Solves the regression for each strength, starting with the strongest penalty.

    Args:
        features: [M,D] of any float dtype; each is scaled to mean 0 and standard deviation 1.
        labels: [M] integers.
        strengths: scikit-learn's C, ascending: each starts from the previous solution.

    Yields:
        `Solved`, one per strength.

    Raises:
        UserError: the features are too large for this solver's memory limit.
    """
    size = 4 * features.shape[0] * features.shape[1]
    if size > MOST_BYTES:
        raise UserError(
            f"head is logistic_regression, which would hold {size / 2**30:.0f} GiB of features in "
            f"memory; the limit is {MOST_BYTES / 2**30:.0f} GiB: set head: sgd"
        )
    features = np.asarray(features, "float32")  # float64 takes twice as long for the same result
    mean, scale = (f(features, 0, "float64").astype("float32") for f in (np.mean, np.std))
    scale[scale == 0] = 1.0
    features = (features - mean) / scale
    start = None
    for c in strengths:
        model = LogisticRegression(C=c, max_iter=MOST_ITERATIONS, tol=1e-4, warm_start=True)
        if start is not None:
            model.coef_, model.intercept_ = start.coef_, start.intercept_
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(features, labels)
        converged = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
        start = model
        yield Solved(c, mean, scale, model, converged)
