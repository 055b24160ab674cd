import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf.models.seeded_dropout import row_keys
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.trainers.vim_trainer import VIMTrainer

TOKENS = np.random.default_rng(0).integers(0, 16, (8, 16)).astype("int32")
LABELS = np.int32([0, 1] * 4)


@pytest.fixture(scope="module")
def tokenizer(tiny):
    keras.utils.set_random_seed(1)
    return ViTVQGAN(tiny("vit_vqgan").model, (16, 16))


@pytest.fixture
def make(tiny, tokenizer):
    def make(*overrides, classes=2):
        keras.utils.set_random_seed(0)
        trainer = VIMTrainer(tiny("vim", *overrides), tokenizer, classes)
        trainer.compile()
        return trainer

    return make


def cross_entropy(logits, tokens):
    """The cross-entropy of each token, [B,N]."""
    logits = np.asarray(logits, "float64")
    log_shares = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.take_along_axis(log_shares, tokens[..., None], -1)[..., 0]


BATCH = {"token": tf.constant(TOKENS), "label": tf.constant(LABELS)}
NO_DROPOUT = ("model.transformer.dropout=0", "model.label_drop=0")


def test_loss_equals_numpy_cross_entropy(make):
    trainer = make(*NO_DROPOUT)
    gradients, logs, _ = trainer.compute_gradients(BATCH)
    logits = trainer.model(TOKENS, LABELS)
    np.testing.assert_allclose(logs["nats"], cross_entropy(logits, TOKENS).mean(), rtol=1e-5)
    assert logs["accuracy"] == np.mean(np.argmax(logits, -1) == TOKENS)
    assert len(gradients) == len(trainer.model.trainable_variables)
    assert all(gradient is not None for gradient in gradients)


def test_evaluation_is_that_of_the_averaged_weights_with_the_given_labels(make):
    trainer = make()  # dropout and label drop are on in training, and off here
    for weight in trainer.model.trainable_variables:
        weight.assign(weight + 1)
    results = trainer.evaluate_batch(BATCH)
    logits = trainer.ema_model(TOKENS, LABELS)
    nats = cross_entropy(logits, TOKENS).mean(1)
    hits = (np.argmax(logits, -1) == TOKENS).mean(1)
    np.testing.assert_allclose(results["nats"], nats, rtol=1e-5)
    np.testing.assert_allclose(results["accuracy"], hits, rtol=1e-6)
    summary = trainer.summarize({name: np.asarray(value) for name, value in results.items()})
    np.testing.assert_allclose([summary["nats"], summary["accuracy"]], [nats.mean(), hits.mean()])
    assert "below_unigram" not in summary  # the unigram model is not known here
    trainer.unigram_nats = 3.0
    summary = trainer.summarize({name: np.asarray(value) for name, value in results.items()})
    np.testing.assert_allclose(summary["below_unigram"], 3.0 - nats.mean(), rtol=1e-5)
    trainer.unigram_nats = None


def test_images_give_what_their_tokens_give(make, tokenizer):
    trainer = make(*NO_DROPOUT)
    images = np.random.default_rng(1).uniform(-1, 1, (8, 16, 16, 3)).astype("float32")
    tokens = np.asarray(tokenizer.tokenize(images))
    assert len(np.unique(tokens)) > 1
    online = trainer.compute_gradients({"image": tf.constant(images), "label": LABELS})
    cached = trainer.compute_gradients({"token": tf.constant(tokens), "label": LABELS})
    assert online[1]["nats"] == cached[1]["nats"]
    before = [weight.numpy() for weight in tokenizer.weights]
    tf.function(trainer.train_step)({"image": tf.constant(images), "label": tf.constant(LABELS)})
    for old, weight in zip(before, tokenizer.weights, strict=True):
        np.testing.assert_array_equal(old, weight)


def test_a_step_moves_every_weight(make):
    trainer = make("optimizer.warmup_steps=0")
    before = [v.numpy() for v in (*trainer.model.trainable_variables, *trainer.ema_model.weights)]
    step = tf.function(trainer.train_step)
    for _ in range(2):
        logs = step(BATCH)
    assert all(np.isfinite(value) for value in logs.values())
    assert int(trainer.step) == 2
    after = (*trainer.model.trainable_variables, *trainer.ema_model.weights)
    for old, variable in zip(before, after, strict=True):
        if "seed" not in variable.path:
            assert np.any(old != variable.numpy()), variable.path


def drop_labels(trainer, labels):
    """The labels that the model gets, in replica context."""
    with row_keys(trainer._row_keys(len(labels))):
        return trainer._drop_labels(tf.constant(labels))


def dropped(trainer, step, labels):
    trainer.optimizer.iterations.assign(step)
    return drop_labels(trainer, labels).numpy()


def test_labels_are_dropped_to_the_null_label_by_step(make):
    trainer = make("model.label_drop=0.3", "seed=-5000000000", classes=5)
    labels = np.arange(2000, dtype="int32") % 5
    first, again, second = (dropped(trainer, step, labels) for step in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != second)
    for result in (first, second):
        np.testing.assert_array_equal(result[result != 5], labels[result != 5])
        # 4 standard deviations of a binomial share
        assert abs(np.mean(result == 5) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 2000)
    np.testing.assert_array_equal(dropped(make("model.label_drop=0"), 7, labels % 2), labels % 2)
    np.testing.assert_array_equal(dropped(make("model.label_drop=1"), 7, labels % 2), 2)


def test_replicas_drop_what_one_would_drop(make, two_replicas):
    trainer = make("model.label_drop=0.5")
    labels = np.zeros(16, "int32")
    halves = two_replicas.experimental_distribute_values_from_function(
        lambda context: tf.constant(labels[8 * context.replica_id_in_sync_group :][:8])
    )
    parts = two_replicas.run(lambda half: drop_labels(trainer, half), (halves,))
    together = np.concatenate(two_replicas.experimental_local_results(parts))
    np.testing.assert_array_equal(together, dropped(trainer, 0, labels))


def test_batches_may_have_any_size(make):
    """Users of Keras batch without drop_remainder, so the graph is built with unknown size."""
    trainer = make(*NO_DROPOUT)
    signature = {
        "token": tf.TensorSpec((None, 16), tf.int32),
        "label": tf.TensorSpec((None,), tf.int32),
    }
    compute = tf.function(
        lambda batch: trainer.compute_gradients(batch)[1], [signature], autograph=False
    )
    for rows in (8, 3):
        batch = {name: value[:rows] for name, value in BATCH.items()}
        expected = cross_entropy(trainer.model(TOKENS[:rows], LABELS[:rows]), TOKENS[:rows])
        np.testing.assert_allclose(compute(batch)["nats"], expected.mean(), rtol=1e-5)


def test_unconditional_training_does_not_look_at_labels(make):
    trainer = make("model.conditional=false", *NO_DROPOUT)
    assert trainer.model.classes == 0
    nats = [
        float(trainer.compute_gradients({"token": tf.constant(TOKENS), "label": labels})[1]["nats"])
        for labels in (LABELS, 1 - LABELS)
    ]
    assert nats[0] == nats[1]
    logits = trainer.model(TOKENS)
    np.testing.assert_allclose(nats[0], cross_entropy(logits, TOKENS).mean(), rtol=1e-5)
