"""Frechet distance of features: FID (arXiv 1706.08500), or sFID (arXiv 2103.03841).

FID takes pooled features, sFID spatial ones. Everything is computed in float64. Means and
covariances need O(D^2) memory.
"""

import io
from typing import Any, Self

import numpy as np

from vim_tf.annotations import StrPath, Tensor
from vim_tf.errors import UserError
from vim_tf.files import write_atomically
from vim_tf.metrics.feature_checks import check_features
from vim_tf.npz_files import open_npz

MOST_FEATURES = 16_384  # their covariance takes 2 GiB
MOST_VALUE = 1e100  # of a mean or a covariance; the square of a larger one is beyond float64


class FeatureStatistics:
    """Count, mean and covariance of features that arrive batch by batch.

    Rows are collected into blocks of D rows. Each block's mean and its products around that mean
    are combined with those of earlier blocks (Chan, Golub and LeVeque, 1983). So large means cost
    no digits, and the result depends only on the rows, not on the batches.

    Args:
        dim: number of features D, at most `MOST_FEATURES`.

    Raises:
        UserError: D is larger.
    """

    def __init__(self, dim: int) -> None:
        if dim > MOST_FEATURES:
            raise UserError(
                f"statistics of {dim:,} features are asked for; their covariance would have "
                f"{dim:,}^2 values: leave fid, fd64 and sfid out of metrics, or give a network of "
                f"at most {MOST_FEATURES:,} features"
            )
        self.dim = dim
        # Rows in _mean and _scatter; None: the statistics are from a file without a count.
        self._count: int | None = 0
        self._mean = np.zeros(dim)
        self._scatter = np.zeros((dim, dim))  # sum of products around the mean
        self._covariance: np.ndarray | None = None  # set if the file had no count
        self._block = np.empty((dim, dim))
        self._waiting = 0  # rows in _block

    def update(self, features: np.ndarray | Tensor) -> None:
        """Adds rows [B,D] of any real dtype.

        Raises:
            ValueError: another shape.
            UserError: NaN or infinity (the message names the row), or the count is unknown.
        """
        features = check_features(features, self.dim, self._known_count())
        while len(features):
            rows = features[: self.dim - self._waiting]
            self._block[self._waiting : self._waiting + len(rows)] = rows
            self._waiting += len(rows)
            features = features[len(rows) :]
            if self._waiting == self.dim:
                self._flush()

    @property
    def count(self) -> int | None:
        """Rows so far; None after `load` of a file without a count."""
        return None if self._count is None else self._count + self._waiting

    @property
    def mean(self) -> np.ndarray:
        """Mean [D] float64; needs one row."""
        self._need(1, "mean")
        self._flush()
        return self._mean.copy()

    @property
    def covariance(self) -> np.ndarray:
        """Covariance [D,D] float64, divided by count - 1 as np.cov does; needs two rows."""
        if self._covariance is not None:
            return self._covariance.copy()
        self._need(2, "covariance")
        self._flush()
        assert self._count is not None  # otherwise there is a _covariance
        return self._scatter / (self._count - 1)

    def projected(self, axes: np.ndarray) -> Self:
        """Returns the statistics of the rows times `axes`: the rows' coordinates on some axes.

        Args:
            axes: [D,K] float64, K axes as columns.

        Returns:
            Statistics of K features, to which nothing can be added.
        """
        found = type(self)(axes.shape[1])
        found._mean, found._count = self.mean @ axes, None
        found._covariance = axes.T @ self.covariance @ axes
        return found

    def without(self, part: Self) -> Self:
        """Returns the statistics of the rows that are not in `part`.

        Args:
            part: statistics of some of these rows, of fewer than all.
        """
        total, count = self._known_count(), part._known_count()
        rest = total - count
        if not 0 <= count < total:
            raise ValueError(f"{count} rows cannot be taken from {total} rows; one must remain")
        found = type(self)(self.dim)
        found._count = rest
        found._mean = self.mean + (self.mean - part.mean) * (count / rest) if count else self.mean
        part._flush()
        # `_combine`, solved for one of its two sets.
        delta = part._mean - found._mean
        found._scatter = self._scatter - part._scatter
        found._scatter -= np.outer(delta * (count * rest / total), delta)
        return found

    def save(
        self,
        path: StrPath,
        spatial: Self | None = None,
        part: Self | None = None,
        **about: Any,
    ) -> None:
        """Writes an .npz with `mu` and `sigma`, the keys of the ADM suite, and `count`.

        Args:
            path: the file; an older one is replaced.
            spatial: statistics of the spatial features, for sFID: ADM's `mu_s`, `sigma_s`.
            part: statistics of a part of the images: `mu_part`, `sigma_part` and `count_part`.
            **about: strings and numbers to write too, for example the source of the images.
        """
        arrays = {"mu": self.mean, "sigma": self.covariance}
        if self.count is not None:
            arrays["count"] = np.array(self.count, np.int64)
        if spatial is not None:
            arrays |= {"mu_s": spatial.mean, "sigma_s": spatial.covariance}
        if part is not None:
            arrays |= {"mu_part": part.mean, "sigma_part": part.covariance}
            arrays["count_part"] = np.array(part.count, np.int64)
        data = io.BytesIO()
        np.savez(data, **arrays, **about)
        write_atomically(path, data.getvalue())

    @classmethod
    def load(cls, path: StrPath, suffix: str = "") -> Self:
        """Reads a file of `save` or of the ADM suite.

        Args:
            path: an .npz with `mu` [D] and `sigma` [D,D]; without `count` nothing can be added to
                the statistics.
            suffix: of the arrays' names: "_s" for the statistics for sFID, "_part" for a part's.

        Raises:
            UserError: no such file, another format, or values that are no mean and covariance.
        """
        names = f"mu{suffix}", f"sigma{suffix}"
        needs = f"reference statistics are an .npz with {names[0]} [D] and {names[1]} [D, D]"
        with open_npz(path, path, needs) as file:
            missing = [name for name in names if name not in file.names]
            if missing:
                raise UserError(f"{path} has no {' and no '.join(missing)}; {needs}")
            shape, other = (file.header(name)[0] for name in names)
            if len(shape) != 1 or other != 2 * shape or not 1 <= shape[0] <= MOST_FEATURES:
                raise UserError(
                    f"{path} has {names[0]} of the shape {shape} and {names[1]} of the shape "
                    f"{other}; they must be [D] and [D, D], with D at most {MOST_FEATURES:,}"
                )
            mean, covariance = (np.asarray(file.read(name), "float64") for name in names)
            count = file.read_integer("count_part" if suffix == "_part" else "count")
        if not all(np.abs(part).max() < MOST_VALUE for part in (mean, covariance)):
            raise UserError(
                f"{path} holds NaN, infinity or values above {MOST_VALUE}; make them again"
            )
        if count is not None and not 0 <= count <= 2**53:
            raise UserError(f"{path} is of {count} images; make the statistics again")
        if np.abs(covariance - covariance.T).max() > 1e-5 * np.abs(covariance).max():
            raise UserError(f"{names[1]} in {path} is not symmetric, so it is no covariance")
        statistics = cls(len(mean))
        statistics._mean = mean
        statistics._count = count
        if count is None or count < 2:
            statistics._count, statistics._covariance = None, covariance
        else:
            statistics._scatter = covariance * (count - 1)
        return statistics

    def _need(self, rows: int, what: str) -> None:
        count = self.count
        if count is not None and count < rows:
            raise UserError(
                f"the {what} of {count} features was asked for; it needs at least {rows}"
            )

    def _known_count(self) -> int:
        count = self.count
        if count is None:
            raise UserError(
                "nothing can be added to statistics whose file does not say of how many images "
                "they are; make them again from the images"
            )
        return count

    def _flush(self) -> None:
        if self._waiting:
            block = self._block[: self._waiting]
            mean = block.mean(axis=0)
            block -= mean
            # The factors are one array and its transpose: NumPy computes only one triangle.
            self._combine(self._waiting, mean, block.T @ block)
            self._waiting = 0

    def _combine(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if not count:
            return
        assert self._count is not None  # `update` refuses an unknown count
        total = self._count + count
        delta = mean - self._mean
        self._scatter += scatter
        self._scatter += np.outer(delta * (self._count * count / total), delta)
        self._mean += delta * (count / total)
        self._count = total


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Squared Frechet distance of the normal distributions with the moments of `a` and `b`.

    |m_a - m_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a C_b)^(1/2)). The last trace is the sum of the
    square roots of the eigenvalues of the symmetric R^T C_b R with C_a = R R^T. These eigenvalues
    are real and, except for rounding, not negative, even if covariances are singular. SciPy's
    square root of the product, which other programs use, is then complex.

    Args:
        a: statistics of one set.
        b: statistics of the other set, of the same features.

    Returns:
        0 or above. FID if the features are those of the FID Inception network.

    Raises:
        UserError: another D, or fewer than two rows.
    """
    refuse_other_dim(a, b)
    covariance_a, covariance_b = a.covariance, b.covariance
    root = _root(covariance_a)
    eigenvalues = np.linalg.eigvalsh(root.T @ covariance_b @ root)
    of_product = np.sum(np.sqrt(np.maximum(eigenvalues, 0.0)))
    difference = a.mean - b.mean
    traces = np.trace(covariance_a) + np.trace(covariance_b)
    return max(0.0, float(difference @ difference + traces - 2.0 * of_product))


def _root(covariance: np.ndarray) -> np.ndarray:
    """R [D,D] with covariance = R R^T."""
    try:
        return np.linalg.cholesky(covariance)  # ten times faster than the other way
    except np.linalg.LinAlgError:  # singular: fewer images than features, or dead features
        values, vectors = np.linalg.eigh(covariance)
        return vectors * np.sqrt(np.maximum(values, 0.0))


def refuse_other_dim(a: FeatureStatistics, b: FeatureStatistics) -> None:
    """Raises UserError unless both are statistics of the same number of features."""
    if a.dim != b.dim:
        raise UserError(
            f"statistics of {a.dim} and of {b.dim} features cannot be compared; both must come "
            "from the same layer of the same network"
        )
