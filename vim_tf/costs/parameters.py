"""The number of parameters of each model, computed from its config, without TensorFlow."""

import math
from collections.abc import Sequence

from vim_tf.config.loss_sections import DiscriminatorConfig
from vim_tf.config.sections import (
    ClassifierConfig,
    TransformerConfig,
    VIMConfig,
    ViTVQGANConfig,
)

# Number of 3 x 3 convolutions, and their channels, in each stage of VGG16 (arXiv 1409.1556).
VGG16_STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
VGG16_MIN_SIDE = 32  # pixels; the perceptual loss enlarges smaller images


def count_transformer(config: TransformerConfig) -> int:
    """Parameters of a `Transformer`: attention without bias on queries, keys and values."""
    dim, mlp_dim = config.dim, config.mlp_dim
    attention = 3 * dim * dim + dim * dim + dim
    mlp = dim * mlp_dim + mlp_dim + mlp_dim * dim + dim
    norms = 2 * 2 * dim
    return config.blocks * (attention + mlp + norms)


def _count_coder(config: TransformerConfig, fan_in: int, units: int, positions: int) -> int:
    """Embedding, positions, transformer and tanh head of an encoder or a decoder."""
    dim, hidden = config.dim, config.mlp_dim
    embedding = fan_in * dim + dim
    head = 2 * dim + dim * hidden + hidden + hidden * units + units
    return embedding + positions * dim + count_transformer(config) + head


def count_vit_vqgan(config: ViTVQGANConfig, image_size: tuple[int, int]) -> dict[str, int]:
    """Parameters of a `ViTVQGAN` by part: {"encoder": ..., "quantizer": ..., "decoder": ...}."""
    patch = config.patch_size**2
    learned = count_tokens(config, image_size) if config.positions == "learned" else 0
    codes, code_dim = config.quantizer.codes, config.quantizer.code_dim
    dim, outputs = config.encoder.dim, config.output_channels
    decoder = _count_coder(config.decoder, code_dim, config.outputs_per_token, learned)
    if config.refinement_channels:
        decoder += refinement_kernels(config) + 2 * config.refinement_channels + outputs
    return {
        "encoder": _count_coder(config.encoder, 3 * patch, dim, learned),
        "quantizer": dim * code_dim + code_dim + codes * code_dim,
        "decoder": decoder,
    }


def refinement_kernels(config: ViTVQGANConfig) -> int:
    """Parameters of the kernels of the decoder's `Refinement`; 0 without one."""
    channels = config.refinement_channels
    return 9 * channels * (config.output_channels + channels + config.output_channels)


def count_discriminator(
    config: DiscriminatorConfig, image_size: tuple[int, int]
) -> tuple[int, int]:
    """Parameters of a `Discriminator`: (kernels, biases)."""
    sizes, widths = discriminator_layers(config, image_size)
    pixels, width = math.prod(sizes[-1]), widths[-1]
    kernels, biases = 3 * widths[0], widths[0]
    for fine, coarse in zip(widths[:-1], widths[1:], strict=True):
        kernels += 9 * fine * fine + 9 * fine * coarse + fine * coarse
        biases += fine + coarse
    # The last convolution sees the minibatch deviation too; then the dense layers.
    kernels += 9 * (width + 1) * width + pixels * width * width + width
    return kernels, biases + 2 * width + 1


def count_vgg16() -> int:
    """Parameters of VGG16 without its dense layers."""
    total, fan_in = 0, 3
    for convolutions, width in VGG16_STAGES:
        for _ in range(convolutions):
            total += 9 * fan_in * width + width
            fan_in = width
    return total


def count_vim(config: VIMConfig, grid: Sequence[int], codes: int, classes: int) -> int:
    """Parameters of a `VIM`; the arguments are those of its constructor."""
    dim = config.transformer.dim
    labels = (classes if config.conditional else 0) + 1  # and the null label
    embeddings = (codes + labels + sum(grid)) * dim
    norm_and_head = 2 * dim + dim * codes + codes
    return embeddings + count_transformer(config.transformer) + norm_and_head


def count_classifier(config: ClassifierConfig, classes: int) -> int:
    """Parameters of a `Classifier`."""
    total, width = 9 * 3 * config.width, config.width
    for stage in range(config.stages):
        channels = config.width * 2**stage
        for block in range(config.blocks):
            total += 2 * width + 9 * width * channels + 2 * channels + 9 * channels * channels
            if channels != width or (stage and not block):
                total += width * channels
            width = channels
    return total + 2 * width + width * classes + classes


def count_tokens(config: ViTVQGANConfig, image_size: tuple[int, int]) -> int:
    """Number of tokens of an image of `image_size`."""
    return math.prod(side // config.patch_size for side in image_size)


def discriminator_layers(
    config: DiscriminatorConfig, image_size: tuple[int, int]
) -> tuple[list[tuple[int, int]], list[int]]:
    """Sizes and widths of the discriminator's levels, fine to coarse.

    Widths that the config leaves open follow the longer side s of the images. At 256 pixels they
    are StyleGAN2's, 64 to 512. The finest level has s / 4, from 32 to 64; no level has more than
    2 s, or 512.
    """
    height, width = image_size
    side = max(image_size)
    most = config.channels or min(2 * side, 512)
    base = config.base_channels or side * min(max(side // 4, 32), 64)
    sizes = [(height, width)]
    while min(sizes[-1]) >= 8:
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    widths = [max(1, min(most, base // max(size))) for size in sizes]
    return sizes, widths
