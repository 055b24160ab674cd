"""Kernel inception distance (arXiv 1801.01401): unbiased in the number of images, unlike FID."""

from collections.abc import Iterator

import numpy as np

from vim_tf.annotations import Tensor
from vim_tf.errors import UserError


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
    features_a: np.ndarray,
    features_b: np.ndarray,
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
    if features_a.shape[1] != features_b.shape[1]:
        raise UserError(
            f"features of length {features_a.shape[1]} and {features_b.shape[1]} cannot be "
            "compared; both must come from the same layer of the same network"
        )
    if not 2 <= subset_size <= min(counts):
        raise UserError(
            f"KID's subset size is {subset_size} for sets of {counts[0]} and {counts[1]} images; "
            "it must be from 2 to the smaller number: give a smaller size or more images"
        )
    distances = [
        # Sorted, so that a disk is read in one direction; the sums are the same.
        squared_mmd(features_a[np.sort(rows_a)], features_b[np.sort(rows_b)])
        for rows_a, rows_b in draw_subsets(*counts, subsets, subset_size, seed)
    ]
    return float(np.mean(distances)), float(np.std(distances))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    base = x @ y.T
    base /= x.shape[1]
    base += 1.0
    return base * base * base
