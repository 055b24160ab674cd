"""From each replica's gradients to one update of the weights: reduce, then clip, then apply.

Keras clips before it sums over replicas, so that its `global_clipnorm` depends on their number.
"""

import tensorflow as tf


def densify(gradients):
    """Turns IndexedSlices, the gradients of embedding lookups, into dense tensors.

    A row that was looked up twice is two slices; the norm of the values is then not the norm of
    the gradient, which has their sum in that row.

    Args:
        gradients: list of tensors and `tf.IndexedSlices` with a known dense shape.

    Returns:
        list of tensors.
    """
    return [
        tf.math.unsorted_segment_sum(gradient.values, gradient.indices, gradient.dense_shape[0])
        if isinstance(gradient, tf.IndexedSlices)
        else gradient
        for gradient in gradients
    ]


def accumulate(compute, inputs, parts):
    """Computes the gradients of a batch as the mean of those of its parts, one after the other.

    Args:
        compute: function of tensors [B/parts,...] -> (gradients, logs, extras), as
            `Trainer.gradients_of`.
        inputs: tuple of nested tensors [B,...], the function's arguments.
        parts: number of contiguous stretches of rows; divides B.

    Returns:
        (gradients, logs, extras): means of the first two; extras [B,...].
    """

    def compute_dense(*part):
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

    def take(number):
        return tf.nest.map_structure(lambda x: x[number], stretches)

    means, extras = graph.get_concrete_function(*take(0)).structured_outputs
    means = tf.nest.map_structure(lambda x: tf.zeros(x.shape, x.dtype), means)
    arrays = tf.nest.map_structure(
        lambda x: tf.TensorArray(x.dtype, parts, element_shape=x.shape), extras
    )

    def add(number, means, arrays):
        with tf.control_dependencies(tf.nest.flatten(means)):  # not before the part before is done
            more, extras = graph(*tf.nest.map_structure(tf.identity, take(number)))
        means = tf.nest.map_structure(lambda mean, x: mean + x / parts, means, more)
        arrays = tf.nest.map_structure(lambda array, x: array.write(number, x), arrays, extras)
        return number + 1, means, arrays

    _, (gradients, logs), arrays = tf.while_loop(
        lambda number, *_: number < parts, add, (0, means, arrays), parallel_iterations=1
    )
    return gradients, logs, tf.nest.map_structure(lambda array: array.concat(), arrays)


def gradients_or_zeros(tape, loss, variables):
    """Returns the gradients of a loss by Keras variables; zeros where it does not depend on one.

    The tape makes those zeros from a variable's dtype, which it cannot read of a Keras variable.
    """
    values = [variable.value for variable in variables]
    return tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)


@tf.custom_gradient
def mean_over_replicas(x):
    """Averages a tensor over the replicas, in replica context; gradients pass as if it did not.

    The global loss has 1 / replicas of the average's gradient by each replica's x, and that factor
    is the one by which `apply_gradients` averages the replicas' gradients.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync > 1:
        x = context.all_reduce(tf.distribute.ReduceOp.MEAN, x)
    return tf.identity(x), lambda gradient: gradient


def apply_gradients(optimizer, gradients, variables, clip_norm):
    """Averages gradients over the replicas, clips their global norm and updates the variables.

    To be called in replica context: inside `strategy.run`, or without a strategy. The result is
    that of one replica which has seen the whole global batch, for any number of replicas.

    Args:
        optimizer: Keras optimizer, built on `variables` inside `strategy.scope()`; must not clip.
        gradients: one a variable, of the replica's mean loss.
        variables: the Keras variables.
        clip_norm: greatest global norm of the averaged gradients; 0 does not clip.

    Returns:
        float32 scalar: the global norm before clipping, the same on every replica.

    Raises:
        ValueError: a variable has no gradient, that is, the loss does not depend on it.
    """
    missing = [
        variable.path
        for gradient, variable in zip(gradients, variables, strict=True)
        if gradient is None
    ]
    if missing:
        raise ValueError(f"the loss has no gradient for {', '.join(missing)}")

    context = tf.distribute.get_replica_context()
    gradients = densify(gradients)
    # One call, so that the strategy can pack the list into few transfers.
    gradients = context.all_reduce(tf.distribute.ReduceOp.MEAN, gradients)
    norm = tf.linalg.global_norm([tf.cast(gradient, tf.float32) for gradient in gradients])
    scale = clip_norm / tf.maximum(norm, clip_norm) if clip_norm else 1.0
    # Keras' optimizer sums over the replicas once more, over gradients that are now all equal.
    scale /= context.num_replicas_in_sync
    optimizer.apply(
        [gradient * tf.cast(scale, gradient.dtype) for gradient in gradients], variables
    )
    return norm
