"""Kernel inception distance (arXiv 1801.01401): unbiased in the number of images, unlike FID."""

from collections.abc import Iterator

import numpy as np

from vim_tf.annotations import Tensor
from vim_tf.errors import UserError
from vim_tf.metrics.feature_file import FeatureRows

BLOCK = 2048  # rows whose kernel with as many others is in memory: 32 MB
RESAMPLES = 200  # of a bootstrap; the error itself is then known to about a tenth


def squared_mmd(a: np.ndarray | Tensor, b: np.ndarray | Tensor) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy, kernel (x.y / D + 1)^3.

    Args:
        a: [M,D] of any real dtype; computed in float64.
        b: [P,D].

    Returns:
        float; around 0, possibly below, if both sets are from one distribution.
    """
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    within = [
        (np.sum(kernel) - np.trace(kernel)) / (len(rows) * (len(rows) - 1))  # i = j is left out
        for rows in (a, b)
        for kernel in [_kernel(rows, rows)]
    ]
    return float(sum(within) - 2.0 * np.mean(_kernel(a, b)))


def draw_subsets(
    count_a: int, count_b: int, subsets: int, subset_size: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draws the rows that `kid` compares, without replacement within a subset.

    The generator is NumPy's RandomState. All future versions draw the same numbers, so that a
    figure can be reproduced. torch-fidelity draws the same subsets from the same seed.

    Args:
        count_a: number of rows of one set.
        count_b: number of rows of the other set.
        subsets: number of pairs of subsets.
        subset_size: number of rows of each subset.
        seed: int from 0 to 2^32 - 1.

    Yields:
        (rows of a, rows of b), int [subset_size] each.
    """
    random = np.random.RandomState(seed)
    for _ in range(subsets):
        rows_a, rows_b = (
            random.choice(count, subset_size, replace=False) for count in (count_a, count_b)
        )
        yield rows_a, rows_b


