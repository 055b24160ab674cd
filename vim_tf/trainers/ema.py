"""Exponential moving averages of weights, for evaluation and sampling; used by both stages.

Keras' own (`use_ema`, `SwapEMAWeights`) belong to one optimizer of one model and swap weights in
place. Here the average is a second model, available at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import tensorflow as tf

from vim_tf.annotations import Tensor

if TYPE_CHECKING:
    import keras


class ExponentialMovingAverage:
    """Keeps the weights of one model equal to the moving average of another model's weights.

    Create it inside `strategy.scope()`: it starts by copying the sources into the targets.

    Args:
        source_variables: weights that are trained.
        target_variables: the same weights of a second model built alike, in the same order.
        decay: the greatest share of the average that a step keeps. At step t the share is
            min(decay, (1 + t) / (10 + t)), so that the average soon forgets the start of a run.

    Raises:
        ValueError: the two lists do not match in length or shapes.
    """

    def __init__(
        self,
        source_variables: Sequence[keras.Variable],
        target_variables: Sequence[keras.Variable],
        decay: float,
    ) -> None:
        shapes = [
            [tuple(variable.shape) for variable in variables]
            for variables in (source_variables, target_variables)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"source_variables have the shapes {shapes[0]} and target_variables {shapes[1]}; "
                "both must come from models that were built alike"
            )
        self.decay = decay
        self._strategy = tf.distribute.get_strategy()
        self._sources = [variable.value for variable in source_variables]
        self._targets = [variable.value for variable in target_variables]
        for source, target in zip(self._sources, self._targets, strict=True):
            target.assign(source)

    def update(self, step: int | Tensor) -> None:
        """Moves the average towards the current weights.

        Works inside `strategy.run` and outside, in eager mode and in a `tf.function`, but not
        inside a `tf.cond`: the replicas wait for each other here.

        Args:
            step: an integer or an integer scalar, counted from 0.
        """
        step = tf.cast(step, tf.float32)
        decay = tf.minimum(self.decay, (1.0 + step) / (10.0 + step))
        context = tf.distribute.get_replica_context()
        if context is not None and context.strategy is self._strategy:
            context.merge_call(self._update, args=(decay,))
        else:
            with self._strategy.scope():
                self._update(self._strategy, decay)

    def _update(self, strategy: tf.distribute.Strategy, decay: Tensor) -> None:
        # `extended.update` runs once for each copy of a variable, on its device. A plain assignment
        # inside a replica would need an aggregation, and model weights have none.
        def move(target: Tensor, source: Tensor, decay: Tensor) -> None:
            target.assign_sub((target - source) * tf.cast(1.0 - decay, target.dtype))

        for source, target in zip(self._sources, self._targets, strict=True):
            strategy.extended.update(target, move, args=(source, decay), group=False)
