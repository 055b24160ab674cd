"""What every statistic asks of a batch of features before it takes it in."""

import numpy as np

from vim_tf.errors import UserError


def check_features(features, dim, start=0):
    """Returns a batch of features as an array; refuses what would spoil a figure in silence.

    Args:
        features: [B,D] of any real dtype; an array or a tensor.
        dim: D.
        start: rows that came before; the message counts from the first of all, as 0.

    Returns:
        The features as a NumPy array [B,D] in their own dtype.

    Raises:
        ValueError: another shape.
        UserError: NaN or infinity; names the first such row.
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
