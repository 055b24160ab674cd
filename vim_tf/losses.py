"""Every loss term of both stages, as pure functions in keras.ops.

Each returns unweighted float32 numbers: the terms of pixels one per image, [B]; the others a
scalar, the mean over the batch it is given (the replica's). Weights, R1's gamma and its laziness
are the trainer's. Inputs of any float dtype are cast to float32 first. Paper:
https://arxiv.org/abs/2110.04627, section 3.3; what it leaves open is said where it is decided.
"""

import math
from collections.abc import Callable, Sequence

from keras import ops

from vim_tf.annotations import Tensor

# Pixels are squeezed from [0,1] to [0.1,0.9] before their logit is taken, as in DALL-E's dVAE
# (arXiv 2102.12092, appendix A.3): the logit of 0 and 1 is infinite. `ViTVQGAN` undoes it.
LOGIT_LAPLACE_EPSILON = 0.1

# Soft lower bound of log b. Flat areas (a white background) can be met exactly, where the density
# is unbounded and the gradient, 1/b, with it. exp(-5) is half a grey level of an 8-bit image at
# mid-grey, in logits; finer than that there is nothing to learn. No upper bound is needed: the
# gradient of a scale that is too large is 1, downwards.
MIN_LOG_SCALE = -5.0

PSNR_CAP = 100.0  # dB; what identical images get


def _float32(*tensors):
    return [ops.cast(tensor, "float32") for tensor in tensors]


def _unit_range(images):
    """[-1,1] -> [0,1], the scale of the paper's pixel losses."""
    return (ops.cast(images, "float32") + 1.0) / 2.0


# Vector quantisation ----------------------------------------------------------------------------


def codebook_loss(latents: Tensor, codes: Tensor) -> Tensor:
    """(stop_gradient(latents) - codes)^2: moves the codes to the latents (section 3.2).

    The paper's equation is a squared norm, and its code was never published: whether it sums over
    the code's dimensions or takes their mean is unknown. The mean is what MaskGIT, LlamaGen and
    enhancing-transformers take. The sum is d times as large; with the paper's beta of 0.25 it
    leaves few codes in use here (docs/results.md).

    Args:
        latents: encoder outputs [B,N,d] as compared with codes, that is after normalisation.
        codes: their nearest codes [B,N,d], equally normalised.

    Returns:
        float32 scalar, the mean over B, N and d.
    """
    latents, codes = _float32(latents, codes)
    return ops.mean(ops.square(ops.stop_gradient(latents) - codes))


def commitment_loss(latents: Tensor, codes: Tensor) -> Tensor:
    """(latents - stop_gradient(codes))^2: moves the latents to their codes.

    Shapes and reductions are those of `codebook_loss`; beta is the caller's weight.
    """
    latents, codes = _float32(latents, codes)
    return ops.mean(ops.square(latents - ops.stop_gradient(codes)))


