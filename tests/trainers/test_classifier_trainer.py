import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf.trainers.classifier_trainer import ClassifierTrainer

RANDOM = np.random.default_rng(0)
BATCH = {
    "image": tf.constant(RANDOM.uniform(-1, 1, (8, 16, 16, 3)), tf.float32),
    "label": tf.constant([0, 1] * 4),
}


@pytest.fixture
def make(tiny):
    def make(*overrides, classes=2):
        keras.utils.set_random_seed(0)
        trainer = ClassifierTrainer(tiny("classifier", *overrides), classes)
        trainer.compile()
        return trainer

    return make


def cross_entropy(logits, labels):
    logits = np.asarray(logits, "float64")
    log_shares = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -log_shares[np.arange(len(labels)), labels]


def test_loss_equals_numpy_cross_entropy(make):
    trainer = make("model.dropout=0")
    gradients, logs, _ = trainer.compute_gradients(BATCH)
    logits, labels = trainer.model(BATCH["image"]), BATCH["label"].numpy()
    np.testing.assert_allclose(
        logs["cross_entropy"], cross_entropy(logits, labels).mean(), rtol=1e-5
    )
    assert logs["accuracy"] == np.mean(np.argmax(logits, -1) == labels)
    assert all(gradient is not None for gradient in gradients)


def test_evaluation_is_that_of_the_averaged_weights(make):
    trainer = make()  # dropout is on in training, and off here
    for weight in trainer.model.trainable_variables:
        weight.assign(weight + 1)
    results = trainer.evaluate_batch(BATCH)
    logits, labels = trainer.ema_model(BATCH["image"]), BATCH["label"].numpy()
    np.testing.assert_allclose(results["cross_entropy"], cross_entropy(logits, labels), rtol=1e-5)
    np.testing.assert_array_equal(results["accuracy"], np.argmax(logits, -1) == labels)
    assert trainer.summarize({"accuracy": np.array([1.0, 0.0])}) == {"accuracy": 0.5}


def test_keras_fit_learns_two_colours(make):
    """Images are more red than blue, or more blue than red."""
    labels = RANDOM.integers(0, 2, 256).astype("int32")
    images = RANDOM.uniform(-0.5, 0.5, (256, 16, 16, 3)).astype("float32")
    images[..., 0] += np.where(labels == 1, 0.3, -0.3)[:, None, None]
    data = tf.data.Dataset.from_tensor_slices({"image": images, "label": labels})
    trainer = make("training.steps=40", "training.ema_decay=0.9", "optimizer.learning_rate=1e-2")
    history = trainer.fit(
        data.repeat().batch(32, drop_remainder=True),
        steps_per_epoch=20,
        epochs=2,
        shuffle=False,
        verbose=0,
        validation_data=data.batch(64),
    ).history
    assert history["val_accuracy"][-1] > 0.95
    assert history["cross_entropy"][-1] < history["cross_entropy"][0]
