"""The output that every feature network gives for a batch of images."""

from typing import NamedTuple

import numpy as np


class Features(NamedTuple):
    """A network's output for a batch, all NumPy.

    Attributes:
        pooled: float32 [B,D], for FID, KID, precision and recall.
        spatial: float32 [B,S] for sFID; None if the network has none.
        probabilities: float64 [B,K], for the Inception Score.
    """

    pooled: np.ndarray
    spatial: np.ndarray | None
    probabilities: np.ndarray


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits [B,K] -> probabilities, float64."""
    exponentials = np.exp(logits - logits.max(1, keepdims=True), dtype="float64")
    return exponentials / exponentials.sum(1, keepdims=True)
