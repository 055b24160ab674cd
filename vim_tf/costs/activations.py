"""Bytes that the forward pass keeps of one image for the backward pass, without TensorFlow.

They are counted operation by operation, as in `models` and `losses`. A test compares them with
TensorFlow's graph. `memory` adds up a training.
"""

import math
from typing import TypeAlias

from vim_tf.config.loss_sections import DiscriminatorConfig, PixelLossConfig, ViTVQGANLossConfig
from vim_tf.config.sections import QuantizerConfig, TransformerConfig, ViTVQGANConfig
from vim_tf.costs.parameters import (
    VGG16_MIN_SIDE,
    VGG16_STAGES,
    count_discriminator,
    discriminator_layers,
)

FLOAT, HALF, MASK = 4, 2, 1  # bytes
QUERY_BLOCK = 128  # for the estimate if training.query_block is off
# Temporary arrays at once: of attention weights (for the gradient, or random bits of the dropout),
# and of the MLP's hidden layer. Measured from TensorFlow's allocations.
WEIGHTS_ARRAYS, HIDDEN_ARRAYS = 2, 2
COLUMNS = ("plain", "rematerialize", "query_block", "both")
PerColumn: TypeAlias = tuple[int, ...]  # bytes, one number for each of `COLUMNS`


def keep_norm(dim: int, compute: int) -> int:
    """A LayerNorm's input, scaled deviation and output; mean, its negative, and deviation."""
    return FLOAT * (2 * dim + 3) + compute * dim


def keep_attention(
    config: TransformerConfig, length: int, causal: bool, queries: int, compute: int = FLOAT
) -> int:
    """Bytes that the attention of one transformer block keeps, for one image of `length` tokens.

    Args:
        config: the sizes of the transformer.
        length: number of tokens.
        causal: whether there is a mask; the batch shares it, but it is counted for each image here.
        queries: number of queries whose attention weights are kept.
        compute: bytes of a number of the tensors that may be bfloat16.
    """
    dim = config.dim
    # Queries (scaled), keys and values; the heads' outputs, the input of the projection.
    token = keep_norm(dim, compute) + compute * (3 * dim + dim)
    weight = FLOAT  # softmax
    if config.dropout or compute != FLOAT:
        weight += compute  # after dropout, or after the cast
    if config.dropout:
        weight += MASK
        token += MASK * dim  # of the residual
    weights = queries * length * config.heads * weight
    return length * token + weights + (MASK * queries * length if causal else 0)


def keep_mlp(config: TransformerConfig, length: int, compute: int = FLOAT) -> int:
    """Bytes that the MLP of one transformer block keeps, for one image of `length` tokens."""
    # tanh-GELU of x: x, tanh, x / 2, 1 + tanh, and the product, the input of the last layer.
    token = keep_norm(config.dim, compute) + compute * 5 * config.mlp_dim
    if config.dropout:
        token += MASK * (config.mlp_dim + config.dim)  # of the activation and of the residual
    return length * token


def keep_transformer(
    config: TransformerConfig, length: int, causal: bool = False, compute: int = FLOAT
) -> PerColumn:
    """Bytes that a transformer keeps for one image, one number for each of `COLUMNS`."""
    mlp = keep_mlp(config, length, compute)
    whole = keep_attention(config, length, causal, length, compute) + mlp
    without = keep_attention(config, length, causal, 0, compute) + mlp
    inputs = compute * length * config.dim
    return tuple(config.blocks * kept for kept in (whole, inputs, without, inputs))


