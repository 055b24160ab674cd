"""What every feature network says of a batch of images."""

from typing import Any, NamedTuple

import numpy as np


class Features(NamedTuple):
    """What a network says of a batch, all NumPy.

    Attributes:
        pooled: float32 [B,D], for FID, KID, precision and recall.
        spatial: float32 [B,S] for sFID; None where the network has none.
        probabilities: float64 [B,K], for the Inception Score.
    """

    pooled: np.ndarray
    spatial: Any
    probabilities: np.ndarray


def softmax(logits):
    """Logits [B,K] -> probabilities, float64."""
    exponentials = np.exp(logits - logits.max(1, keepdims=True), dtype="float64")
    return exponentials / exponentials.sum(1, keepdims=True)
