"""Improved precision and recall of generated images (Kynkaanniemi et al., arXiv 1904.06991)."""

from collections.abc import Iterator

import numpy as np

from vim_tf.errors import UserError

BLOCK = 2048  # rows of each set that are compared at a time: 32 MB of distances
NEIGHBOURS = 3  # the paper's k

# A squared distance is |x|^2 + |y|^2 - 2 x.y. For equal rows the result is rounding, at most this
# share of the first two terms. It is set to 0; otherwise, rounding would decide about copies.
ROUNDING = 1e-12


def precision_recall(
    reference: np.ndarray, samples: np.ndarray, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Share of samples within the reference's manifold, and vice versa.

    A set's manifold is the union of balls around its rows. Each ball reaches to the row's k-th
    nearest other row of the same set. Distances are Euclidean, in float64, block by block: no array
    is larger than `BLOCK` squared. Time grows with the product of the sets' sizes. Papers use up to
    50,000 images of each set, the ADM suite 10,000 of the reference.

    Args:
        reference: [M,D] of any real dtype, features of real images; may be a memmap.
        samples: [P,D], features of generated images.
        neighbours: k.

    Returns:
        (precision, recall), floats from 0 to 1: shares of samples in the reference's manifold, and
        of reference rows in the samples'.

    Raises:
        UserError: a set of k or fewer rows, or features of different lengths.
    """
    if reference.shape[1] != samples.shape[1]:
        raise UserError(
            f"features of length {reference.shape[1]} and {samples.shape[1]} cannot be compared; "
            "both must come from the same layer of the same network"
        )
    for name, rows in (("reference", reference), ("samples", samples)):
        if len(rows) <= neighbours:
            raise UserError(
                f"{name} has {len(rows)} images; precision and recall with k = {neighbours} "
                f"need at least {neighbours + 1}"
            )
    # Distances do not depend on the centre, but lose fewer digits around 0.
    centre = np.mean(reference, axis=0, dtype="float64")
    reference_radii = _squared_radii(reference, centre, neighbours)
    sample_radii = _squared_radii(samples, centre, neighbours)
    sample_inside = np.zeros(len(samples), bool)
    reference_inside = np.zeros(len(reference), bool)
    for i, some in _blocks(samples, centre):
        for j, others in _blocks(reference, centre):
            squared = _squared_distances(some, others)
            sample_inside[i] |= (squared <= reference_radii[j]).any(axis=1)
            reference_inside[j] |= (squared <= sample_radii[i, None]).any(axis=0)
    return float(sample_inside.mean()), float(reference_inside.mean())


def _squared_radii(rows: np.ndarray, centre: np.ndarray, neighbours: int) -> np.ndarray:
    """[N]: squared distance of each row to its k-th nearest other one."""
    radii = np.empty(len(rows))
    for i, some in _blocks(rows, centre):
        nearest = np.full((len(some), neighbours + 1), np.inf)  # includes the row itself, at 0
        for _, others in _blocks(rows, centre):
            both = np.concatenate([nearest, _squared_distances(some, others)], axis=1)
            both.partition(neighbours, axis=1)
            nearest = both[:, : neighbours + 1].copy()  # a view would keep all of `both`
        radii[i] = nearest[:, neighbours]
    return radii


def _blocks(rows: np.ndarray, centre: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, len(rows), BLOCK):
        place = slice(start, start + BLOCK)
        yield place, rows[place] - centre  # float64


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    lengths = np.sum(x * x, axis=1)[:, None] + np.sum(y * y, axis=1)  # [X,Y]
    squared = lengths - 2.0 * (x @ y.T)
    squared[squared < ROUNDING * lengths] = 0.0
    return squared
