"""LARS, the optimizer of linear probes with very large batches."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="vim_tf")
class LARS(keras.optimizers.Optimizer):
    """Momentum whose step is in proportion to the length of the weights (arXiv 1708.03888).

    Algorithm 1 of the paper: of each matrix w with gradient g,

        local = trust_coefficient * |w| / (|g| + weight_decay * |w|)
        velocity = momentum * velocity + learning_rate * local * (g + weight_decay * w)
        w = w - velocity

    As in MAE's probe (arXiv 2111.06377, appendix A.1), variables of rank 0 and 1, such as biases,
    are neither adapted nor decayed: local is 1, and the decay 0. Where the paper's ratio means
    nothing, at weights that are all zero or without gradient and decay, local is 1, too.

    Lengths and velocities are float32 whatever the variables are.

    Args:
        learning_rate: a number or a Keras schedule.
        momentum: share of the velocity that is kept, from 0 to below 1.
        trust_coefficient: the paper's eta.
        weight_decay: the paper's beta; part of the gradient, not decoupled as AdamW's.
        name: of the optimizer.
    """

    def __init__(
        self,
        learning_rate,
        momentum=0.9,
        trust_coefficient=0.001,
        weight_decay=0.0,
        name="lars",
    ):
        super().__init__(learning_rate=learning_rate, name=name)  # whose own decay is decoupled
        self.momentum = momentum
        self.trust_coefficient = trust_coefficient
        self.coupled_decay = weight_decay

    def build(self, variables):
        """Creates the velocities, one a variable."""
        if self.built:
            return
        super().build(variables)
        self.velocities = [
            self.add_variable(variable.shape, dtype="float32", name=f"velocity_{place}")
            for place, variable in enumerate(variables)
        ]

    def update_step(self, gradient, variable, learning_rate):
        """Moves one variable."""
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

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "learning_rate": super().get_config()["learning_rate"],
            "momentum": self.momentum,
            "trust_coefficient": self.trust_coefficient,
            "weight_decay": self.coupled_decay,
            "name": self.name,
        }


def _length(values):
    return ops.sqrt(ops.sum(ops.square(values)))
