"""The floating-point operations of each model's forward pass, from its config, without TensorFlow.

Matrix products and convolutions are counted, nearly all of the work; a multiply-add is two
operations. Norms, softmax, activations, sums and blurs are not counted. Masked positions count as
if there were no mask.
"""

import math

from vim_tf.config.loss_sections import DiscriminatorConfig
from vim_tf.config.sections import (
    TransformerConfig,
    VIMConfig,
    ViTVQGANConfig,
)
from vim_tf.costs.parameters import (
    VGG16_STAGES,
    count_tokens,
    discriminator_layers,
    refinement_kernels,
)


def count_transformer_operations(config: TransformerConfig, length: int) -> int:
    """Operations of a `Transformer`, for one image of `length` tokens."""
    projections = 4 * config.dim * config.dim  # queries, keys, values; the heads' outputs
    attention = 2 * length * config.dim  # scores; the values' sum
    mlp = 2 * config.dim * config.mlp_dim
    return 2 * length * config.blocks * (projections + attention + mlp)


def _count_coder_operations(config: TransformerConfig, length: int, fan_in: int, units: int) -> int:
    """Embedding, transformer and tanh head of an encoder or a decoder."""
    ends = fan_in * config.dim + config.dim * config.mlp_dim + config.mlp_dim * units
    return 2 * length * ends + count_transformer_operations(config, length)


def count_encoder_operations(config: ViTVQGANConfig, image_size: tuple[int, int]) -> int:
    """Operations of the encoder, for one image."""
    length, fan_in = count_tokens(config, image_size), 3 * config.patch_size**2
    return _count_coder_operations(config.encoder, length, fan_in, config.encoder.dim)


def count_quantizer_operations(config: ViTVQGANConfig, image_size: tuple[int, int]) -> int:
    """Operations of the quantizer, for one image: projection, and products with all codes."""
    quantizer = config.quantizer
    products = (config.encoder.dim + quantizer.codes) * quantizer.code_dim
    return 2 * count_tokens(config, image_size) * products


def count_decoder_operations(config: ViTVQGANConfig, image_size: tuple[int, int]) -> int:
    """Operations of the decoder, for one image."""
    length, units = count_tokens(config, image_size), config.outputs_per_token
    coder = _count_coder_operations(config.decoder, length, config.quantizer.code_dim, units)
    return coder + 2 * math.prod(image_size) * refinement_kernels(config)


def count_vim_operations(config: VIMConfig, length: int, codes: int) -> int:
    """Operations of a `VIM`, for one image of `length` tokens: its blocks and its logits."""
    logits = 2 * length * config.transformer.dim * codes
    return count_transformer_operations(config.transformer, length) + logits


def count_discriminator_operations(config: DiscriminatorConfig, image_size: tuple[int, int]) -> int:
    """Operations of a `Discriminator`, for one image."""
    sizes, widths = discriminator_layers(config, image_size)
    pixels = [math.prod(size) for size in sizes]
    products = 3 * widths[0] * pixels[0]
    for level, (fine, coarse) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        products += 9 * fine * fine * pixels[level]
        products += (9 + 1) * fine * coarse * pixels[level + 1]  # second convolution, and the skip
    last, width = pixels[-1], widths[-1]
    products += 9 * (width + 1) * width * last  # with the minibatch deviation
    return 2 * (products + last * width * width + width)


def count_vgg16_operations(image_size: tuple[int, int]) -> int:
    """Operations of VGG16 without its dense layers, for one image."""
    products, fan_in = 0, 3
    height, width = image_size
    for convolutions, channels in VGG16_STAGES:
        for _ in range(convolutions):
            products += 9 * fan_in * channels * height * width
            fan_in = channels
        height, width = height // 2, width // 2
    return 2 * products