def differentiate_block(
    config: TransformerConfig,
    length: int,
    causal: bool = False,
    query_block: int = QUERY_BLOCK,
    compute: int = FLOAT,
) -> PerColumn:
    """Additional bytes of one block, for one image, while its gradient is computed.

    These are the tensors that are computed again, and temporary arrays. The arrays of the MLP come
    first, while the whole block is kept; then those of the attention, when the MLP's tensors are
    freed. Groups of queries follow one another; each leaves gradients of all keys and values.
    """
    queries = min(query_block, length)
    inputs = compute * length * config.dim
    mlp = keep_mlp(config, length, compute)
    hidden = HIDDEN_ARRAYS * compute * length * config.mlp_dim
    row = WEIGHTS_ARRAYS * FLOAT * config.heads * length  # temporary arrays of one query's weights
    none, some, whole = (
        keep_attention(config, length, causal, n, compute) for n in (0, queries, length)
    )
    gradients = -(-length // queries) * 2 * inputs
    return (
        max(hidden, row * length - mlp),
        max(whole + mlp + hidden, whole + row * length) - inputs,
        max(hidden, some - none + row * queries + gradients - mlp),
        max(none + mlp + hidden, some + row * queries + gradients) - inputs,
    )


def keep_refinement(config: ViTVQGANConfig, image_size: tuple[int, int], compute: int) -> int:
    """Bytes that a `Refinement` keeps for one image: its input, and two GELUs as in `keep_mlp`."""
    kept = config.output_channels + 2 * 5 * config.refinement_channels
    return compute * math.prod(image_size) * kept


def keep_coder(config: TransformerConfig, length: int, fan_in: int, compute: int) -> PerColumn:
    """Inputs of the embedding, transformer, and the tanh head's norm and hidden layer."""
    ends = length * (compute * (fan_in + config.mlp_dim) + keep_norm(config.dim, compute))
    return tuple(ends + kept for kept in keep_transformer(config, length, compute=compute))


def keep_quantizer(
    config: QuantizerConfig, losses: ViTVQGANLossConfig, dim: int, length: int
) -> int:
    """Bytes that the quantizer and its losses keep for one image of `length` features of `dim`."""
    code_dim = config.code_dim
    kept = dim  # features
    if config.l2_normalize:
        kept += code_dim + 1  # latents before, and their lengths
        kept += (code_dim + 1) * bool(losses.codebook_mean)  # codes before, and their lengths
    if config.rotation_trick:
        kept += 3 * code_dim + 1  # three directions and the ratio of lengths
    kept += code_dim * bool(losses.codebook_mean) + code_dim * bool(
        losses.commitment_mean
    )  # differences
    if losses.entropy:
        kept += 2 * config.codes + code_dim  # shares and their logarithms; latents
    return FLOAT * length * kept


def keep_pixel_losses(
    config: ViTVQGANConfig, losses: PixelLossConfig, image_size: tuple[int, int]
) -> int:
    """Bytes that the decoder's sigmoid, l2 and logit-Laplace keep for one image."""
    kept = int(config.output == "logit_laplace")
    kept += bool(losses.l2)  # difference
    kept += 4 * bool(losses.logit_laplace)  # distance, its size, 1 / b, log b before its bound
    return FLOAT * 3 * math.prod(image_size) * kept


def keep_perceptual(image_size: tuple[int, int]) -> int:
    """Bytes that the perceptual loss keeps for one reconstruction."""
    height, width = (max(side, VGG16_MIN_SIDE) for side in image_size)
    enlarged = (height, width) != tuple(image_size)
    kept = 3 * math.prod(image_size) * enlarged  # input of TensorFlow's gradient of resizing
    for stage, (convolutions, channels) in enumerate(VGG16_STAGES):
        if stage:
            height, width = height // 2, width // 2
            kept += height * width * VGG16_STAGES[stage - 1][1]  # after pooling
        kept += height * width * channels * convolutions  # after each ReLU
        kept += height * width * (channels + 1)  # difference of features; their length
    return FLOAT * kept


def keep_discriminator(
    config: DiscriminatorConfig, image_size: tuple[int, int], batch: int
) -> tuple[int, int]:
    """Bytes that the discriminator keeps for `batch` images: (a forward pass, R1).

    R1 (every `r1_every` steps) is a forward pass, the gradient by its images, and the tensors that
    this gradient keeps for the second derivative.
    """
    sizes, widths = discriminator_layers(config, image_size)
    pixels = [math.prod(size) for size in sizes]
    group = next(size for size in (4, 3, 2, 1) if batch % size == 0)
    last, width = pixels[-1] * widths[-1], widths[-1]
    forward = 2 * widths[0] * pixels[0]  # before and after the activation
    backward = (widths[0] + 3) * pixels[0]  # gradients at the activation and at the image
    for i, (height, columns) in enumerate(sizes[:-1]):
        fine, coarse = widths[i : i + 2]
        forward += fine * pixels[i]  # first convolution
        forward += fine * (height + 1) * (columns + 1)  # blurred for the second
        forward += fine * pixels[i + 1]  # blurred for the skip
        forward += 2 * coarse * pixels[i + 1]  # second convolution; the block's output
        backward += fine * pixels[i] + 2 * coarse * pixels[i + 1]  # gradients at these
    forward -= last  # the last output is kept as a part of a concatenation:
    forward += last + pixels[-1]  # features and the minibatch deviation
    forward += last  # differences from the mean of the group
    forward += 2 * last + 2 * width  # before and after the activations of the last two layers
    backward += 3 * last + width
    deviations = batch // group * last
    kernels, _ = count_discriminator(config, image_size)  # scaled at run time
    return (
        FLOAT * (batch * forward + deviations + kernels),
        FLOAT * (batch * (forward + backward) + 2 * deviations + kernels),
    )