def kid(
    features_a: np.ndarray | FeatureRows,
    features_b: np.ndarray | FeatureRows,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> tuple[float, float]:
    """Mean and spread of `squared_mmd` over random subsets.

    Args:
        features_a: [M,D] of any real dtype; a memmap is read subset by subset.
        features_b: [P,D].
        subsets: number of pairs of subsets; 100 is usual.
        subset_size: rows of each, 2 or more; 1,000 is usual. Memory: 24 bytes times its square.
        seed: the seed of `draw_subsets`.

    Returns:
        (mean, standard deviation over subsets, divided by `subsets`), floats.

    Raises:
        UserError: fewer rows than `subset_size`, or features of different lengths.
    """
    counts = len(features_a), len(features_b)
    _refuse_other_lengths(features_a, features_b)
    if not 2 <= subset_size <= min(counts):
        raise UserError(
            f"KID's subset size is {subset_size} for sets of {counts[0]} and {counts[1]} images; "
            "it must be from 2 to the smaller number: give a smaller size or more images"
        )
    if subset_size == max(counts):
        subsets = 1  # each subset would be the whole of both sets
    distances = [
        # Sorted, so that a disk is read in one direction; the sums are the same.
        squared_mmd(features_a[np.sort(rows_a)], features_b[np.sort(rows_b)])
        for rows_a, rows_b in draw_subsets(*counts, subsets, subset_size, seed)
    ]
    return float(np.mean(distances)), float(np.std(distances))


def bootstrap_error(
    features_a: np.ndarray,
    features_b: np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 2020,
) -> float:
    """Standard error of `squared_mmd` of all rows, by a bootstrap over rows.

    A resample draws as many rows as there are, with replacement, from each set. A row that is drawn
    twice makes no pair with itself, because such pairs would raise every resample.

    The estimate is a sum over pairs. If w are the counts of the rows in a resample, a pair has the
    weight w w' = 1 + d + d' + d d', with d = w - 1. The terms d and d' resample the mean kernel of
    each row, which is itself known only from these rows. Its error adds to their variance twice
    that of the terms d d'. If both sets are from one distribution, nothing else is there, and a
    plain bootstrap gives an error that is 1.7 times too large. So the terms d d' are measured
    alone, and twice their variance is subtracted. The result is never below their own variance;
    this makes the error up to a quarter too large in that case.

    Args:
        features_a: [M,D] of any real dtype; a memmap is read block by block.
        features_b: [P,D].
        resamples: number of resamples.
        seed: of the resamples, from 0 to 2^32 - 1.

    Returns:
        The standard error, a float. Time: the kernel of all pairs of rows, (M + P)^2 D products.
        Memory: `resamples` bytes a row.

    Raises:
        UserError: fewer than two rows, or features of different lengths.
    """
    _refuse_other_lengths(features_a, features_b)
    sets = (features_a, features_b)
    for rows in sets:
        if len(rows) < 2:
            raise UserError(f"KID's error of {len(rows)} images was asked for; it needs at least 2")
    random = np.random.RandomState(seed)
    counts = [_draw_counts(random, len(rows), resamples) for rows in sets]
    signs = (1 / len(features_a), -1 / len(features_b))
    # A block of rows: its features, its weights in the estimate, and those in the resamples.
    places = [
        (side, slice(start, start + BLOCK))
        for side in (0, 1)
        for start in range(0, len(sets[side]), BLOCK)
    ]
    total = len(features_a) + len(features_b)

    def block(number):
        side, place = places[number]
        weights = signs[side] * counts[side][place].astype("float64")
        return np.asarray(sets[side][place], "float64"), np.full(len(weights), signs[side]), weights

    # The weights of both sets sum to 0. So a sum over all pairs, also of a row with itself, is the
    # same for the kernel and for the kernel whose rows and columns are centred.
    sums = [np.zeros(len(block(number)[0])) for number in range(len(places))]  # of kernel rows
    weighted = [np.zeros_like(part) for part in sums]  # sums with the estimate's weights
    whole = np.zeros(resamples)
    for i in range(len(places)):
        x, weights_x, drawn_x = block(i)
        for j in range(i, len(places)):
            y, weights_y, drawn_y = block(j)
            kernel = _kernel(x, y)
            twice = 1 if i == j else 2
            whole += twice * np.einsum("ib,ib->b", drawn_x, kernel @ drawn_y)
            sums[i] += kernel.sum(1)
            weighted[i] += kernel @ weights_y
            if i != j:
                sums[j] += kernel.sum(0)
                weighted[j] += weights_x @ kernel
    mean = sum(part.sum() for part in sums) / total**2
    estimates = whole.copy()
    of_pairs = whole  # becomes the sums of the terms d d', without a constant
    for number in range(len(places)):
        x, weights, drawn = block(number)
        own = (np.sum(x * x, axis=1) / x.shape[1] + 1.0) ** 3 - 2 * sums[number] / total + mean
        estimates -= own @ drawn**2  # pairs of a row with itself, by the centred kernel
        of_pairs += weighted[number] @ (weights[:, None] - 2 * drawn)
        of_pairs -= own @ (drawn - weights[:, None]) ** 2
    variance, least = np.var(estimates), np.var(of_pairs)
    return float(np.sqrt(max(variance - 2 * least, least)))


def _draw_counts(random: np.random.RandomState, rows: int, resamples: int) -> np.ndarray:
    """[rows, resamples] uint8: how often each row is in each resample of `rows` rows."""
    counts = np.empty((rows, resamples), "uint8")
    for column in range(resamples):
        counts[:, column] = np.bincount(random.randint(rows, size=rows), minlength=rows)
    return counts


def _refuse_other_lengths(
    features_a: np.ndarray | FeatureRows, features_b: np.ndarray | FeatureRows
) -> None:
    if features_a.shape[1] != features_b.shape[1]:
        raise UserError(
            f"features of length {features_a.shape[1]} and {features_b.shape[1]} cannot be "
            "compared; both must come from the same layer of the same network"
        )


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    base = x @ y.T
    base /= x.shape[1]
    base += 1.0
    return base * base * base
