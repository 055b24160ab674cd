import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf import losses
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.trainers.decoder_trainer import DecoderTrainer

IMAGES = np.random.default_rng(0).uniform(-1, 1, (8, 16, 16, 3)).astype("float32")
BATCH = {"image": tf.constant(IMAGES)}


@pytest.fixture(scope="module")
def tokenizer(tiny):
    keras.utils.set_random_seed(1)
    return ViTVQGAN(tiny("vit_vqgan", "model.output=rgb", "losses.logit_laplace=0").model, (16, 16))


@pytest.fixture
def make(tiny, tokenizer):
    def make(*overrides):
        keras.utils.set_random_seed(0)
        trainer = DecoderTrainer(tiny("decoder", *overrides), tokenizer)
        trainer.compile()
        return trainer

    return make


def frozen_bytes(model):
    weights = [*model.encoder.weights, *model.quantizer.weights]
    return [weight.numpy().tobytes() for weight in weights]


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_a_step_moves_the_decoder_and_not_a_byte_before_it(make, tokenizer, precision):
    """The config revives every second step and decays weights: neither may touch the codebook."""
    trainer = make(
        "optimizer.weight_decay=0.1",
        "losses.adversarial=0.1",
        f"training.precision={precision}",
        "optimizer.learning_rate=0.1",
    )
    assert tokenizer.config.quantizer.revive_every == 2
    before, decoders = frozen_bytes(tokenizer), []
    for _ in range(4):
        trainer.train_step(BATCH)
        for model in (trainer.model, trainer.ema_model):
            assert frozen_bytes(model) == before
            assert model.token_hash() == tokenizer.token_hash()
        decoders.append(trainer.ema_model.decoder_hash())
    assert len({tokenizer.decoder_hash(), *decoders}) == 5
    assert frozen_bytes(tokenizer) == before
    trained = list(map(id, trainer.model.trainable_variables))
    assert trained == list(map(id, trainer.model.decoder.trainable_variables))
    slots = len(trainer.optimizer.variables) - 1  # without the number of steps
    assert slots == 2 * len(trained)


def test_gradients_are_those_of_the_loss_of_decoded_perturbed_tokens(make, tokenizer):
    trainer = make("perturbation.share=1", "perturbation.nearest=1", "losses.l2=2")
    (gradients, of_discriminator, _), logs, extras = trainer.compute_gradients(BATCH)
    tokens = trainer.perturb.neighbours.numpy()[tokenizer.tokenize(IMAGES).numpy(), 0]
    with tf.GradientTape() as tape:
        decoded = trainer.model.decode_distribution(tokenizer.quantizer.lookup(tokens))[0]
        loss = 2 * tf.reduce_mean(losses.l2_loss(decoded, BATCH["image"]))
    expected = tape.gradient(loss, [v.value for v in trainer.model.decoder.trainable_variables])
    np.testing.assert_allclose(logs["total"], loss, rtol=1e-5)
    for found, wanted in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert of_discriminator == [] and extras == ()


def test_evaluation_decodes_the_tokens_as_they_are(make, tokenizer):
    results = make("perturbation.share=1").evaluate_batch(BATCH)
    errors = np.square((tokenizer(IMAGES).numpy() - IMAGES) / 2).mean((1, 2, 3))
    np.testing.assert_allclose(results["l2"], errors, rtol=1e-4)
    np.testing.assert_array_equal(results["token"], tokenizer.tokenize(IMAGES))


def test_two_replicas_agree_with_one(tiny, tokenizer, two_replicas):
    def train(strategy, batches):
        with strategy.scope():
            keras.utils.set_random_seed(0)
            copy = ViTVQGAN(tokenizer.config, tokenizer.image_size)
            copy.set_weights(tokenizer.get_weights())
            trainer = DecoderTrainer(tiny("decoder", "perturbation.share=0.5"), copy)
            trainer.compile()
        for _ in range(2):
            strategy.run(trainer.train_step, (batches,))
        return [np.asarray(weight) for weight in trainer.model.decoder.trainable_variables]

    one = train(tf.distribute.get_strategy(), BATCH)
    halves = two_replicas.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.split(IMAGES, 2)[context.replica_id_in_sync_group])
    )
    two = train(two_replicas, {"image": halves})
    pairs = zip(one, tokenizer.decoder.weights, strict=True)
    moved = max(np.abs(new - old.numpy()).max() for new, old in pairs)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3 * moved)
