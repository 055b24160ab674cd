"""Warnings for the user when a training goes wrong in a known way, with advice."""

import math
from collections.abc import Callable

from vim_tf.config.experiments import TrainingExperiment

FEW_CODES = 0.1  # share of the codes used in an epoch
REPORTS = 5  # so many in a row are "for long"
# The discriminator's loss if it only guesses.
UNDECIDED = {"non_saturating": 2 * math.log(2), "hinge": 2.0}
WINS, LOSES = 0.05, 0.99  # shares of that loss
WORSE_PSNR = 1.0  # dB
WORSE_NATS = 0.01  # share


class Diagnosis:
    """Watches the reports of a training; gives each warning once.

    Args:
        experiment: the config of the training.
        adversarial_start: function () -> step from which the discriminator takes part; None without
            a discriminator.
    """

    def __init__(
        self, experiment: TrainingExperiment, adversarial_start: Callable[[], int] | None = None
    ) -> None:
        self._experiment, self._start = experiment, adversarial_start
        self._said, self._shares = set(), []
        self._before_start = self._best = None

    def training(self, step: int, values: dict[str, float]) -> list[str]:
        """Returns new warnings about the means of the last steps."""
        lines = []
        usage = values.get("usage")
        if usage is not None and usage < FEW_CODES:
            lines += self._once(
                "usage",
                f"the codebook collapses: {usage:.1%} of the codes are used; lower "
                "losses.commitment, set model.quantizer.revive_every, or add losses.entropy",
            )
        if self._start is not None:
            lines += self._discriminator(step, values, self._start())
        return lines

    def evaluation(self, step: int, values: dict[str, float]) -> list[str]:
        """Returns new warnings about an evaluation."""
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

    def _discriminator(self, step: int, values: dict[str, float], start: int) -> list[str]:
        if step <= start:
            psnr = values["psnr"]
            before = psnr if self._before_start is None else self._before_start
            self._before_start = max(psnr, before)
            return []
        config = self._experiment.discriminator  # pyright: ignore[reportAttributeAccessIssue]  # there is a discriminator
        undecided = UNDECIDED[config.loss]
        self._shares = [*self._shares, values["discriminator"] / undecided][-REPORTS:]
        lines, for_long = [], len(self._shares) == REPORTS
        if for_long and max(self._shares) < WINS:
            lines += self._once(
                "wins",
                f"the discriminator wins: its loss is {values['discriminator']:.3g}, and "
                f"that of guessing {undecided:.3g}; raise discriminator.r1_gamma, lower "
                "discriminator_optimizer.learning_rate, or let it start later",
            )
        if for_long and min(self._shares) > LOSES:
            lines += self._once(
                "loses",
                f"the discriminator cannot tell real from fake: its loss stays at that of "
                f"guessing, {undecided:.3g}; raise discriminator_optimizer.learning_rate, or lower "
                "discriminator.r1_gamma",
            )
        if self._before_start is not None and values["psnr"] < self._before_start - WORSE_PSNR:
            lines += self._once(
                "worse",
                f"reconstruction got worse after the discriminator started: "
                f"{values['psnr']:.4g} dB, before it {self._before_start:.4g} dB; lower "
                "losses.adversarial, or let it start later or grow slower "
                "(discriminator.start, discriminator.ramp_steps)",
            )
        return lines

    def _once(self, name: str, line: str) -> list[str]:
        if name in self._said:
            return []
        self._said.add(name)
        return [line]
