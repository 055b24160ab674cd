import math
import typing

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import tensorflow as tf

from vim_tf import losses
from vim_tf.config.loss_sections import DiscriminatorConfig

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype("float32")


def uniform(*shape):
    return RNG.uniform(-1, 1, shape).astype("float32")


def gradients(function, *inputs):
    """Gradients of a scalar function by its NumPy inputs, as arrays (None: no dependence)."""
    inputs = [tf.constant(x) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value = function(*inputs)
    return [None if g is None else g.numpy() for g in tape.gradient(value, inputs)]


@pytest.mark.parametrize("loss", [losses.codebook_loss, losses.commitment_loss])
def test_quantizer_losses_are_means(loss):
    latents, codes = normal(2, 5, 4), normal(2, 5, 4)
    expected = np.mean((latents - codes) ** 2)
    np.testing.assert_allclose(loss(latents, codes), expected, rtol=1e-6)


def test_codebook_loss_moves_codes_only():
    latents, codes = normal(2, 5, 4), normal(2, 5, 4)
    to_latents, to_codes = gradients(losses.codebook_loss, latents, codes)
    assert to_latents is None
    np.testing.assert_allclose(to_codes, 2 * (codes - latents) / 40, rtol=1e-5)


def test_commitment_loss_moves_latents_only():
    latents, codes = normal(2, 5, 4), normal(2, 5, 4)
    to_latents, to_codes = gradients(losses.commitment_loss, latents, codes)
    assert to_codes is None
    np.testing.assert_allclose(to_latents, 2 * (latents - codes) / 40, rtol=1e-5)


def numpy_entropy_loss(affinities, temperature):
    shares = scipy.special.softmax(affinities.astype("float64") / temperature, axis=-1)
    each = scipy.special.entr(shares).sum(-1).mean()
    return each - scipy.special.entr(shares.mean(0)).sum()


@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_entropy_loss_equals_numpy(temperature):
    affinities = -np.abs(normal(40, 16))
    np.testing.assert_allclose(
        losses.entropy_loss(affinities, temperature),
        numpy_entropy_loss(affinities, temperature),
        rtol=1e-4,
    )


def test_entropy_loss_limits():
    sure_and_even = -4.0 * (1 - np.eye(8, dtype="float32"))  # each latent has a different code
    np.testing.assert_allclose(losses.entropy_loss(sure_and_even, 0.01), -math.log(8), rtol=1e-5)
    collapsed = np.tile(sure_and_even[:1], (8, 1))
    np.testing.assert_allclose(losses.entropy_loss(collapsed, 0.01), 0, atol=1e-5)
    undecided = np.zeros((8, 8), "float32")
    np.testing.assert_allclose(losses.entropy_loss(undecided, 0.01), 0, atol=1e-5)


def test_entropy_loss_has_finite_gradients_with_dead_codes():
    affinities = np.tile(np.float32([0, -4, -4, -4]), (8, 1))  # exp(-400) is 0: three dead codes
    (gradient,) = gradients(lambda a: losses.entropy_loss(a, 0.01), affinities)
    assert np.all(np.isfinite(gradient))


def test_entropy_loss_gradient_equals_finite_differences():
    affinities = -np.abs(normal(3, 4))
    (gradient,) = gradients(lambda a: losses.entropy_loss(a, 0.5), affinities)
    for index in np.ndindex(3, 4):
        step = np.zeros((3, 4))
        step[index] = 1e-5
        slope = (
            numpy_entropy_loss(affinities + step, 0.5) - numpy_entropy_loss(affinities - step, 0.5)
        ) / 2e-5
        np.testing.assert_allclose(gradient[index], slope, rtol=1e-3, atol=1e-5)


def test_l2_is_taken_between_zero_and_one():
    white, black = np.ones((2, 4, 4, 3), "float32"), -np.ones((2, 4, 4, 3), "float32")
    np.testing.assert_allclose(losses.l2_loss(white, black), 1.0, rtol=1e-6)
    a, b = uniform(2, 4, 6, 3), uniform(2, 4, 6, 3)
    expected = np.mean(((a - b) / 2) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(losses.l2_loss(a, b), expected, rtol=1e-5)


def numpy_log_scale(log_scale):
    return losses.MIN_LOG_SCALE + np.logaddexp(0, log_scale - losses.MIN_LOG_SCALE)


def test_logit_laplace_loss_equals_numpy():
    mean, log_scale, images = normal(2, 4, 6, 3), normal(2, 4, 6, 3), uniform(2, 4, 6, 3)
    squeezed = 0.1 + 0.8 * (images.astype("float64") + 1) / 2
    log_b = numpy_log_scale(log_scale.astype("float64"))
    expected = np.mean(
        np.abs(scipy.special.logit(squeezed) - mean) / np.exp(log_b)
        + log_b
        + np.log(squeezed * (1 - squeezed))
        - np.log(0.8),
        axis=(1, 2, 3),
    )
    found = losses.logit_laplace_loss(mean, log_scale, images)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("mean", "log_scale"), [(0.0, -0.5), (1.2, -1.0), (-2.0, 0.3)])
def test_logit_laplace_density_integrates_to_one(mean, log_scale):
    """After adding ln 2: of pixels x in [0,1], over all x whose squeezed pixel is in (0,1)."""

    def density(x):
        image = np.full((1, 1, 1, 3), 2 * x - 1, "float32")
        full = [np.full_like(image, value) for value in (mean, log_scale)]
        return math.exp(-float(losses.logit_laplace_loss(*full, image)[0]) - math.log(2))

    centre, ends = (scipy.special.expit(mean) - 0.1) / 0.8, (1e-6 - 0.125, 1.125 - 1e-6)
    mass, _ = scipy.integrate.quad(density, *ends, points=[centre], epsabs=1e-3, limit=40)
    assert mass == pytest.approx(1, abs=5e-3)


def test_logit_laplace_loss_is_least_at_the_laplace_estimate():
    """For errors e the best b is mean |e|. There the gradient of log b is zero."""
    mean, images = normal(1, 16, 16, 3), uniform(1, 16, 16, 3)
    errors = np.abs(scipy.special.logit(0.1 + 0.8 * (images + 1) / 2) - mean)
    best = np.full(1, np.log(errors.mean()), "float32")
    slope = [
        gradients(lambda s: losses.logit_laplace_loss(mean, s * np.ones_like(mean), images), scale)[
            0
        ]
        for scale in (best - 0.1, best, best + 0.1)
    ]
    assert slope[0] < -0.05 < abs(slope[1]) < 0.02 < slope[2]


def test_scale_is_bounded_below_and_keeps_a_gradient():
    images = uniform(1, 2, 2, 3)
    mean = scipy.special.logit(0.1 + 0.8 * (images + 1) / 2)
    worst = np.full_like(mean, -50.0)
    exact = losses.logit_laplace_loss(mean, worst, images)
    squeezed = 0.1 + 0.8 * (images + 1) / 2
    bound = losses.MIN_LOG_SCALE + np.mean(np.log(squeezed * (1 - squeezed))) - np.log(0.8)
    np.testing.assert_allclose(exact, bound, rtol=1e-3)
    off = mean + 1
    (slope,) = gradients(lambda s: losses.logit_laplace_loss(off, s, images), worst + 40)
    assert np.all(slope < 0)  # a scale that is too low can rise again


def test_psnr_equals_numpy_and_is_capped():
    a, b = uniform(3, 4, 6, 3), uniform(3, 4, 6, 3)
    b[2] = a[2]
    error = np.mean(((a[:2] - b[:2]) / 2) ** 2, axis=(1, 2, 3))
    values = losses.psnr(a, b)
    assert values.shape == (3,)
    np.testing.assert_allclose(values[:2], 10 * np.log10(1 / error), rtol=1e-5)
    np.testing.assert_allclose(values[2], losses.PSNR_CAP, rtol=1e-5)


def test_perceptual_loss_equals_numpy():
    a = [normal(2, 4, 6, 8), normal(2, 2, 3, 16)]
    b = [normal(2, 4, 6, 8), normal(2, 2, 3, 16)]

    def unit(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    layers = [
        np.mean(np.sum((unit(x) - unit(y)) ** 2, -1), (1, 2)) for x, y in zip(a, b, strict=True)
    ]
    expected = np.mean(layers, 0)
    np.testing.assert_allclose(losses.perceptual_loss(a, b), expected, rtol=1e-5)
    np.testing.assert_allclose(losses.perceptual_loss(a, [-x for x in a]), 4.0, rtol=1e-5)


def test_perceptual_loss_has_finite_gradients_at_dead_positions():
    """ReLU features are zero in areas of one colour."""
    (gradient,) = gradients(
        lambda a: losses.perceptual_loss([a], [normal(1, 2, 2, 4)]),
        np.zeros((1, 2, 2, 4), "float32"),
    )
    assert np.all(np.isfinite(gradient))


def test_perceptual_loss_refuses_lists_of_different_length():
    with pytest.raises(ValueError, match="shorter"):
        losses.perceptual_loss([normal(1, 2, 2, 4)] * 2, [normal(1, 2, 2, 4)])


def test_non_saturating_losses_equal_numpy():
    real, fake = 3 * normal(7), 3 * normal(7)
    np.testing.assert_allclose(
        losses.non_saturating_discriminator_loss(real, fake),
        np.mean(np.log1p(np.exp(-real))) + np.mean(np.log1p(np.exp(fake))),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        losses.non_saturating_generator_loss(fake), np.mean(np.log1p(np.exp(-fake))), rtol=1e-5
    )


@pytest.mark.parametrize(("logit", "expected"), [(-100.0, 100.0), (0.0, math.log(2)), (100.0, 0.0)])
def test_non_saturating_losses_at_their_limits(logit, expected):
    logits, sure = np.float32([logit]), np.float32([100.0])
    generator = losses.non_saturating_generator_loss(logits)
    np.testing.assert_allclose(generator, expected, atol=1e-6)
    discriminator = losses.non_saturating_discriminator_loss
    np.testing.assert_allclose(discriminator(logits, -sure), expected, atol=1e-6)
    np.testing.assert_allclose(discriminator(sure, -logits), expected, atol=1e-6)


def test_hinge_losses_equal_numpy():
    real, fake = 2 * normal(40), 2 * normal(40)
    assert min(real.min(), fake.min()) < -1 < 1 < max(real.max(), fake.max())  # both sides
    expected = np.mean([max(0, 1 - logit) for logit in real])
    expected += np.mean([max(0, 1 + logit) for logit in fake])
    np.testing.assert_allclose(losses.hinge_discriminator_loss(real, fake), expected, rtol=1e-5)
    np.testing.assert_allclose(losses.hinge_generator_loss(fake), -np.mean(fake), rtol=1e-5)


def test_hinge_moves_the_discriminator_only_within_the_margin():
    real, fake = np.float32([-3, 0.9, 1.1]), np.float32([3, -0.9, -1.1])
    to_real, to_fake = gradients(losses.hinge_discriminator_loss, real, fake)
    np.testing.assert_allclose(to_real, np.float32([-1, -1, 0]) / 3)
    np.testing.assert_allclose(to_fake, np.float32([1, 1, 0]) / 3)
    (generator,) = gradients(losses.hinge_generator_loss, fake)
    np.testing.assert_allclose(generator, np.full(3, -1 / 3, "float32"))


@pytest.mark.parametrize("name", losses.ADVERSARIAL_LOSSES)
def test_adversarial_losses_have_the_right_signs(name):
    discriminator_loss, generator_loss = losses.ADVERSARIAL_LOSSES[name]
    real, fake = gradients(discriminator_loss, np.float32([0.3]), np.float32([0.3]))
    (generator,) = gradients(generator_loss, np.float32([0.3]))
    assert real < 0 < fake  # descent raises logits of real images, lowers fake ones
    assert generator < 0  # the autoencoder raises those of fake images


def test_every_adversarial_loss_of_the_config_exists():
    choices = typing.get_args(typing.get_type_hints(DiscriminatorConfig)["loss"])
    assert set(choices) == set(losses.ADVERSARIAL_LOSSES)


def test_r1_penalty_sums_over_an_image():
    gradient = normal(3, 4, 6, 3)
    expected = np.mean([np.sum(one**2) for one in gradient])
    np.testing.assert_allclose(losses.r1_penalty(gradient), expected, rtol=1e-5)


def test_cross_entropy_equals_scipy():
    logits, tokens = 5 * normal(2, 7, 11), RNG.integers(0, 11, (2, 7)).astype("int32")
    shares = scipy.special.log_softmax(logits.astype("float64"), axis=-1)
    expected = -np.mean(np.take_along_axis(shares, tokens[..., None], -1))
    np.testing.assert_allclose(losses.cross_entropy(logits, tokens), expected, rtol=1e-5)
    np.testing.assert_allclose(losses.cross_entropy(0 * logits, tokens), math.log(11), rtol=1e-6)


def test_every_loss_is_float32_for_bfloat16_inputs():
    """One number per image from the terms of pixels, a scalar from the others."""

    def half(*shape):
        return tf.cast(normal(*shape), tf.bfloat16)

    image, latent = (half(2, 4, 4, 3) for _ in range(2)), (half(2, 5, 4) for _ in range(2))
    image, latent = list(image), list(latent)
    values = [
        losses.codebook_loss(*latent),
        losses.commitment_loss(*latent),
        losses.entropy_loss(half(6, 8), 0.1),
        losses.l2_loss(*image),
        losses.logit_laplace_loss(image[0], image[1], tf.clip_by_value(image[0], -1, 1)),
        losses.perceptual_loss(image[:1], image[1:]),
        losses.non_saturating_discriminator_loss(half(4), half(4)),
        losses.non_saturating_generator_loss(half(4)),
        losses.hinge_discriminator_loss(half(4), half(4)),
        losses.hinge_generator_loss(half(4)),
        losses.r1_penalty(image[0]),
        losses.cross_entropy(half(2, 3, 5), np.zeros((2, 3), "int32")),
    ]
    for number, value in enumerate(values):
        assert value.dtype == "float32"
        assert value.shape == ((2,) if number in (3, 4, 5) else ())
        assert np.all(np.isfinite(value))
    # The cast comes first, not last: means of bfloat16 values would have errors of 1e-3.
    expected = (image[0].numpy().astype("float32") - image[1].numpy()) ** 2 / 4
    expected = np.mean(expected, axis=(1, 2, 3))
    np.testing.assert_allclose(values[3], expected, rtol=1e-5)
