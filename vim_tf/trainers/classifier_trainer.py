"""One training step of the classifier that judges samples."""

import numpy as np
import tensorflow as tf

from vim_tf import losses
from vim_tf.annotations import Tensor
from vim_tf.config.experiments import ClassifierExperiment
from vim_tf.models.classifier import Classifier
from vim_tf.trainers.trainer import Trainer


class ClassifierTrainer(Trainer):
    """Trains a `Classifier` on labelled images.

    Args:
        experiment: the configuration.
        classes: number of classes.
    """

    experiment: ClassifierExperiment
    judged_by = ("accuracy", 1)

    def __init__(self, experiment: ClassifierExperiment, classes: int) -> None:
        def make_model() -> Classifier:
            return Classifier(experiment.model, experiment.data.image_size, classes)

        names = ("cross_entropy", "accuracy")
        super().__init__(experiment, make_model, (*names, "gradient_norm"), names)

    def gradients_of(
        self, batch: dict[str, Tensor]
    ) -> tuple[list[Tensor], dict[str, Tensor], tuple[()]]:
        """Gradients for one replica's batch; changes nothing.

        Args:
            batch: dict with "image" [B,H,W,3] in [-1,1] and "label" [B] int32.

        Returns:
            (gradients, logs, ()).
        """
        with tf.GradientTape() as tape:
            logits = self.model(batch["image"], training=True)
            loss = losses.cross_entropy(logits, batch["label"])
        gradients = tape.gradient(loss, self.model.trainable_variables)
        accuracy = tf.reduce_mean(_hits(logits, batch["label"]))
        return gradients, {"cross_entropy": loss, "accuracy": accuracy}, ()

    def evaluate_batch(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Computes loss and hits of the averaged weights.

        Returns:
            dict of "cross_entropy" in nats and "accuracy", 0 or 1, each [B] float32.
        """
        logits = self.ema_model(batch["image"], training=False)
        nats = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
        return {"cross_entropy": nats, "accuracy": _hits(logits, batch["label"])}

    def summarize(self, results: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns the means of `evaluate_batch`'s results over all images."""
        return {name: float(np.mean(values)) for name, values in results.items()}


def _hits(logits: Tensor, labels: Tensor) -> Tensor:
    return tf.cast(tf.equal(tf.argmax(logits, -1, tf.int32), labels), tf.float32)
