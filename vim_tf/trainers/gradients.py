"""Turns the replicas' gradients into one update of the weights: reduce, then clip, then apply.

Keras clips before it sums over replicas, so that its `global_clipnorm` depends on their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from vim_tf.annotations import Tensor

if TYPE_CHECKING:
    import keras


def densify(gradients: Iterable[Tensor]) -> list[Tensor]:
    """Turns IndexedSlices, the gradients of embedding lookups, into dense tensors.

    A row that was looked up twice has two slices. The gradient has their sum in that row, so that
    the norm of the slices is not the norm of the gradient.

    Args:
        gradients: tensors and `tf.IndexedSlices` with a known dense shape.

    Returns:
        list of tensors.
    """
    return [
        tf.math.unsorted_segment_sum(gradient.values, gradient.indices, gradient.dense_shape[0])
        if isinstance(gradient, tf.IndexedSlices)
        else gradient
        for gradient in gradients
    ]


def accumulate(
    compute: Callable[..., tuple[Any, dict[str, Tensor], Any]], inputs: tuple[Any, ...], parts: int
) -> tuple[Any, dict[str, Tensor], Any]:
    """Computes the gradients of a batch part by part; they are the mean over the parts.

    Args:
        compute: function of nested tensors [B/parts,...] -> (gradients, logs, extras), like
            `Trainer.gradients_of`.
        inputs: nested tensors [B,...], the function's arguments.
        parts: number of parts, each of contiguous rows; divides B.

    Returns:
        (gradients, logs, extras): means of the first two; extras [B,...].
    """

    def compute_dense(*part: Any) -> tuple[tuple[Any, dict[str, Tensor]], Any]:
        gradients, logs, extras = compute(*part)
        gradients = tf.nest.pack_sequence_as(
            gradients, densify(tf.nest.flatten(gradients)), expand_composites=False
        )
        return (gradients, logs), extras

    graph = tf.function(compute_dense, autograph=False)
    stretches = tf.nest.map_structure(
        lambda x: tf.reshape(x, [parts, -1, *x.shape[1:]]),
        inputs,
    )

    def take(number: int | Tensor) -> Any:
        return tf.nest.map_structure(lambda x: x[number], stretches)

    means, extras = graph.get_concrete_function(*take(0)).structured_outputs
    means = tf.nest.map_structure(lambda x: tf.zeros(x.shape, x.dtype), means)
    arrays = tf.nest.map_structure(
        lambda x: tf.TensorArray(x.dtype, parts, element_shape=x.shape), extras
    )

    def add(number: Tensor, means: Any, arrays: Any) -> tuple[Tensor, Any, Any]:
        with tf.control_dependencies(tf.nest.flatten(means)):  # waits for the previous part
            more, extras = graph(*tf.nest.map_structure(tf.identity, take(number)))
        means = tf.nest.map_structure(lambda mean, x: mean + x / parts, means, more)
        arrays = tf.nest.map_structure(lambda array, x: array.write(number, x), arrays, extras)
        return number + 1, means, arrays

    _, (gradients, logs), arrays = tf.while_loop(
        lambda number, *_: number < parts, add, (0, means, arrays), parallel_iterations=1
    )
    return gradients, logs, tf.nest.map_structure(lambda array: array.concat(), arrays)


def squared_norm(gradient: Tensor) -> Tensor:
    """The mean over images of the squared norm of each image's own gradient, a float32 scalar.

    Args:
        gradient: [B,...], of a mean over B images; so each row is 1 / B of the image's gradient.
            Means of the result over equal parts of a batch are the result of the whole batch.
    """
    return tf.cast(tf.shape(gradient)[0], tf.float32) * tf.reduce_sum(tf.square(gradient))


def gradients_or_zeros(
    tape: tf.GradientTape, loss: Tensor, variables: Sequence[keras.Variable]
) -> list[Tensor]:
    """Returns the gradients of a loss by Keras variables; zeros where it does not depend on one.

    The tape needs a variable's dtype for these zeros, and cannot read that of a Keras variable.
    """
    values = [variable.value for variable in variables]
    return tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)


@tf.custom_gradient
def mean_over_replicas(x: Tensor) -> Any:
    """Averages a tensor over the replicas, in replica context; gradients pass unchanged.

    The gradient of the global loss by a replica's x is 1 / replicas of that by the average.
    `apply_gradients` applies this factor when it averages the replicas' gradients.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync > 1:
        x = context.all_reduce(tf.distribute.ReduceOp.MEAN, x)
    return tf.identity(x), lambda gradient: gradient


def apply_gradients(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[Tensor | None],
    variables: Sequence[keras.Variable],
    clip_norm: float,
) -> Tensor:
    """Averages gradients over the replicas, clips their global norm and updates the variables.

    Call it in replica context: inside `strategy.run`, or without a strategy. For any number of
    replicas, the result is the same as that of one replica with the whole global batch.

    Args:
        optimizer: Keras optimizer, built on `variables` inside `strategy.scope()`; must not clip.
        gradients: one for each variable, of the replica's mean loss.
        variables: the Keras variables.
        clip_norm: greatest global norm of the averaged gradients; 0 does not clip.

    Returns:
        float32 scalar: the global norm before clipping, the same on every replica.

    Raises:
        ValueError: a variable has no gradient: the loss does not depend on it.
    """
    missing = [
        variable.path
        for gradient, variable in zip(gradients, variables, strict=True)
        if gradient is None
    ]
    if missing:
        raise ValueError(f"the loss has no gradient for {', '.join(missing)}")

    context = tf.distribute.get_replica_context()
    # One call, so that the strategy can pack the list into few transfers.
    means = context.all_reduce(tf.distribute.ReduceOp.MEAN, densify(gradients))
    norm = tf.linalg.global_norm([tf.cast(mean, tf.float32) for mean in means])
    scale = clip_norm / tf.maximum(norm, clip_norm) if clip_norm else 1.0
    # Keras' optimizer sums over the replicas once more, over gradients that are now all equal.
    scale /= context.num_replicas_in_sync
    optimizer.apply([mean * tf.cast(scale, mean.dtype) for mean in means], variables)
    return norm
