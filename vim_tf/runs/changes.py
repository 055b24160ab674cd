"""The settings of a run that may change when it goes on, and what a change does to its weights.

All other settings make another experiment: it starts in another folder, from nothing or from the
weights of the run.
"""

from dataclasses import dataclass
from typing import Any

from vim_tf.annotations import StrPath
from vim_tf.config import loader
from vim_tf.config.experiments import Experiment, PixelExperiment, TrainingExperiment
from vim_tf.errors import UserError

# The weights are the same bit for bit. Where images and tokenizers are does not matter: their
# fingerprints are compared.
FREE = {
    "training.log_every",
    "training.evaluate_every",
    "training.evaluate_batches",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "data.path",
    "data.validation_path",
    "data.on_error",
    "data.cache",
    "tokenizer.run",
    "tokenizer.cache",
    "losses.perceptual_network.path",
}
# The same sums in another order.
ROUNDED = {"training.strategy", "training.cpu_replicas", "training.tpu"}
STEPS, BATCH_SIZE = "training.steps", "data.batch_size"
# Evaluations decide about the weight of the adversarial term.
_DECIDING = {"training.evaluate_every", "training.evaluate_batches"}


@dataclass(frozen=True)
class Changes:
    """The difference between the config of a run and the one with which it is to go on.

    Attributes:
        values: {dotted key: (before, after)}.
        lines: the same as text, for people.
        refused: whether a key changed that makes another experiment.
    """

    values: dict[str, tuple[Any, Any]]
    lines: list[str]
    refused: bool

    @property
    def steps_before(self) -> int | None:
        """`training.steps` of the run if it changed; otherwise None."""
        return self.values[STEPS][0] if STEPS in self.values else None

    def remarks(self) -> list[str]:
        """Returns lines for the user about the allowed changes; [] without changes."""
        if not self.values:
            return []
        lines = [f"goes on with other settings: {'; '.join(self.lines)}"]
        if self.values.keys() & ROUNDED:
            lines.append(
                "another strategy adds up the gradients in another order: weights agree with those "
                "of the strategy before to about 1e-5, not bit for bit"
            )
        return lines


def find_changes(old: Experiment, new: Experiment) -> Changes:
    """Compares the config of a run with the one with which it is to go on."""
    values = loader.find_changes(old, new)
    allowed = FREE | ROUNDED | {STEPS, BATCH_SIZE}
    if isinstance(new, PixelExperiment) and new.losses.adversarial:
        allowed -= _DECIDING
    return Changes(values, loader.describe_changes(values), bool(values.keys() - allowed))


def check_steps(experiment: TrainingExperiment, done: int | None, run: StrPath) -> None:
    """Raises UserError if a run is to go on to fewer steps than it has done.

    Args:
        experiment: the config with which it is to go on.
        done: the steps that it has done; None if it has no checkpoint.
        run: its folder, for the error.
    """
    steps = experiment.training.steps
    if done is not None and done > steps:
        raise UserError(
            f"training.steps is {steps:,}, and {run} has done {done:,} steps; give at least as many"
        )
