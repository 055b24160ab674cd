"""Warnings for the user when a training goes wrong in a known way, with advice."""

import math
from collections.abc import Callable

from vim_tf.config.experiments import TrainingExperiment, ViTVQGANExperiment
from vim_tf.metrics.codebook import PAPER_BATCH

FEW_CODES = 0.1  # share of the codes used in an epoch, of those that its images can use
FLAT_USE = 0.01  # perplexity of held-out tokens, as a share of the codes that they can use
REPORTS = 5  # so many in a row are "for long"
# The discriminator's loss if it only guesses.
UNDECIDED = {"non_saturating": 2 * math.log(2), "hinge": 2.0}
WINS, LOSES = 0.05, 0.98  # shares of that loss
WORSE_NATS = 0.01  # share


class Diagnosis:
    """Watches the reports of a training; gives each warning once.

    Args:
        experiment: the config of the training.
        adversarial_start: function () -> step from which the discriminator takes part; None without
            a discriminator.
        images_per_epoch: number of training images; None is any number.
    """

    def __init__(
        self,
        experiment: TrainingExperiment,
        adversarial_start: Callable[[], int] | None = None,
        images_per_epoch: int | None = None,
    ) -> None:
        self._experiment, self._start = experiment, adversarial_start
        self._images_per_epoch = images_per_epoch
        self._said, self._shares = set(), []
        self._best = None

    def training(self, step: int, values: dict[str, float]) -> list[str]:
        """Returns new warnings about the means of the last steps."""
        lines = []
        if "usage" in values:
            lines += self._collapse(values["usage"], self._images_per_epoch)
        if self._start is not None and step > self._start():
            lines += self._discriminator(values)
        return lines

    def evaluation(
        self, step: int, values: dict[str, float], images: int | None = None
    ) -> list[str]:
        """Returns new warnings about an evaluation of so many images; None is any number."""
        # Few held-out images cannot use many codes, but then they use them evenly.
        if "usage" in values and values["perplexity"] < FLAT_USE * self._usable_codes(images):
            together = images if images is None else min(images, PAPER_BATCH)
            return self._collapse(values["usage"], together)
        nats = values.get("nats")
        if nats is None:
            return []
        if self._best is None or nats < self._best[1]:
            self._best = (step, nats)
        if nats <= self._best[1] * (1 + WORSE_NATS):
            return []
        return self._once(
            "overfits",
            f"the model memorises its images: {nats:.4g} nats on held-out images, after "
            f"{self._best[1]:.4g} at step {self._best[0]}; preset_best has the weights of that "
            "step; use fewer steps or more images, or raise model.transformer.dropout",
        )

    def _usable_codes(self, images: int | None) -> int:
        """The codes that so many images can use at most: one for each of their tokens."""
        experiment = self._experiment
        assert isinstance(experiment, ViTVQGANExperiment)  # no other reports usage
        codes, (rows, columns) = experiment.model.quantizer.codes, experiment.grid
        return codes if images is None else min(codes, images * rows * columns)

    def _collapse(self, usage: float, images: int | None) -> list[str]:
        usable, codes = self._usable_codes(images), self._usable_codes(None)
        if usage >= FEW_CODES * usable / codes:
            return []
        most = (
            "" if usable == codes else f", of {usable / codes:.1%} that {images:,} images can use"
        )
        return self._once(
            "usage",
            f"the codebook collapses: {usage:.1%} of the codes are used{most}; set "
            "model.quantizer.revive_every, lower losses.commitment_mean, or add losses.entropy",
        )

    def _discriminator(self, values: dict[str, float]) -> list[str]:
        """One warning at most: the remedies of the two cases are opposites."""
        config = self._experiment.discriminator  # pyright: ignore[reportAttributeAccessIssue]  # there is a discriminator
        undecided = UNDECIDED[config.loss]
        self._shares = [*self._shares, values["discriminator"] / undecided][-REPORTS:]
        if len(self._shares) < REPORTS:
            return []
        if max(self._shares) < WINS:
            return self._once(
                "discriminator",
                f"the discriminator wins: its loss is {values['discriminator']:.3g}, and "
                f"that of guessing {undecided:.3g}; raise discriminator.r1_gamma, lower "
                "discriminator_optimizer.learning_rate, or let it start later",
            )
        if min(self._shares) > LOSES:
            return self._once(
                "discriminator",
                f"the discriminator cannot tell real from fake: its loss stays at that of "
                f"guessing, {undecided:.3g}; raise discriminator_optimizer.learning_rate, or lower "
                "discriminator.r1_gamma",
            )
        return []

    def _once(self, name: str, line: str) -> list[str]:
        if name in self._said:
            return []
        self._said.add(name)
        return [line]
