"""The check of a batch of features that all statistics share."""

import numpy as np

from vim_tf.annotations import Tensor
from vim_tf.errors import UserError


def check_features(features: np.ndarray | Tensor, dim: int, start: int = 0) -> np.ndarray:
    """Returns a batch of features as an array; refuses values that would make a figure wrong.

    Args:
        features: [B,D] of any real dtype; an array or a tensor.
        dim: D.
        start: number of rows before this batch; messages count rows from the first batch.

    Returns:
        The features as a NumPy array [B,D] in their own dtype.

    Raises:
        ValueError: another shape.
        UserError: NaN or infinity; the message names the first such row.
    """
    features = np.asarray(features)
    if features.ndim != 2 or features.shape[1] != dim:
        raise ValueError(f"features have the shape {features.shape}; it must be [B, {dim}]")
    finite = np.isfinite(features)
    if not finite.all():
        row, place = np.argwhere(~finite)[0]
        raise UserError(
            f"row {start + row} of the features holds {features[row, place]} at place {place} "
            "(both counted from 0); every value must be finite: look at that image and at the "
            "network's weights"
        )
    return features
