"""One training step of VIM (section 3.4 of https://arxiv.org/abs/2110.04627)."""

import numpy as np
import tensorflow as tf

from vim_tf import losses
from vim_tf.annotations import Tensor
from vim_tf.config.experiments import VIMExperiment
from vim_tf.models.seeded_dropout import row_bits
from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.trainers.trainer import Trainer

LABEL_DROP_SALT = 2**31  # far from the salts of the model's dropouts


class VIMTrainer(Trainer):
    """Trains VIM on tokens, or on images that a frozen tokenizer turns into tokens.

    Args:
        experiment: the configuration.
        tokenizer: the frozen tokenizer.
        classes: number of classes; 0 without labels.
    """

    experiment: VIMExperiment
    judged_by = ("nats", -1)

    def __init__(self, experiment: VIMExperiment, tokenizer: ViTVQGAN, classes: int) -> None:
        codes = tokenizer.config.quantizer.codes
        if not experiment.model.conditional:
            classes = 0

        def make_model() -> VIM:
            return VIM(experiment.model, tokenizer.grid, codes, classes)

        super().__init__(
            experiment,
            make_model,
            ("nats", "accuracy", "gradient_norm"),
            ("nats", "accuracy"),
        )
        self.classes = classes
        # Of `metrics.unigram_baseline`; set where all tokens are known.
        self.unigram_nats: float | None = None
        self.tokenizer = tokenizer
        tokenizer.trainable = False

    def _tokens_and_labels(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        tokens = batch["token"] if "token" in batch else self.tokenizer.tokenize(batch["image"])
        labels = batch["label"] if self.classes else tf.zeros_like(batch["label"])
        return tokens, labels  # without classes, 0 is the null label

    def _drop_labels(self, labels: Tensor) -> Tensor:
        """Replaces a share of the labels by the null label; the rows' keys decide which ones."""
        bits = row_bits(None, LABEL_DROP_SALT, tf.range(1))[:, 0]
        draws = tf.cast(tf.bitwise.right_shift(bits, 8), tf.float32) / 2**24  # exact, below 1
        return tf.where(draws < self.experiment.model.label_drop, self.classes, labels)

    def gradients_of(
        self, batch: dict[str, Tensor]
    ) -> tuple[list[Tensor], dict[str, Tensor], tuple[()]]:
        """Gradients for one replica's batch; changes nothing.

        Args:
            batch: dict with "label" [B] int32 and "token" [B,N] int32 or "image" [B,H,W,3].

        Returns:
            (gradients, logs, ()).
        """
        tokens, labels = self._tokens_and_labels(batch)
        with tf.GradientTape() as tape:
            logits = self.model(tokens, self._drop_labels(labels), training=True)
            nats = losses.cross_entropy(logits, tokens)
        gradients = tape.gradient(nats, self.model.trainable_variables)
        return gradients, {"nats": nats, "accuracy": _accuracy(logits, tokens)}, ()

    def evaluate_batch(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Computes loss and accuracy of the averaged weights for the given labels.

        Returns:
            dict of "nats", the mean over tokens, and "accuracy", each [B] float32.
        """
        tokens, labels = self._tokens_and_labels(batch)
        logits = self.ema_model(tokens, labels)
        nats = tf.nn.sparse_softmax_cross_entropy_with_logits(tokens, logits)  # [B,N]
        hits = tf.equal(tf.argmax(logits, -1, tf.int32), tokens)
        return {
            "nats": tf.reduce_mean(nats, -1),
            "accuracy": tf.reduce_mean(tf.cast(hits, tf.float32), -1),
        }

    def summarize(self, results: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns the means of `evaluate_batch`'s results over all images.

        `below_unigram` is the nats per token of a unigram model of each position, minus VIM's.
        It is there only if the former is known.
        """
        means = {name: float(np.mean(values)) for name, values in results.items()}
        if self.unigram_nats is not None:
            means["below_unigram"] = self.unigram_nats - means["nats"]
        return means


def _accuracy(logits: Tensor, tokens: Tensor) -> Tensor:
    hits = tf.equal(tf.argmax(logits, -1, tf.int32), tokens)
    return tf.reduce_mean(tf.cast(hits, tf.float32))
