"""The evaluation between two parts of a training."""

import numpy as np
import orbit
import tensorflow as tf

from vim_tf.annotations import Tensor
from vim_tf.distribution.replicas import over_replicas
from vim_tf.trainers.trainer import Trainer


class Stopped(Exception):
    """A stop was requested."""


class EvaluationLoop(orbit.AbstractEvaluator):
    """Evaluates the averaged weights on a finite dataset; the replicas of this process share it.

    Args:
        trainer: the trainer.
        strategy: the strategy that it was made in.
        dataset: finite batches, dicts.
        stop: bool tf.Variable, read before each batch; None never stops.

    Attributes:
        images: number of images of the last evaluation.
    """

    images: int = 0

    def __init__(
        self,
        trainer: Trainer,
        strategy: tf.distribute.Strategy,
        dataset: tf.data.Dataset,
        stop: tf.Variable | None = None,
    ) -> None:
        self.trainer = trainer
        self.dataset = dataset
        self.stop = stop
        names = sorted(dataset.element_spec)
        with strategy.scope():
            evaluate = over_replicas(
                lambda *rows: trainer.evaluate_batch(dict(zip(names, rows, strict=True)))
            )
        self.evaluate_batch = lambda batch: evaluate(*(batch[name] for name in names))

    def evaluate(self, num_steps: int | Tensor) -> dict[str, float]:
        """Returns the trainer's summary of all batches, or of the first `num_steps`.

        Raises:
            Stopped: `stop` was set.
        """
        num_steps = int(num_steps)
        dataset = self.dataset if num_steps < 0 else self.dataset.take(num_steps)
        batches = []
        for batch in dataset:
            if self.stop is not None and self.stop.numpy():
                raise Stopped
            batches.append(tf.nest.map_structure(np.asarray, self.evaluate_batch(batch)))
        results = {n: np.concatenate([b[n] for b in batches]) for n in batches[0]}
        self.images = len(next(iter(results.values())))
        return self.trainer.summarize(results)
