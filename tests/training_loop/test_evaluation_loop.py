"""Evaluation while training: every row is measured once, for any number of replicas."""

import numpy as np
import pytest
import tensorflow as tf

from vim_tf.training_loop.evaluation_loop import EvaluationLoop


class Trainer:
    """For row i of the data, with label i, returns i and i times its weight."""

    def __init__(self):
        self.weight = tf.Variable(2.0)
        self.shares = []

    def evaluate_batch(self, batch):
        self.shares.append(batch["label"].shape[0])
        label = tf.cast(batch["label"], tf.float32)
        return {"label": label, "image": tf.reduce_sum(batch["image"], 1) * self.weight}

    def summarize(self, results):
        return results


@pytest.mark.parametrize("replicas", [1, 2])
def test_every_row_is_measured_once(replicas, two_replicas):
    """The last batch is short and odd."""
    strategy = two_replicas if replicas == 2 else tf.distribute.OneDeviceStrategy("CPU:0")
    labels = np.arange(11, dtype="int32")
    data = {"label": labels, "image": np.float32(labels)[:, None]}
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(4)
    with strategy.scope():
        trainer = Trainer()
    loop = EvaluationLoop(trainer, strategy, dataset)
    found = loop.evaluate(-1)
    np.testing.assert_array_equal(found["label"], labels)
    np.testing.assert_array_equal(found["image"], 2 * labels)
    assert set(trainer.shares) == ({4, 3} if replicas == 1 else {2})
    np.testing.assert_array_equal(loop.evaluate(np.int64(2))["label"], labels[:8])
