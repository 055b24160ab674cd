"""Exponential moving averages of weights, for evaluation and sampling; used by both stages.

Keras' own (`use_ema`, `SwapEMAWeights`) belong to one optimizer of one model and swap weights in
place; here the average is a second model, which is there at any time.
"""

import tensorflow as tf


class ExponentialMovingAverage:
    """Keeps the weights of one model at the moving average of another's.

    Create it inside `strategy.scope()`: it starts by copying the sources into the targets.

    Args:
        source_variables: weights that are trained, as a list of Keras variables.
        target_variables: the same weights of a second model built alike, in the same order.
        decay: share of the average kept at each step, once the run is long: at step t it is
            min(decay, (1 + t) / (10 + t)), so that the start of a run is forgotten soon.

    Raises:
        ValueError: the two lists do not match in length or shapes.
    """

    def __init__(self, source_variables, target_variables, decay):
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

    def update(self, step):
        """Moves the average towards the present weights.

        Works inside `strategy.run` and outside, in eager mode and in a `tf.function`, but not
        inside a `tf.cond`: replicas meet here.

        Args:
            step: int or integer scalar, counted from 0.
        """
        step = tf.cast(step, tf.float32)
        decay = tf.minimum(self.decay, (1.0 + step) / (10.0 + step))
        context = tf.distribute.get_replica_context()
        if context is not None and context.strategy is self._strategy:
            context.merge_call(self._update, args=(decay,))
        else:
            with self._strategy.scope():
                self._update(self._strategy, decay)

    def _update(self, strategy, decay):
        # `extended.update` runs once for each copy of a variable, on its device. A plain assignment
        # inside a replica would need an aggregation, which model weights do not have.
        def move(target, source, decay):
            target.assign_sub((target - source) * tf.cast(1.0 - decay, target.dtype))

        for source, target in zip(self._sources, self._targets, strict=True):
            strategy.extended.update(target, move, args=(source, decay), group=False)
