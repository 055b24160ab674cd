"""One training step of VIM (section 3.4 of https://arxiv.org/abs/2110.04627)."""

import numpy as np
import tensorflow as tf

from vim_tf import losses
from vim_tf.models.seeded_dropout import row_bits
from vim_tf.models.vim import VIM
from vim_tf.trainers.trainer import Trainer

LABEL_DROP_SALT = 2**31  # far from those of the model's dropouts


class VIMTrainer(Trainer):
    """Trains VIM on tokens, or on images that a frozen tokenizer turns into tokens.

    Args:
        experiment: `VIMExperiment`.
        tokenizer: the `ViTVQGAN`.
        classes: number of classes; 0 without labels.
    """

    judged_by = ("nats", -1)

    def __init__(self, experiment, tokenizer, classes):
        codes = tokenizer.config.quantizer.codes
        if not experiment.model.conditional:
            classes = 0

        def make_model():
            return VIM(experiment.model, tokenizer.grid, codes, classes)

        super().__init__(
            experiment,
            make_model,
            ("nats", "accuracy", "gradient_norm"),
            ("nats", "accuracy"),
        )
        self.classes = classes
        self.unigram_nats = None  # of `evaluation.unigram`, set where all tokens are known
        self.tokenizer = tokenizer
        tokenizer.trainable = False

    def _tokens_and_labels(self, batch):
        tokens = batch["token"] if "token" in batch else self.tokenizer.tokenize(batch["image"])
        labels = batch["label"] if self.classes else tf.zeros_like(batch["label"])
        return tokens, labels  # without classes the null label is 0

    def _drop_labels(self, labels):
        """Replaces a share of the labels by the null label; which ones, the rows' keys say."""
        bits = row_bits(None, LABEL_DROP_SALT, tf.range(1))[:, 0]
        draws = tf.cast(tf.bitwise.right_shift(bits, 8), tf.float32) / 2**24  # exact, below 1
        return tf.where(draws < self.experiment.model.label_drop, self.classes, labels)

    def gradients_of(self, batch):
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

    def evaluate_batch(self, batch):
        """Loss of the averaged weights on given labels.

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

    def summarize(self, results):
        """Means over all images of `evaluate_batch`'s results.

        `below_unigram` is how many nats a token they are better than the unigram model of each
        position, where that is known.
        """
        means = {name: float(np.mean(values)) for name, values in results.items()}
        if self.unigram_nats is not None:
            means["below_unigram"] = self.unigram_nats - means["nats"]
        return means


def _accuracy(logits, tokens):
    hits = tf.equal(tf.argmax(logits, -1, tf.int32), tokens)
    return tf.reduce_mean(tf.cast(hits, tf.float32))
