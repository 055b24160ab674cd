"""LARS, the optimizer of linear probes with very large batches."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from vim_tf.annotations import Tensor


@keras.saving.register_keras_serializable(package="vim_tf")
class LARS(keras.optimizers.Optimizer):
    """Momentum with a step proportional to the norm of the weights (arXiv 1708.03888).

    Algorithm 1 of the paper: for each matrix w with gradient g,

        local = trust_coefficient * |w| / (|g| + weight_decay * |w|)
        velocity = momentum * velocity + learning_rate * local * (g + weight_decay * w)
        w = w - velocity

    As in MAE's probe (arXiv 2111.06377, appendix A.1), variables of rank 0 and 1, such as biases,
    are neither adapted nor decayed: local is 1, and the decay 0. The paper's ratio is not defined
    if all weights are zero, or without gradient and decay; local is 1 there as well.

    Norms and velocities are float32 for variables of any dtype.

    Args:
        learning_rate: a number or a Keras schedule.
        momentum: share of the velocity that is kept, from 0 to below 1.
        trust_coefficient: the paper's eta.
        weight_decay: the paper's beta; part of the gradient, not decoupled as in AdamW.
        name: of the optimizer.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
        momentum: float = 0.9,
        trust_coefficient: float = 0.001,
        weight_decay: float = 0.0,
        name: str = "lars",
    ) -> None:
        # Keras gets no weight decay, because its decay is decoupled.
        super().__init__(learning_rate=learning_rate, name=name)
        self.momentum = momentum
        self.trust_coefficient = trust_coefficient
        self.coupled_decay = weight_decay

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the velocities, one per variable."""
        if self.built:
            return
        super().build(variables)
        self.velocities = [
            self.add_variable(variable.shape, dtype="float32", name=f"velocity_{place}")
            for place, variable in enumerate(variables)
        ]

    def update_step(
        self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor
    ) -> None:
        """Updates one variable."""
        velocity = self.velocities[self._get_variable_index(variable)]
        gradient, weights = ops.cast(gradient, "float32"), ops.cast(variable, "float32")
        rate = ops.cast(learning_rate, "float32")
        if len(variable.shape) > 1:
            length = _length(weights)
            opposed = _length(gradient) + self.coupled_decay * length
            local = self.trust_coefficient * length / opposed
            rate *= ops.where(ops.logical_and(length > 0, opposed > 0), local, 1.0)
            gradient += self.coupled_decay * weights
        self.assign(velocity, self.momentum * velocity + rate * gradient)
        self.assign_sub(variable, ops.cast(velocity, variable.dtype))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "learning_rate": super().get_config()["learning_rate"],
            "momentum": self.momentum,
            "trust_coefficient": self.trust_coefficient,
            "weight_decay": self.coupled_decay,
            "name": self.name,
        }


def _length(values: Tensor) -> Tensor:
    return ops.sqrt(ops.sum(ops.square(values)))
