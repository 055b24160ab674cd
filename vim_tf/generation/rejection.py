"""Rejection sampling: of many samples of a class, keep those that a classifier is surest of.

As VQ-VAE-2 (arXiv 1906.00446, section 3.4) proposed it and the paper's table 6 uses it: with
acceptance 0.5, twice as many samples are drawn as wanted, and of each class the half with the
greatest probability of that class is kept. It buys likeness to the class with variety.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from vim_tf.data.progress import progress_bar


class TokenGenerator(Protocol):
    """The parts of `ImageGenerator` that are used here."""

    @property
    def vim(self) -> Any:
        """The `VIM` or `LiteVIM`."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of class i at place i."""
        ...

    def generate_tokens(
        self, labels: Any, n: int | None, batch_size: int, seed: int, **settings: Any
    ) -> Iterator[np.ndarray]:
        """Yields tokens [B,N]."""
        ...

    def decode(self, tokens: Any) -> np.ndarray:
        """Tokens [B,N] -> uint8 [B,H,W,3]."""
        ...


class Classifier(Protocol):
    """The parts of `KerasClassifier` that are used here."""

    def check_classes(self, class_names: Sequence[str], argument: str) -> None:
        """Raises UserError if its classes are others."""

    def label_probabilities(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Images uint8 [B,H,W,3] and labels [B] -> [B] probabilities of these labels."""
        ...


@dataclass(frozen=True)
class Accepted:
    """What was kept.

    Attributes:
        tokens: [n,N], the samples kept, in the order of the labels that were asked for.
        candidates: number of samples drawn, of which n were kept.
        probability: mean probability that the classifier gives the kept samples' classes.
        candidates_probability: the same of all candidates.
    """

    tokens: np.ndarray
    candidates: int
    probability: float
    candidates_probability: float

    @property
    def rate(self) -> float:
        """Share of the candidates that was kept."""
        return len(self.tokens) / self.candidates

    def __str__(self):
        return (
            f"kept {len(self.tokens):,} of {self.candidates:,} samples (rate {self.rate:.3f}); "
            "mean probability of their class "
            f"{self.candidates_probability:.3f} -> {self.probability:.3f}"
        )


def accept(
    generator: TokenGenerator,
    classifier: Classifier,
    labels: ArrayLike,
    acceptance: float,
    seed: int = 0,
    batch_size: int = 64,
    **settings: Any,
) -> Accepted:
    """Draws samples of each class until the share to keep is what was asked for, and keeps them.

    Args:
        generator: the `ImageGenerator`, of a model with classes.
        classifier: a `KerasClassifier` of the same classes.
        labels: class numbers, one a sample to keep.
        acceptance: share to keep, above 0 and at most 1; of each class at most that share of its
            samples is kept.
        seed: as in `ImageGenerator.generate`.
        batch_size: samples drawn at once; does not change them.
        **settings: of `VIM.generate`.

    Returns:
        `Accepted`. Kept samples of a class come in the order in which they were drawn.

    Raises:
        UserError: classes that differ, or a setting out of range.
    """
    classifier.check_classes(generator.class_names, "reject")
    labels = np.asarray(labels, "int32")
    classes, counts = np.unique(labels, return_counts=True)
    # The exact quotient of 3 and 0.1 is just above 30.
    drawn = np.repeat(classes, np.ceil(counts / acceptance - 1e-9).astype(int))
    smallest = np.min_scalar_type(generator.vim.codes - 1)
    tokens, probabilities, done = [], [], 0
    with progress_bar(len(drawn), "images", "candidates") as bar:
        for batch in generator.generate_tokens(drawn, None, batch_size, seed, **settings):
            its_labels = drawn[done : done + len(batch)]
            images = generator.decode(batch)
            tokens.append(batch.astype(smallest))
            probabilities.append(classifier.label_probabilities(images, its_labels))
            done += len(batch)
            bar.update(len(batch))
    tokens, probabilities = np.concatenate(tokens), np.concatenate(probabilities)
    kept = np.empty(len(labels), int)
    for label, count in zip(classes, counts, strict=True):
        places = np.flatnonzero(drawn == label)
        best = np.argsort(-probabilities[places], kind="stable")[:count]
        kept[labels == label] = places[np.sort(best)]
    return Accepted(
        tokens[kept],
        len(drawn),
        float(probabilities[kept].mean()),
        float(probabilities.mean()),
    )
