"""Replicas of a tf.distribute strategy: sharing rows and batches, assigning to their variables."""

import keras
import numpy as np
import tensorflow as tf


def over_replicas(function):
    """Compiles a row-wise function and shards its rows over the replicas of the strategy in scope.

    Make it inside `strategy.scope()`, as the variables that it reads. Each replica of this process
    gets the same number of rows, one after the other; the last row is repeated where they do not
    divide, and what comes of it is dropped. Without a strategy, or with one replica, it is
    `tf.function(function)`.

    Args:
        function: takes arrays or tensors [B,...], and None; returns nested tensors [B,...]. Row i
            of its answer must depend on row i alone.

    Returns:
        A function of the same arguments, each of B >= 1 rows, that gives the same answer.
    """
    strategy = tf.distribute.get_strategy()
    places = local_replicas(strategy)
    if len(places) == 1:
        graph = tf.function(function, autograph=False)
        return lambda *rows: graph(*rows)  # a bare tf.function would be saved with a model
    graph = tf.function(lambda *rows: strategy.run(function, rows), autograph=False)

    def run(*rows):
        count = next(len(row) for row in rows if row is not None)
        share = -(-count // len(places))
        taken = np.minimum(np.arange(share * len(places)), count - 1).reshape(-1, share)
        parts = [None if row is None else _distribute(strategy, places, row, taken) for row in rows]
        return tf.nest.map_structure(
            lambda part: tf.concat(strategy.experimental_local_results(part), 0)[:count],
            graph(*parts),
        )

    return run


def local_replicas(strategy):
    """Returns {number of each replica of this process: its place among them}."""
    numbers = strategy.experimental_distribute_values_from_function(
        lambda context: context.replica_id_in_sync_group
    )
    numbers = strategy.experimental_local_results(numbers)
    return {int(number): place for place, number in enumerate(numbers)}


def _distribute(strategy, places, rows, taken):
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.gather(rows, taken[places[context.replica_id_in_sync_group]])
    )


def share_batches(strategy, make, batch_size):
    """Returns the distributed data set of global batches, contiguous rows to each replica.

    Args:
        strategy: a `tf.distribute` strategy.
        make: called with (index of a worker, number of workers); returns endless batches of that
            worker's contiguous share of the rows of each global batch.
        batch_size: rows of a global batch, a multiple of the number of replicas.
    """

    def of_worker(context):
        share = make(context.input_pipeline_id, context.num_input_pipelines)
        rows = context.get_per_replica_batch_size(batch_size)
        return share.rebatch(rows, drop_remainder=True)

    return strategy.distribute_datasets_from_function(of_worker)


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
