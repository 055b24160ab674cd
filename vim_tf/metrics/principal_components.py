"""The Frechet distance on the leading principal components of the reference's features.

A covariance of D features needs more than 2 D images, or it is noise. Of 64 components it needs far
fewer. The distance is not FID: it does not see what differs in the other directions. So it has its
own name, FD64.
"""

import numpy as np

from vim_tf.errors import UserError
from vim_tf.metrics.fid import FeatureStatistics, frechet_distance, refuse_other_dim

COMPONENTS = 64


def principal_axes(statistics: FeatureStatistics, components: int = COMPONENTS) -> np.ndarray:
    """Returns the eigenvectors of a covariance with the largest eigenvalues.

    Args:
        statistics: of D features.
        components: number of axes K.

    Returns:
        [D,K] float64, orthonormal columns, in the order of falling variance.

    Raises:
        UserError: K is above D.
    """
    if components > statistics.dim:
        raise UserError(
            f"{components} principal components of {statistics.dim} features are asked for; there "
            "are at most as many as features: give a network of more features"
        )
    _, vectors = np.linalg.eigh(statistics.covariance)  # in the order of rising variance
    return vectors[:, ::-1][:, :components]


def component_distance(
    samples: FeatureStatistics, reference: FeatureStatistics, components: int = COMPONENTS
) -> float:
    """`frechet_distance` after a projection on the principal axes of the reference.

    The projection is linear. So the statistics of the projected rows follow from those of the rows.

    Args:
        samples: statistics of the judged set.
        reference: statistics of the other set, of the same features.
        components: number of axes.

    Returns:
        0 or above; at most the `frechet_distance` of all features, except for rounding.

    Raises:
        UserError: another number of features, fewer features than components, or fewer than two
            rows.
    """
    refuse_other_dim(samples, reference)
    axes = principal_axes(reference, components)
    return frechet_distance(samples.projected(axes), reference.projected(axes))
