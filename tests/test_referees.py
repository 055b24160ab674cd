"""Compares our figures with those of TF-GAN, tensorflow-addons and torch-fidelity.

These run in a separate environment, see the fixture `ask`: `make test-referees`.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf import losses
from vim_tf.config.sections import OptimizerConfig
from vim_tf.metrics.fid import FeatureStatistics, frechet_distance
from vim_tf.metrics.inception_score import InceptionScore
from vim_tf.metrics.kid import draw_subsets, kid
from vim_tf.metrics.precision_recall import precision_recall
from vim_tf.trainers.ema import ExponentialMovingAverage
from vim_tf.trainers.optimizers import make_optimizer
from vim_tf.trainers.schedules import learning_rate_schedule

SUBSETS, SUBSET_SIZE, SEED = 4, 150, 11

pytestmark = pytest.mark.large


# Metrics ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def features():
    """Correlated features, as after a ReLU. Those of samples are shifted."""
    random = np.random.default_rng(0)
    mixing = random.normal(size=(40, 64))

    def make(rows, shift):
        return np.maximum(random.normal(size=(rows, 40)) @ mixing / 6 + shift, 0).astype("float32")

    return {
        "reference": make(900, 0.5),
        "samples": make(700, 0.7),
        "logits": (3 * random.normal(size=(620, 20))).astype("float32"),
        "subsets": SUBSETS,
        "subset_size": SUBSET_SIZE,
        "seed": SEED,
        "splits": 10,
    }


@pytest.fixture(scope="module")
def critic():
    """Logits of a discriminator, images, and weights of a small critic for them."""
    random = np.random.default_rng(1)
    return {
        "real_logits": (3 * random.normal(size=50)).astype("float32"),
        "fake_logits": (3 * random.normal(size=50)).astype("float32"),
        "images": random.uniform(-1, 1, (6, 4, 5, 3)).astype("float32"),
        "critic": random.normal(size=(60, 7)).astype("float32"),
    }


@pytest.fixture(scope="module")
def tensorflow_gan(ask, features, critic):
    drawn = draw_subsets(700, 900, SUBSETS, SUBSET_SIZE, SEED)
    samples, reference = (np.concatenate(rows) for rows in zip(*drawn, strict=True))
    blocks = {
        "kid_samples": features["samples"][samples],
        "kid_reference": features["reference"][reference],
    }
    return ask("tensorflow_gan_figures.py", features | critic | blocks)


@pytest.fixture(scope="module")
def torch_fidelity(ask, features):
    return ask("torch_fidelity_metrics.py", features)


def our_fid(features):
    both = []
    for name in ("samples", "reference"):
        both.append(FeatureStatistics(64))
        for batch in np.array_split(features[name], 7):
            both[-1].update(batch)
    return frechet_distance(*both)


def our_kid(features):
    return kid(features["samples"], features["reference"], SUBSETS, SUBSET_SIZE, SEED)


def our_inception_score(features, splits):
    with InceptionScore(20, splits, from_logits=True) as score:
        score.update(features["logits"])
        return score.result()


def test_metrics_equal_tensorflow_gans(features, tensorflow_gan):
    assert our_fid(features) == pytest.approx(tensorflow_gan["fid"], rel=1e-5)
    mean, deviation = our_kid(features)
    assert mean == pytest.approx(tensorflow_gan["kid"], rel=1e-5)
    # Theirs is the standard error of the mean, with a divisor of `subsets` - 1.
    error = deviation / np.sqrt(SUBSETS - 1)
    assert error == pytest.approx(tensorflow_gan["kid_standard_error"], rel=1e-5)
    score = our_inception_score(features, splits=1)
    assert score == pytest.approx((tensorflow_gan["inception_score"], 0), rel=1e-5)


def test_metrics_equal_torch_fidelitys(features, torch_fidelity):
    assert our_fid(features) == pytest.approx(
        torch_fidelity["frechet_inception_distance"], rel=1e-5
    )
    for figures, names in (
        (our_kid(features), "kernel_inception_distance"),
        (our_inception_score(features, splits=10), "inception_score"),
    ):
        theirs = [torch_fidelity[f"{names}_{part}"] for part in ("mean", "std")]
        assert figures == pytest.approx(theirs, rel=1e-5), names
    figures = precision_recall(features["reference"], features["samples"])
    assert figures == pytest.approx(
        (torch_fidelity["precision"], torch_fidelity["recall"]), abs=1e-6
    )
    assert 0.1 < min(figures) < max(figures) < 0.99


# Losses -----------------------------------------------------------------------------------------


def test_non_saturating_losses_equal_tensorflow_gans(critic, tensorflow_gan):
    real, fake = critic["real_logits"], critic["fake_logits"]
    discriminator = losses.non_saturating_discriminator_loss(real, fake)
    np.testing.assert_allclose(discriminator, tensorflow_gan["discriminator"], rtol=1e-5)
    generator = losses.non_saturating_generator_loss(fake)
    np.testing.assert_allclose(generator, tensorflow_gan["generator"], rtol=1e-5)


def test_hinge_losses_equal_tensorflow_gans(critic, tensorflow_gan):
    """TF-GAN calls the losses of arXiv 1802.05957 Wasserstein hinge losses."""
    real, fake = critic["real_logits"], critic["fake_logits"]
    discriminator = losses.hinge_discriminator_loss(real, fake)
    np.testing.assert_allclose(discriminator, tensorflow_gan["hinge_discriminator"], rtol=1e-5)
    generator = losses.hinge_generator_loss(fake)
    np.testing.assert_allclose(generator, tensorflow_gan["hinge_generator"], rtol=1e-5)


def test_r1_equals_tensorflow_gans(critic, tensorflow_gan):
    """TF-GAN has (|g| / t - 1)^2 for a target t. From t = 1 and t = 1/2 follows |g|^2, as in R1."""
    images = tf.constant(critic["images"])
    with tf.GradientTape() as tape:
        tape.watch(images)
        flat = tf.reshape(images, (len(images), -1))
        logits = tf.reduce_sum(tf.tanh(flat @ critic["critic"]))
    expected = (tensorflow_gan["penalty_half"] - 2 * tensorflow_gan["penalty_1"] + 1) / 2
    ours = losses.r1_penalty(tape.gradient(logits, images))
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


# Optimizer and moving average -------------------------------------------------------------------

STEPS = 100
OPTIMIZER = OptimizerConfig(
    learning_rate=0.02,
    beta_1=0.9,
    beta_2=0.96,
    weight_decay=0.3,
    schedule="cosine",
    warmup_steps=10,
    final_ratio=0.1,
)
SGD_RATE, EMA_DECAY = 0.1, 0.85  # the decay is reached at step 51
SHAPES = {"kernel": (4, 3), "bias": (3,)}


@pytest.fixture(scope="module")
def steps():
    random = np.random.default_rng(2)
    schedule = learning_rate_schedule(OPTIMIZER, STEPS)
    start = {name: random.normal(size=shape) for name, shape in SHAPES.items()}
    gradients = {
        f"{name}_gradients": random.normal(size=(STEPS, *shape)) * random.uniform(size=shape)
        for name, shape in SHAPES.items()
    }
    return {name: value.astype("float32") for name, value in (start | gradients).items()} | {
        "rates": np.array([float(schedule(step)) for step in range(STEPS)]),
        "beta_1": OPTIMIZER.beta_1,
        "beta_2": OPTIMIZER.beta_2,
        "epsilon": 1e-8,
        "weight_decay": OPTIMIZER.weight_decay,
        "sgd_rate": SGD_RATE,
        "ema_decay": EMA_DECAY,
    }


@pytest.fixture(scope="module")
def addons(ask, steps):
    return ask("tensorflow_addons_steps.py", steps)


def make_weights(steps):
    return [keras.Variable(steps[name], name=name) for name in SHAPES]


def apply(optimizer, step, steps):
    optimizer.apply([tf.constant(steps[f"{name}_gradients"][step]) for name in SHAPES])


def test_adamw_equals_tensorflow_addons(steps, addons):
    weights = make_weights(steps)
    optimizer = make_optimizer(OPTIMIZER, STEPS)
    optimizer.build(weights)
    for step in range(STEPS):
        apply(optimizer, step, steps)
        for weight in weights:
            expected = addons[f"adamw_{weight.name}"][step]
            np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=2e-6)
    assert np.abs(np.array(weights[0]) - steps["kernel"]).min() > 1e-2  # they have moved


def test_moving_average_equals_tensorflow_addons(steps, addons):
    weights, averages = make_weights(steps), make_weights(steps)
    optimizer = keras.optimizers.SGD(SGD_RATE)
    optimizer.build(weights)
    average = ExponentialMovingAverage(weights, averages, EMA_DECAY)
    for step in range(STEPS):
        apply(optimizer, step, steps)
        average.update(step)
        for value in averages:
            expected = addons[f"average_{value.name}"][step]
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=2e-6)
