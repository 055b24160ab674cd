"""Measures the codebook's use during training, and revives codes that no latent chooses."""

import math

import keras
import tensorflow as tf

from vim_tf.annotations import Tensor
from vim_tf.distribution.replicas import assign_everywhere
from vim_tf.models.quantizer import QuantizerOutput, VectorQuantizer


class CodebookUsage(keras.metrics.Metric):
    """Counts how often each code was chosen since the last reset, over all replicas.

    `result()` is a dict: `usage`, the share of codes chosen at least once; `perplexity`, the
    exponential of the choices' entropy (K if all codes are equally frequent); `dead_codes`.

    Args:
        codes: size K of the codebook.
    """

    def __init__(self, codes: int, name: str = "codebook") -> None:
        super().__init__(name=name)
        self.counts = self.add_weight(shape=(codes,), initializer="zeros", name="counts")

    def update_state(self, tokens: Tensor) -> None:
        """Counts tokens of any shape, int32."""
        counts = tf.math.bincount(tf.reshape(tokens, [-1]), minlength=self.counts.shape[0])
        self.counts.assign_add(tf.cast(counts, self.counts.dtype))

    def result(self) -> dict[str, Tensor]:
        """Returns usage, perplexity and dead codes as scalars."""
        counts = tf.convert_to_tensor(self.counts)
        hit = tf.cast(counts > 0, tf.float32)
        share = tf.math.divide_no_nan(counts, tf.reduce_sum(counts))
        return {
            "usage": tf.reduce_mean(hit),
            "perplexity": tf.exp(-tf.reduce_sum(tf.math.xlogy(share, share))),
            "dead_codes": tf.reduce_sum(1 - hit),
        }


def mean_angle(codebook: Tensor, initial: Tensor) -> Tensor:
    """Mean angle in degrees between each code [K,d] and its first value; shows if codes move."""
    cosine = tf.reduce_sum(tf.linalg.l2_normalize(codebook, -1) * initial, -1)
    return tf.reduce_mean(tf.acos(tf.clip_by_value(cosine, -1.0, 1.0))) * (180 / math.pi)


class CodebookRevival:
    """Moves codes that were hardly chosen onto latents, every `revive_every` steps.

    A code is dead if it was chosen less than `revive_below` times as often as an even use of the
    codebook would choose it, counted over all replicas since the last revival. It moves onto a
    latent of the current global batch, drawn at random, with the codebook's mean length. Its
    optimizer slots are zeroed. Its moving average starts there too: an average of the old and the
    new place would be a code that no latent chooses. Every replica computes the same.

    Args:
        quantizer: the `VectorQuantizer`.
        averaged: the variable [K,d] that holds the codebook's moving average.
        optimizer: the built optimizer; its slots hold the codebook's moments.
        seed: of the random draws, any integer.
    """

    def __init__(
        self,
        quantizer: VectorQuantizer,
        averaged: keras.Variable,
        optimizer: keras.optimizers.Optimizer,
        seed: int,
    ) -> None:
        self.quantizer = quantizer
        self.averaged = averaged
        self.seed = seed
        codes = quantizer.config.codes
        self.hits = tf.Variable(tf.zeros([codes]), trainable=False)
        self.slots = [
            variable
            for variable in optimizer.variables
            if quantizer.codebook.path.replace("/", "_") in variable.path
        ]

    def __call__(self, step: Tensor, output: QuantizerOutput) -> None:
        """Counts the tokens of one step, and revives codes when a revival is due.

        Args:
            step: int64 scalar, the number of this step.
            output: the replica's `QuantizerOutput`.
        """
        config = self.quantizer.config
        latents = tf.reshape(output.latents, [-1, config.code_dim])  # [M,d]
        counts = tf.math.bincount(tf.reshape(output.tokens, [-1]), minlength=config.codes)
        counts = tf.cast(counts, tf.float32)
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync > 1:
            counts = context.all_reduce(tf.distribute.ReduceOp.SUM, counts)
            latents = context.all_gather(latents, axis=0)
        hits = self.hits + counts
        due = tf.equal((step + 1) % config.revive_every, 0)
        dead = hits < config.revive_below * tf.reduce_sum(hits) / config.codes
        revived = due & dead  # [K]
        codebook = tf.convert_to_tensor(self.quantizer.codebook)
        draws = tf.random.stateless_uniform(
            [config.codes],
            [self.seed % 2**63, tf.cast(step, tf.int64)],
            minval=0,
            maxval=tf.shape(latents)[0],
            dtype=tf.int32,
        )
        length = tf.reduce_mean(tf.norm(codebook, axis=-1))
        fresh = tf.linalg.l2_normalize(tf.gather(latents, draws), -1) * length
        # Masked, not inside a tf.cond: assigning there fails under MirroredStrategy.
        kept = tf.cast(~revived, tf.float32)[:, None]
        assign_everywhere(
            [self.quantizer.codebook, self.averaged, self.hits, *self.slots],
            [
                tf.where(revived[:, None], fresh, codebook),
                tf.where(revived[:, None], fresh, tf.convert_to_tensor(self.averaged)),
                tf.where(due, tf.zeros_like(hits), hits),
                *(kept * tf.convert_to_tensor(slot) for slot in self.slots),
            ],
        )