def entropy_loss(
    affinities: Tensor, temperature: float, average: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Mean entropy of each latent's soft choice minus the entropy of the mean choice.

    Small where every latent is sure of its code and all codes are used alike; from -log K to 0.
    As in MaskGIT's tokenizer (arXiv 2202.04200) and SeQ-GAN (arXiv 2212.03185).

    Args:
        affinities: [M,K], larger is nearer: the negative squared distances of M latents to K codes.
        temperature: the soft choice is softmax(affinities / temperature).
        average: function of the mean choice [K] that averages it over replicas; None for one.

    Returns:
        float32 scalar, in nats.
    """
    (affinities,) = _float32(affinities)
    # Two [M,K] tensors are kept for the gradient; einsum needs no third one for the product.
    log_shares = ops.log_softmax(affinities / temperature, axis=-1)
    shares = ops.exp(log_shares)
    each = -ops.mean(ops.einsum("mk,mk->m", shares, log_shares))
    mean_shares = ops.mean(shares, axis=0)  # [K]
    if average is not None:
        mean_shares = average(mean_shares)
    of_mean = -ops.sum(mean_shares * ops.log(mean_shares + 1e-8))  # 1e-8: unused codes
    return each - of_mean


# Pixels -----------------------------------------------------------------------------------------


def l2_loss(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Mean squared error of pixels in [0,1], [B]; both [B,H,W,3] in [-1,1]."""
    return ops.mean(ops.square(_unit_range(reconstruction) - _unit_range(images)), axis=(1, 2, 3))


def _bounded(log_scale):
    return MIN_LOG_SCALE + ops.softplus(log_scale - MIN_LOG_SCALE)


def logit_laplace_loss(mean: Tensor, log_scale: Tensor, images: Tensor) -> Tensor:
    """Negative log-likelihood of pixels under the logit-Laplace density, less the constant ln 2.

    With y = 0.8 x + 0.1 the squeezed pixel x, the density of y is that of a sigmoid of a Laplace
    variable, exp(-|logit y - mean| / b) / (2 b y (1 - y)). The loss is the one of x, in [0,1]:
    |logit y - mean| / b + log b + log(y (1 - y)) - log 0.8. Both Jacobians are in and ln 2 is out,
    which is what the values of the paper's table 4 (about -2.5) agree with: all of them are within
    0.07 of 1 + log(l1). log b is `log_scale` above a soft lower bound, see `MIN_LOG_SCALE`.

    Args:
        mean: [B,H,W,3], the logit of squeezed pixels; the model makes images of it.
        log_scale: [B,H,W,3], log b before the bound.
        images: [B,H,W,3] in [-1,1].

    Returns:
        [B] float32, nats a pixel channel: means over H, W and channels.
    """
    mean, log_scale = _float32(mean, log_scale)
    log_scale = _bounded(log_scale)
    epsilon = LOGIT_LAPLACE_EPSILON
    squeezed = (1 - 2 * epsilon) * _unit_range(images) + epsilon
    log_y, log_not_y = ops.log(squeezed), ops.log(1 - squeezed)
    distance = ops.abs(log_y - log_not_y - mean)
    nats = distance * ops.exp(-log_scale) + log_scale + log_y + log_not_y
    return ops.mean(nats, axis=(1, 2, 3)) - math.log(1 - 2 * epsilon)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, at most `PSNR_CAP`.

    Args:
        a: [B,H,W,3] in [-1,1].
        b: [B,H,W,3] in [-1,1].

    Returns:
        [B] float32; the mean squared error is taken in [0,1].
    """
    error = ops.mean(ops.square(_unit_range(a) - _unit_range(b)), axis=(1, 2, 3))
    return -10.0 / math.log(10.0) * ops.log(ops.maximum(error, 10.0 ** (-PSNR_CAP / 10.0)))


# Features and discriminator ---------------------------------------------------------------------


def _unit_length(features):
    """Scales each position's channels to length 1; the constant keeps dead positions finite."""
    (features,) = _float32(features)
    return features * ops.rsqrt(ops.sum(ops.square(features), axis=-1, keepdims=True) + 1e-8)


def perceptual_loss(features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
    """Distance of two images in the features of a frozen network.

    The paper says "perceptual loss (VGG)" and no more. As in LPIPS (arXiv 1801.03924) each
    position's channels are scaled to unit length and squared differences are summed over channels
    and averaged over positions; without its learned channel weights, and with the mean over
    layers, so that the number of layers does not change the scale: from 0 to 4.

    Args:
        features_a: list of [B,H_i,W_i,C_i], one a layer.
        features_b: the same of the other images.

    Returns:
        [B] float32.
    """
    layers = [
        ops.mean(ops.sum(ops.square(_unit_length(a) - _unit_length(b)), axis=-1), axis=(1, 2))
        for a, b in zip(features_a, features_b, strict=True)
    ]
    return sum(layers) / len(layers)


def non_saturating_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Non-saturating loss of the discriminator (arXiv 1406.2661): softplus(-real) + softplus(fake).

    Args:
        real_logits: [B], of real images; high means real.
        fake_logits: [B], of reconstructions.

    Returns:
        float32 scalar, 2 ln 2 for a discriminator that knows nothing.
    """
    real_logits, fake_logits = _float32(real_logits, fake_logits)
    return ops.mean(ops.softplus(-real_logits)) + ops.mean(ops.softplus(fake_logits))


def non_saturating_generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating loss of the autoencoder: mean softplus(-fake) of logits [B]."""
    (fake_logits,) = _float32(fake_logits)
    return ops.mean(ops.softplus(-fake_logits))


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Hinge loss of the discriminator (arXiv 1705.02894): max(0, 1 - real) + max(0, 1 + fake).

    Logits beyond a margin of 1 on the right side no longer move it.

    Args:
        real_logits: [B], of real images; high means real.
        fake_logits: [B], of reconstructions.

    Returns:
        float32 scalar, 2 for a discriminator that knows nothing.
    """
    real_logits, fake_logits = _float32(real_logits, fake_logits)
    return ops.mean(ops.relu(1.0 - real_logits)) + ops.mean(ops.relu(1.0 + fake_logits))


def hinge_generator_loss(fake_logits: Tensor) -> Tensor:
    """The autoencoder's counterpart of the hinge loss: mean -fake of logits [B]; has no bound."""
    (fake_logits,) = _float32(fake_logits)
    return -ops.mean(fake_logits)


# What `discriminator.loss` may be: the loss of the discriminator, that of the autoencoder.
ADVERSARIAL_LOSSES = {
    "non_saturating": (non_saturating_discriminator_loss, non_saturating_generator_loss),
    "hinge": (hinge_discriminator_loss, hinge_generator_loss),
}


def r1_penalty(gradients: Tensor) -> Tensor:
    """Squared length of the real logits' gradient (arXiv 1801.04406); gamma / 2 is the caller's.

    Args:
        gradients: [B,H,W,3], of each real image's logit by its pixels in [-1,1].

    Returns:
        float32 scalar: summed over an image, mean over B.
    """
    (gradients,) = _float32(gradients)
    return ops.mean(ops.sum(ops.square(gradients), axis=(1, 2, 3)))


# Tokens and labels ------------------------------------------------------------------------------


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood in nats, of tokens or of labels.

    Args:
        logits: [B,N,K], or [B,K].
        targets: [B,N] int32, or [B].

    Returns:
        float32 scalar: mean over B and N.
    """
    (logits,) = _float32(logits)
    return ops.mean(ops.sparse_categorical_crossentropy(targets, logits, from_logits=True))
