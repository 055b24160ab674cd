"""The optimizers of both stages."""

from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import ops

from vim_tf.annotations import Tensor
from vim_tf.config.sections import OptimizerConfig
from vim_tf.trainers.schedules import learning_rate_schedule

TINY = 1e-30  # avoids 0 / 0 where the gradient is zero


@keras.saving.register_keras_serializable(package="vim_tf")
class KernelAdamW(keras.optimizers.AdamW):
    """AdamW (arXiv 1711.05101) that decays variables named `kernel` and no others.

    Kernels are the matrices of dense and convolution layers. Biases, the norms' scales, the
    codebook, and the embeddings of tokens, labels and positions do not decay: smaller values of
    these are not simpler, and a row that is rarely used would shrink between its uses.
    """

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the slots; call it inside `strategy.scope()`, before the first step."""
        if not self.built:
            self.exclude_from_weight_decay(
                var_list=[variable for variable in variables if variable.name != "kernel"]
            )
            self._make_slots(variables)

    def _make_slots(self, variables: Sequence[keras.Variable]) -> None:
        super().build(variables)

    def steps_since_start(self) -> Tensor:
        """Steps from the schedule's start to the end of the present one: 1 or more, int64.

        The corrections of the moments count them. Before the start gradients are zero and so are
        the moments; corrected as those of a long run, they would make the first steps ten times as
        large.
        """
        start = ops.cast(getattr(self._learning_rate, "start", 0), self.iterations.dtype)
        return ops.maximum(self.iterations - start, 0) + 1

    def update_step(self, gradient: Tensor, variable: tf.Variable, learning_rate: Tensor) -> None:
        """Moves one variable.

        TensorFlow's kernel reads each array once; Keras' operations take twice as long.
        """
        index = self._get_variable_index(variable)
        step = tf.cast(self.steps_since_start(), gradient.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=self.beta_1**step,
            beta2_power=self.beta_2**step,
            lr=tf.cast(learning_rate, gradient.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


@keras.saving.register_keras_serializable(package="vim_tf")
class FactoredAdamW(KernelAdamW):
    """`KernelAdamW` with Adafactor's second moment of matrices (arXiv 1804.04235, algorithm 4).

    For a matrix [...,R,C] it keeps moving averages of the squared gradient's means over rows and
    over columns: R + C numbers instead of R * C. The second moment is the product of both, divided
    by the mean of the first. Everything else is AdamW's: the first moment, the bias corrections,
    the learning rate. The codebook has a full second moment, since revival resets it code by code.
    """

    def _make_slots(self, variables: Sequence[keras.Variable]) -> None:
        keras.optimizers.Optimizer.build(self, variables)
        self._momentums, self._velocities, self._means = [], [], []
        for variable in variables:
            self._momentums.append(self.add_variable_from_reference(variable, name="momentum"))
            if len(variable.shape) < 2 or variable.name == "codebook":
                velocity = self.add_variable_from_reference(variable, name="velocity")
                self._velocities.append(velocity)
                self._means.append(None)
                continue
            shapes = variable.shape[:-1], (*variable.shape[:-2], variable.shape[-1])
            self._velocities.append(None)
            self._means.append(
                [
                    self.add_variable(shape, "zeros", variable.dtype, name=f"{name}_means")
                    for name, shape in zip(("row", "column"), shapes, strict=True)
                ]
            )

    def update_step(self, gradient: Tensor, variable: tf.Variable, learning_rate: Tensor) -> None:
        """Moves one variable."""
        index = self._get_variable_index(variable)
        if self._means[index] is None:
            super().update_step(gradient, variable, learning_rate)
            return
        momentum, (rows, columns) = self._momentums[index], self._means[index]
        square = ops.square(gradient)
        for mean, axis in ((rows, -1), (columns, -2)):
            self.assign_add(mean, (ops.mean(square, axis) - mean) * (1 - self.beta_2))
        self.assign_add(momentum, (gradient - momentum) * (1 - self.beta_1))
        step = ops.cast(self.steps_since_start(), variable.dtype)
        # At first both means are too small by the same factor, and so is the second moment.
        scale = ops.sqrt(1 - ops.power(self.beta_2, step)) / (1 - ops.power(self.beta_1, step))
        share = rows / ops.maximum(ops.mean(rows, -1, keepdims=True), TINY)
        second = ops.expand_dims(share, -1) * ops.expand_dims(columns, -2)
        change = momentum * learning_rate * scale / (ops.sqrt(second) + self.epsilon)
        self.assign_sub(variable, change)


def make_optimizer(
    config: OptimizerConfig, steps: int, start: int | tf.Variable = 0
) -> KernelAdamW:
    """Builds the optimizer for a run of `steps` steps.

    It does not clip: Keras would do so before gradients are summed over replicas; see
    `gradients.apply_gradients`. Call `build(variables)` inside `strategy.scope()`.

    Args:
        config: the optimizer's section of the config.
        steps: length of the run.
        start: no weight moves before this step; a number or a variable.

    Returns:
        `KernelAdamW`, or `FactoredAdamW`, with the config's learning-rate schedule.
    """
    optimizer = FactoredAdamW if config.second_moment == "factored" else KernelAdamW
    return optimizer(
        learning_rate=learning_rate_schedule(config, steps, start),
        beta_1=config.beta_1,
        beta_2=config.beta_2,
        # Below Keras' 1e-7: losses are means over pixels, and gradients of 1e-6 are usual.
        epsilon=1e-8,
        weight_decay=config.weight_decay,
    )
