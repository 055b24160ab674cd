"""Inception score (arXiv 1606.03498): are classes recognised, and do all of them occur?"""

from typing import Self

import numpy as np

from vim_tf.annotations import StrPath, Tensor
from vim_tf.errors import UserError
from vim_tf.metrics.feature_file import FeatureSpool

CHUNK = 4096  # rows in memory at a time


class InceptionScore:
    """exp(mean over images of KL(p(y|x) || p(y))), p(y) being the mean of p(y|x).

    As in the original code, there is a score for each of `splits` consecutive blocks of images,
    from i N // splits to (i + 1) N // splits. These bounds are known only at the end, so the rows
    wait on disk (`FeatureSpool`): 200 MB for 50,000 images and 1,008 classes. Memory stays small.
    Images that are sorted by class give blocks of few classes and scores that are too low: call
    `update` in a random order of labels.

    Args:
        classes: number of classes K.
        splits: number of blocks; 10 in papers.
        from_logits: rows are logits, not probabilities.
        folder: the folder of the rows; see `FeatureSpool`.
    """

    def __init__(
        self,
        classes: int,
        splits: int = 10,
        from_logits: bool = False,
        folder: StrPath | None = None,
    ) -> None:
        self.splits = splits
        self.from_logits = from_logits
        self._spool = FeatureSpool(classes, folder)

    @property
    def count(self) -> int:
        """Number of images so far."""
        return self._spool.count

    def update(self, rows: np.ndarray | Tensor) -> None:
        """Adds the rows [B,K] of B images, in the order of the images.

        Raises:
            ValueError: another shape.
            UserError: NaN or infinity, or rows that should be probabilities and are not.
        """
        rows = np.asarray(rows)
        if not self.from_logits and rows.ndim == 2 and np.isfinite(rows).all():
            sums = rows.sum(axis=1, dtype="float64")
            wrong = (rows < 0).any(axis=1) | (np.abs(sums - 1) > 1e-2)  # 1e-2: float16 rounds
            if wrong.any():
                row = int(np.argmax(wrong))
                raise UserError(
                    f"row {self.count + row} of the probabilities has the sum {sums[row]:.4g} and "
                    f"the least value {rows[row].min():.4g}; they must be 0 or above and sum to 1: "
                    "a network that ends in logits needs a softmax"
                )
        self._spool.append(rows)

    def result(self) -> tuple[float, float]:
        """Returns (mean, standard deviation) of the blocks' scores, each from 1 to K.

        The deviation is NumPy's, divided by `splits`.

        Raises:
            UserError: fewer images than blocks.
        """
        rows, splits = self._spool.finish(), self.splits
        if len(rows) < splits:
            raise UserError(
                f"an inception score of {len(rows)} images in {splits} splits was asked for; "
                f"it needs at least one image a split, and says little with fewer than 1,000"
            )
        bounds = [i * len(rows) // splits for i in range(splits + 1)]
        scores = [
            self._score(rows[start:end]) for start, end in zip(bounds[:-1], bounds[1:], strict=True)
        ]
        return float(np.mean(scores)), float(np.std(scores))

    def close(self) -> None:
        """Deletes the rows."""
        self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _score(self, rows: np.ndarray) -> float:
        # q is the mean of p, so mean KL(p || q) = mean sum p log p - sum q log q, in one pass.
        total, negative_entropy = np.zeros(rows.shape[1]), 0.0
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK].astype("float64")
            p, log_p = self._probabilities(chunk)
            total += p.sum(axis=0)
            negative_entropy += np.sum(p * log_p)
        q = total / len(rows)
        return np.exp(negative_entropy / len(rows) - np.sum(q * _log(q)))

    def _probabilities(self, chunk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not self.from_logits:
            return chunk, _log(chunk)
        chunk -= chunk.max(axis=1, keepdims=True)
        log_p = chunk - np.log(np.exp(chunk).sum(axis=1, keepdims=True))
        return np.exp(log_p), log_p


def _log(p: np.ndarray) -> np.ndarray:
    """The logarithm where p > 0; otherwise 0, since p log p goes to 0 with p."""
    return np.log(p, out=np.zeros_like(p), where=p > 0)
