"""The linear probe's head that is trained in batches: for more features than fit into memory.

It follows the protocol of MAE (arXiv 2111.06377, appendix A.1), which most later linear probes use.
The features were computed once, so there is no augmentation.
"""

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from vim_tf import losses
from vim_tf.annotations import Tensor
from vim_tf.config.sections import SGDHeadConfig
from vim_tf.data.hashing import shuffle_index
from vim_tf.distribution.replicas import share_batches
from vim_tf.errors import UserError
from vim_tf.linear_probe.lars import LARS
from vim_tf.metrics.feature_checks import check_features
from vim_tf.trainers.gradients import apply_gradients
from vim_tf.trainers.schedules import WarmupDecay

MOMENTUM = 0.9
ROWS = 4096  # rows that are read at once if their order does not matter


def train_head(
    features: np.ndarray, labels: np.ndarray, classes: int, config: SGDHeadConfig, seed: int
) -> keras.Model:
    """Trains a batch norm without scale and offset, and a linear layer, on frozen features.

    An epoch has as many whole batches as the features fill. Their order is a function of seed and
    epoch, so each epoch leaves out other rows. At most one batch, or `ROWS` rows, are read at once.
    The norm trains with each batch's statistics. At the end it gets the exact statistics of all
    features, because running means are far off after few steps.

    The replicas of the strategy in scope share the rows of each batch, and the norm uses the
    statistics of the whole batch. So the head is the same as with one replica. A worker reads only
    its own share.

    LARS at the literature's rate needs thousands of steps, as on ImageNet: each step changes the
    weights in proportion to their norm, and on little data they stay near their initial values. Use
    "sgd" there.

    Args:
        features: [M,D] float16 or float32, an array or a memmap.
        labels: [M] integers from 0 to classes - 1.
        classes: number of classes K.
        config: `SGDHeadConfig`. A batch larger than M is reduced to the largest multiple of the
            number of replicas that is at most M. The learning rate is for 256 images: it is scaled
            with the batch, grows linearly during the warm-up, and falls to 0 along a cosine.
        seed: any integer; the same seed gives the same weights.

    Returns:
        keras.Model: [B,D] float32 -> logits [B,K] float32.

    Raises:
        ValueError: the shapes do not match.
        UserError: a feature is NaN or infinite, a label is no class, or the batch is not divisible
            by the number of replicas.
    """
    count, dim = features.shape
    labels = _check_labels(labels, count, classes)
    mean, variance = _statistics(features)
    strategy = tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    batch = _batch_size(config.batch_size, count, replicas)
    steps = count // batch
    rate = WarmupDecay(
        peak=config.learning_rate * batch / 256,
        steps=steps * config.epochs,
        warmup_steps=steps * config.warmup_epochs,
        decay_start=0,
        final_ratio=0.0,
        kind="cosine",
    )
    optimizer = {
        "lars": lambda: LARS(rate, MOMENTUM),
        "sgd": lambda: keras.optimizers.SGD(rate, MOMENTUM),
    }[config.optimizer]()
    norm = keras.layers.BatchNormalization(
        center=False, scale=False, epsilon=1e-6, synchronized=replicas > 1
    )
    # Small but not zero, because LARS' steps are proportional to the weights.
    first = keras.initializers.TruncatedNormal(stddev=0.01, seed=seed % 2**32)
    linear = keras.layers.Dense(classes, kernel_initializer=first)
    head = keras.Sequential([keras.Input((dim,)), norm, linear], name="head")
    optimizer.build(head.trainable_variables)

    def make_batches(worker: int, workers: int) -> tf.data.Dataset:
        share = batch // workers
        mine = slice(worker * share, (worker + 1) * share)

        def read() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for rows in _rows_of_batches(count, batch, config.epochs, seed):
                # The norm subtracts a batch's mean anyway. But over replicas it computes means of
                # squares, and with a large mean these would lose the digits of a small variance.
                yield (features[rows[mine]] - mean).astype("float32"), labels[rows[mine]]

        shapes = tf.TensorSpec([share, dim], tf.float32), tf.TensorSpec([share], tf.int32)
        return tf.data.Dataset.from_generator(read, output_signature=shapes)

    def step(features: Tensor, labels: Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = losses.cross_entropy(head(features, training=True), labels)
        gradients = tape.gradient(loss, head.trainable_variables)
        apply_gradients(optimizer, gradients, head.trainable_variables, clip_norm=0)

    @tf.function
    def epoch(batches: Iterator[Tensor]) -> None:
        for _ in tf.range(steps):
            strategy.run(step, next(batches))

    batches = iter(share_batches(strategy, make_batches, batch))
    for _ in range(config.epochs):
        epoch(batches)
    norm.moving_mean.assign(mean)
    norm.moving_variance.assign(variance)
    return head


def predict(head: keras.Model, features: np.ndarray) -> np.ndarray:
    """Returns the most likely class [M] int64 of each row of features [M,D]; reads them in blocks.

    Args:
        head: the result of `train_head`.
        features: [M,D] float16 or float32, an array or a memmap.
    """
    return np.concatenate(
        [np.argmax(head(block, training=False), axis=-1) for block in _blocks(features)]
    )


def _batch_size(wanted: int, count: int, replicas: int) -> int:
    if count < replicas:
        raise UserError(
            f"{count} images to fit the probe on, replicas: {replicas}; leave strategy out"
        )
    if wanted % replicas:
        raise UserError(
            f"sgd.batch_size is {wanted}, replicas: {replicas}; the batch size must be a multiple "
            f"of {replicas}"
        )
    return min(wanted, count - count % replicas)


def _check_labels(labels: np.ndarray, count: int, classes: int) -> np.ndarray:
    """Returns the labels as int32."""
    labels = np.asarray(labels)
    if labels.shape != (count,):
        raise ValueError(f"labels have the shape {labels.shape}; it must be [{count}]")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise UserError(
            f"image {wrong[0]} of the probe (counted from 0) has the label {labels[wrong[0]]}; "
            f"with {classes} classes it must be from 0 to {classes - 1}: look at the data's labels"
        )
    return labels.astype("int32")


def _blocks(features: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(features), ROWS):
        yield np.asarray(features[start : start + ROWS], "float32")


def _statistics(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each column, [D] float64; UserError for NaN or infinite features."""
    total, square = np.zeros((2, features.shape[1]))
    for index, block in enumerate(_blocks(features)):
        block = check_features(block, features.shape[1], index * ROWS).astype("float64")
        if index == 0:
            # Subtracted first; with a large mean, squares lose the digits of a small variance.
            origin = block.mean(axis=0)
        total += (block - origin).sum(axis=0)
        square += np.square(block - origin).sum(axis=0)
    offset = total / len(features)
    return origin + offset, square / len(features) - offset**2


def _rows_of_batches(count: int, batch: int, epochs: int, seed: int) -> Iterator[np.ndarray]:
    """Yields the rows [batch] int64 of each batch of all epochs."""
    for epoch in range(epochs):
        epoch_of_places = tf.fill([count], tf.constant(epoch, tf.int64))
        order = shuffle_index(tf.range(count, dtype=tf.int64), count, seed, epoch_of_places).numpy()
        for start in range(0, count - batch + 1, batch):
            # In the order of the file, which is faster to read; a step ignores the order.
            yield np.sort(order[start : start + batch])
