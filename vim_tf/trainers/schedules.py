"""Functions of the step alone: learning rates and ramps."""

import math
from typing import Any

import keras
from keras import ops

from vim_tf.annotations import Tensor
from vim_tf.config.sections import OptimizerConfig


@keras.saving.register_keras_serializable(package="vim_tf")
class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear from 0 to `peak`, a plateau, then a decay that ends at `steps`.

    The decay starts at `decay_start`, or where the warm-up ends if that is later. "cosine" and
    "exponential" reach `final_ratio * peak` exactly at `steps` and stay there; "constant" keeps the
    peak. As in https://arxiv.org/abs/2110.04627: cosine for stage 1 (section 3.3), exponential
    after a plateau for stage 2 (section 3.4).

    Args:
        peak: learning rate at the end of the warm-up.
        steps: length of the run.
        warmup_steps: length of the warm-up; with 0 the first step already has the peak.
        decay_start: step, counted from 0, where the plateau ends.
        final_ratio: share of the peak that is left at `steps`.
        kind: "cosine", "exponential" or "constant".
        start: before this step the rate is 0, so that not even weight decay acts; the warm-up
            counts from it. A number or an integer variable.
    """

    def __init__(
        self,
        peak: float,
        steps: int,
        warmup_steps: int,
        decay_start: int,
        final_ratio: float,
        kind: str,
        start: int | Tensor = 0,
    ) -> None:
        self.start = start
        self.peak = peak
        self.steps = steps
        self.warmup_steps = warmup_steps
        self.decay_start = decay_start
        self.final_ratio = final_ratio
        self.kind = kind

    def __call__(self, step: int | Tensor) -> Tensor:
        """Returns the float32 learning rate of `step`, an integer scalar."""
        step, start = ops.cast(step, "float32"), ops.cast(self.start, "float32")
        started = ops.cast(step >= start, "float32")
        warmup = ops.clip((step - start) / max(self.warmup_steps, 1), 0.0, 1.0)
        warmup = warmup if self.warmup_steps else 1.0
        return self.peak * started * warmup * self._decay(step, start + self.warmup_steps)

    def _decay(self, step: Tensor, warm: Tensor) -> Tensor:
        """Share of the peak, without the warm-up; 1 up to the start of the decay."""
        start = ops.maximum(warm, self.decay_start)
        progress = ops.clip((step - start) / ops.maximum(self.steps - start, 1), 0.0, 1.0)
        if self.kind == "cosine":
            cosine = (1.0 + ops.cos(math.pi * progress)) / 2.0
            return self.final_ratio + (1.0 - self.final_ratio) * cosine
        if self.kind == "exponential":
            return ops.exp(math.log(self.final_ratio) * progress)
        return ops.ones_like(progress)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "peak": self.peak,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "decay_start": self.decay_start,
            "final_ratio": self.final_ratio,
            "kind": self.kind,
            "start": int(self.start),
        }


def learning_rate_schedule(
    config: OptimizerConfig, steps: int, start: int | Tensor = 0
) -> WarmupDecay:
    """Builds the schedule for a run of `steps` steps.

    Args:
        config: the optimizer's section of the config.
        steps: length of the run.
        start: the step at which the training of the weights starts; a number or a variable.
    """
    return WarmupDecay(
        peak=config.learning_rate,
        steps=steps,
        warmup_steps=config.warmup_steps,
        decay_start=config.decay_start,
        final_ratio=config.final_ratio,
        kind=config.schedule,
        start=start,
    )


def start_step(start: float, steps: int) -> int:
    """Returns `start` as a step: a value below 1 is a share of a run of `steps` steps."""
    return round(start * steps) if start < 1 else int(start)


def ramp(step: int | Tensor, start: int | Tensor, ramp_steps: int) -> Tensor:
    """Weight of a loss term that begins at `start` and grows linearly for `ramp_steps` steps.

    Args:
        step: an integer or an integer scalar.
        start: first step with a weight above 0; an integer or an integer variable.
        ramp_steps: with 0 the weight is 1 from `start` on.

    Returns:
        float32 scalar: 0 before `start`, 1 from `start + ramp_steps` on.
    """
    now = ops.convert_to_tensor(step)
    since = ops.cast(now - ops.cast(start, now.dtype) + 1, "float32")
    return ops.clip(since / (ramp_steps + 1), 0.0, 1.0)
