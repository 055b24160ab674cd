"""The linear probe's head that is trained in batches: for more features than fit into memory.

The protocol of MAE (arXiv 2111.06377, appendix A.1), which is that of most linear probes since, on
features that were computed once: without augmentation.
"""

import keras
import numpy as np
import tensorflow as tf

from vim_tf import losses
from vim_tf.data.hashing import shuffle_index
from vim_tf.distribution.replicas import share_batches
from vim_tf.errors import UserError
from vim_tf.linear_probe.lars import LARS
from vim_tf.metrics.feature_checks import check_features
from vim_tf.trainers.gradients import apply_gradients
from vim_tf.trainers.schedules import WarmupDecay

MOMENTUM = 0.9
ROWS = 4096  # read at a time where the order does not matter


def train_head(features, labels, classes, config, seed):
    """Trains a batch norm without scale and offset and a linear layer on frozen features.

    An epoch has as many whole batches as the features fill, in an order that is a function of seed
    and epoch; the rows left over are other ones in each epoch. No more than one batch, or `ROWS`
    rows, is read at a time. The norm trains with each batch's statistics and is left with the exact
    ones of all features, not with running means, which are far off after few steps.

    The replicas of the strategy in scope share the rows of each batch, and the norm's statistics
    are those of all of them: the same head as on one. A worker reads its own share.

    LARS at the literature's rate needs thousands of steps, as ImageNet gives it: each step changes
    the weights by a share of themselves, and on little data they stay near their start. Take "sgd"
    there.

    Args:
        features: [M,D] float16 or float32, an array or a memmap.
        labels: [M] integers from 0 to classes - 1.
        classes: number of classes K.
        config: `SGDHeadConfig`. A batch larger than M is cut to M, or to what the replicas can
            share of it. The learning rate of 256
            images is scaled with the batch, grows linearly over the warm-up's epochs, and falls
            to 0 along a cosine.
        seed: any integer; with it the weights are the same again.

    Returns:
        keras.Model: [B,D] float32 -> logits [B,K] float32.

    Raises:
        ValueError: the shapes do not fit.
        UserError: a feature is NaN or infinite, a label is no class, or the batch does not divide
            among the replicas.
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
    # Small but not zero: LARS' steps are in proportion to the weights.
    first = keras.initializers.TruncatedNormal(stddev=0.01, seed=seed % 2**32)
    linear = keras.layers.Dense(classes, kernel_initializer=first)
    head = keras.Sequential([keras.Input((dim,)), norm, linear], name="head")
    optimizer.build(head.trainable_variables)

    def make_batches(worker, workers):
        share = batch // workers
        mine = slice(worker * share, (worker + 1) * share)

        def read():
            for rows in _rows_of_batches(count, batch, config.epochs, seed):
                # The norm takes a batch's mean off anyway. But its statistics over replicas are of
                # squares, in which a large mean would drown a small variance.
                yield (features[rows[mine]] - mean).astype("float32"), labels[rows[mine]]

        shapes = tf.TensorSpec([share, dim], tf.float32), tf.TensorSpec([share], tf.int32)
        return tf.data.Dataset.from_generator(read, output_signature=shapes)

    def step(features, labels):
        with tf.GradientTape() as tape:
            loss = losses.cross_entropy(head(features, training=True), labels)
        gradients = tape.gradient(loss, head.trainable_variables)
        apply_gradients(optimizer, gradients, head.trainable_variables, clip_norm=0)

    @tf.function
    def epoch(batches):
        for _ in tf.range(steps):
            strategy.run(step, next(batches))

    batches = iter(share_batches(strategy, make_batches, batch))
    for _ in range(config.epochs):
        epoch(batches)
    norm.moving_mean.assign(mean)
    norm.moving_variance.assign(variance)
    return head


def predict(head, features):
    """Returns the most likely class [M] int64 of each row of features [M,D]; reads them in blocks.

    Args:
        head: what `train_head` returned.
        features: [M,D] float16 or float32, an array or a memmap.
    """
    return np.concatenate(
        [np.argmax(head(block, training=False), axis=-1) for block in _blocks(features)]
    )


def _batch_size(wanted, count, replicas):
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


def _check_labels(labels, count, classes):
    """Labels as int32."""
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


def _blocks(features):
    for start in range(0, len(features), ROWS):
        yield np.asarray(features[start : start + ROWS], "float32")


def _statistics(features):
    """Mean and variance of each column, [D] float64; refuses features that are not finite."""
    total = square = 0.0
    for index, block in enumerate(_blocks(features)):
        block = check_features(block, features.shape[1], index * ROWS).astype("float64")
        if index == 0:
            # About this, or the squares of a large mean would drown a small variance.
            origin = block.mean(axis=0)
        total += (block - origin).sum(axis=0)
        square += np.square(block - origin).sum(axis=0)
    offset = total / len(features)
    return origin + offset, square / len(features) - offset**2


def _rows_of_batches(count, batch, epochs, seed):
    """Yields the rows [batch] int64 of each batch of all epochs."""
    for epoch in range(epochs):
        epoch_of_places = tf.fill([count], tf.constant(epoch, tf.int64))
        order = shuffle_index(tf.range(count, dtype=tf.int64), count, seed, epoch_of_places).numpy()
        for start in range(0, count - batch + 1, batch):
            # In the order of the file, which is faster to read; a step does not see the order.
            yield np.sort(order[start : start + batch])
