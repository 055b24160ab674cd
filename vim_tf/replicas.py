"""Assigning to variables from inside a replica of a tf.distribute strategy."""

import keras
import tensorflow as tf


def assign_everywhere(variables, values):
    """Assigns the same values to every replica's copy of the variables.

    Inside a replica a variable without aggregation cannot be assigned to; the strategy does it
    from the cross-replica context instead. Call it outside of any tf.cond: merge_call fails
    there under MirroredStrategy. Outside of a strategy it assigns directly.

    Args:
        variables: tf or Keras variables.
        values: a tensor for each, equal on all replicas.
    """
    variables = [v.value if isinstance(v, keras.Variable) else v for v in variables]

    def assign(strategy, *values):
        for variable, value in zip(variables, values, strict=True):
            strategy.extended.update(
                variable, lambda v, new: v.assign(new), args=(value,), group=False
            )

    context = tf.distribute.get_replica_context()
    if context is None or not tf.distribute.has_strategy():
        assign(tf.distribute.get_strategy(), *values)
    else:
        context.merge_call(assign, args=tuple(values))
