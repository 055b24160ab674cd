"""Lines for a person when a training goes wrong in a way that people know, with what to try."""

import math

FEW_CODES = 0.1  # share of the codes used in an epoch
REPORTS = 5  # in a row, before something is "for long"
# Of the discriminator's loss where it cannot tell at all.
UNDECIDED = {"non_saturating": 2 * math.log(2), "hinge": 2.0}
WINS, LOSES = 0.05, 0.99  # shares of that loss
WORSE_PSNR = 1.0  # dB
WORSE_NATS = 0.01  # share


class Diagnosis:
    """Watches what a training reports; says each thing once.

    Args:
        experiment: the experiment, of any kind.
        adversarial_start: function () -> step at which the discriminator takes part; None for none.
    """

    def __init__(self, experiment, adversarial_start=None):
        self._experiment, self._start = experiment, adversarial_start
        self._said, self._shares = set(), []
        self._before_start = self._best = None

    def training(self, step, values):
        """Returns new lines about the means of the last steps, {name: number}."""
        lines = []
        usage = values.get("usage")
        if usage is not None and usage < FEW_CODES:
            lines += self._once(
                "usage",
                f"the codebook collapses: {usage:.1%} of the codes are used; lower "
                "losses.commitment, set model.quantizer.revive_every, or add losses.entropy",
            )
        if self._start is not None:
            lines += self._discriminator(step, values)
        return lines

    def evaluation(self, step, values):
        """Returns new lines about an evaluation."""
        nats = values.get("nats")
        if nats is None:
            return []
        if self._best is None or nats < self._best[1]:
            self._best = (step, nats)
        if nats <= self._best[1] * (1 + WORSE_NATS):
            return []
        return self._once(
            "overfits",
            f"the model learns its images by heart: {nats:.4g} nats on held-out ones, after "
            f"{self._best[1]:.4g} at step {self._best[0]}, whose weights are in preset_best; take "
            "fewer steps or more images, or raise model.transformer.dropout",
        )

    def _discriminator(self, step, values):
        if step <= self._start():
            psnr = values["psnr"]
            self._before_start = max(psnr, self._before_start or psnr)
            return []
        undecided = UNDECIDED[self._experiment.discriminator.loss]
        self._shares = [*self._shares, values["discriminator"] / undecided][-REPORTS:]
        lines, for_long = [], len(self._shares) == REPORTS
        if for_long and max(self._shares) < WINS:
            lines += self._once(
                "wins",
                f"the discriminator wins: its loss is {values['discriminator']:.3g}, where "
                f"{undecided:.3g} is a guess; raise discriminator.r1_gamma, lower "
                "discriminator_optimizer.learning_rate, or let it start later",
            )
        if for_long and min(self._shares) > LOSES:
            lines += self._once(
                "loses",
                f"the discriminator tells nothing apart: its loss stays at a guess, "
                f"{undecided:.3g}; raise discriminator_optimizer.learning_rate, or lower "
                "discriminator.r1_gamma",
            )
        if self._before_start is not None and values["psnr"] < self._before_start - WORSE_PSNR:
            lines += self._once(
                "worse",
                f"reconstruction is worse since the discriminator takes part: "
                f"{values['psnr']:.4g} dB after {self._before_start:.4g} dB; lower "
                "losses.adversarial, or let it start later or grow slower "
                "(discriminator.start, discriminator.ramp_steps)",
            )
        return lines

    def _once(self, name, line):
        if name in self._said:
            return []
        self._said.add(name)
        return [line]
