"""Replicas of a tf.distribute strategy: sharding rows and batches, assigning their variables."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vim_tf.annotations import Tensor


def over_replicas(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a row-wise function and shards its rows over the replicas of the strategy in scope.

    Call it inside `strategy.scope()`, where the variables of the function were made. Each replica
    of this process gets the same number of contiguous rows. If the rows do not divide evenly, they
    are padded with copies of the last row, and the results of the copies are dropped. Without a
    strategy, or with one replica, the result is `tf.function(function)`.

    Args:
        function: takes arrays or tensors [B,...], and None; returns nested tensors [B,...]. Row i
            of its result must depend on row i alone.

    Returns:
        A function of the same arguments, each of B >= 1 rows, with the same result.
    """
    strategy = tf.distribute.get_strategy()
    places = local_replicas(strategy)
    if len(places) == 1:
        graph = tf.function(function, autograph=False)
        return lambda *rows: graph(*rows)  # a bare tf.function would be saved with a model
    graph = tf.function(lambda *rows: strategy.run(function, rows), autograph=False)

    def run(*rows: Any) -> Any:
        count = next(len(row) for row in rows if row is not None)
        share = -(-count // len(places))
        taken = np.minimum(np.arange(share * len(places)), count - 1).reshape(-1, share)
        parts = [None if row is None else _distribute(strategy, places, row, taken) for row in rows]
        return tf.nest.map_structure(
            lambda part: tf.concat(strategy.experimental_local_results(part), 0)[:count],
            graph(*parts),
        )

    return run


def local_replicas(strategy: tf.distribute.Strategy) -> dict[int, int]:
    """Returns {number of each replica of this process: its index among them}."""
    numbers = strategy.experimental_distribute_values_from_function(
        lambda context: context.replica_id_in_sync_group
    )
    numbers = strategy.experimental_local_results(numbers)
    return {int(number): place for place, number in enumerate(numbers)}


def _distribute(
    strategy: tf.distribute.Strategy, places: Mapping[int, int], rows: Tensor, taken: np.ndarray
) -> Any:
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.gather(rows, taken[places[context.replica_id_in_sync_group]])
    )


def share_batches(
    strategy: tf.distribute.Strategy,
    make: Callable[[int, int], tf.data.Dataset],
    batch_size: int,
) -> tf.distribute.DistributedDataset:
    """Returns the distributed data set of global batches; each replica gets contiguous rows.

    Args:
        strategy: the strategy of the replicas.
        make: called with (index of a worker, number of workers); returns endless batches of that
            worker's contiguous share of the rows of each global batch.
        batch_size: rows of a global batch, a multiple of the number of replicas.
    """

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        share = make(context.input_pipeline_id, context.num_input_pipelines)
        rows = context.get_per_replica_batch_size(batch_size)
        return share.rebatch(rows, drop_remainder=True)

    return strategy.distribute_datasets_from_function(of_worker)


def assign_everywhere(
    variables: Iterable[tf.Variable | keras.Variable], values: Iterable[Tensor]
) -> None:
    """Assigns the same values to every replica's copy of the variables.

    A replica cannot assign a variable without aggregation; the strategy assigns it from the
    cross-replica context. Call this outside of any tf.cond: merge_call fails there under
    MirroredStrategy. Outside of a strategy it assigns directly.

    Args:
        variables: the variables to assign.
        values: a tensor for each variable, equal on all replicas.
    """
    variables = [v.value if isinstance(v, keras.Variable) else v for v in variables]

    def assign(strategy: tf.distribute.Strategy, *values: Tensor) -> None:
        for variable, value in zip(variables, values, strict=True):
            strategy.extended.update(
                variable, lambda v, new: v.assign(new), args=(value,), group=False
            )

    context = tf.distribute.get_replica_context()
    if context is None or not tf.distribute.has_strategy():
        assign(tf.distribute.get_strategy(), *values)
    else:
        context.merge_call(assign, args=tuple(values))
