"""Estimates the device memory of a training from the config, without TensorFlow.

Parameters are counted exactly. Activations are the tensors that the forward pass keeps for the
backward pass, operation by operation as in `models` and `losses`. A test compares them with
TensorFlow's graph; another test compares the total with the memory of real steps. Not counted are
integers, and temporary arrays outside of transformers and logits. XLA fuses operations and keeps
less. A number has 4 bytes in float32, 2 where `compute` is of bfloat16, and 1 in a mask.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

from vim_tf.config.experiments import VIMExperiment, ViTVQGANExperiment
from vim_tf.config.loss_sections import DiscriminatorConfig, ViTVQGANLossConfig
from vim_tf.config.sections import (
    OptimizerConfig,
    QuantizerConfig,
    TrainingConfig,
    TransformerConfig,
    ViTVQGANConfig,
)
from vim_tf.costs.parameters import (
    VGG16_MIN_SIDE,
    VGG16_STAGES,
    count_discriminator,
    count_tokens,
    count_vgg16,
    count_vim,
    count_vit_vqgan,
    discriminator_layers,
)

FLOAT, HALF, MASK = 4, 2, 1  # bytes
QUERY_BLOCK = 128  # for the estimate if training.query_block is off
# Temporary arrays at once: of attention weights (for the gradient, or random bits of the dropout),
# and of the MLP's hidden layer. Measured from TensorFlow's allocations.
WEIGHTS_ARRAYS, HIDDEN_ARRAYS = 2, 2
SLACK = 0.08  # the share that TensorFlow's allocator adds to each request
COLUMNS = ("plain", "rematerialize", "query_block", "both")
PerColumn: TypeAlias = tuple[int, ...]  # bytes, one number for each of `COLUMNS`
FOOTNOTE = """\
Estimates. On a GPU, convolutions may need more memory while they run.
training.rematerialize computes the inside of each block again for its gradient.
training.query_block computes attention weights again, here for {query_block} queries at a time."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one replica.

    Attributes:
        batch: number of images in the replica's share of the batch.
        parameters: network -> number of its trained parameters.
        rows: name -> bytes, one number for each of `COLUMNS`.
        query_block: queries at a time in the last two columns.
        column: index of the configured one of `COLUMNS`.
    """

    batch: int
    parameters: dict[str, int]
    rows: dict[str, PerColumn]
    query_block: int = QUERY_BLOCK
    column: int = 0

    @property
    def total(self) -> PerColumn:
        """Sum of the rows, one number for each of `COLUMNS`."""
        return tuple(sum(column) for column in zip(*self.rows.values(), strict=True))

    @property
    def configured(self) -> int:
        """Bytes with the settings of the config."""
        return self.total[self.column]

    def format(self) -> str:
        """Returns the table as text of several lines."""
        rows = {**self.rows, "total": self.total}
        width = max(38, *map(len, rows))
        title = f"estimate for a replica of {self.batch} images:"
        lines = [f"{title:{width}}" + "".join(f"{column:>14}" for column in COLUMNS)]
        for name, row in rows.items():
            lines.append(f"{name:{width}}" + "".join(f"{format_bytes(n):>14}" for n in row))
        chosen = f"as configured, {COLUMNS[self.column]}: {format_bytes(self.configured)}"
        return "\n".join([*lines, chosen, FOOTNOTE.format(query_block=self.query_block)])


def format_bytes(number: int) -> str:
    """Returns a number of bytes as text, for example "3.5 GiB"."""
    units = ("bytes", "KiB", "MiB", "GiB")
    power = min(int(math.log(max(number, 1), 1024)), len(units) - 1)
    return f"{number / 1024**power:,.{1 if power else 0}f} {units[power]}"


# Activations of one image, in bytes -------------------------------------------------------------


def _norm(dim: int, compute: int) -> int:
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
    token = _norm(dim, compute) + compute * (3 * dim + dim)
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
    token = _norm(config.dim, compute) + compute * 5 * config.mlp_dim
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


def _keep_coder(config: TransformerConfig, length: int, fan_in: int, compute: int) -> PerColumn:
    """Inputs of the embedding, transformer, and the tanh head's norm and hidden layer."""
    ends = length * (compute * (fan_in + config.mlp_dim) + _norm(config.dim, compute))
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
    config: ViTVQGANConfig, losses: ViTVQGANLossConfig, image_size: tuple[int, int]
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


# Both stages ------------------------------------------------------------------------------------


def _estimate(
    training: TrainingConfig,
    batch: int,
    trained: dict[str, int],
    slots: int,
    averaged: int,
    frozen: dict[str, int],
    gradients: int,
    activations: dict[str, PerColumn],
    at_once: PerColumn,
) -> MemoryEstimate:
    gradients *= 1 + (training.gradient_accumulation_steps > 1)  # the sum, and those of a part
    of_a_step = {f"activations: {name}": kept for name, kept in activations.items()}
    of_a_step["a gradient's arrays at once"] = tuple(batch * n for n in at_once)
    rows = {
        "weights": _same(FLOAT * sum(trained.values())),
        "optimizer's slots": _same(FLOAT * slots),
        "moving average of weights": _same(FLOAT * averaged),
        **{f"weights of the frozen {name}": _same(FLOAT * count) for name, count in frozen.items()},
        "gradients": _same(FLOAT * gradients),
        **of_a_step,
        "slack": tuple(round(SLACK * sum(n)) for n in zip(*of_a_step.values(), strict=True)),
    }
    column = training.rematerialize + 2 * bool(training.query_block)
    return MemoryEstimate(batch, trained, rows, training.query_block or QUERY_BLOCK, column)


def _same(kept: int) -> PerColumn:
    return (kept,) * len(COLUMNS)


def _slots(optimizer: OptimizerConfig, parameters: int) -> int:
    """Numbers that an optimizer keeps; those of a factored moment, below 1%, are left out."""
    return parameters * (1 if optimizer.second_moment == "factored" else 2)


def _compute(training: TrainingConfig) -> int:
    return HALF if training.precision == "mixed_bfloat16" else FLOAT


def _cast(parameters: int, blocks: int, compute: int) -> dict[str, PerColumn]:
    """{name: bytes} of the cast weights of a step; of one block if blocks are computed again."""
    if compute == FLOAT:
        return {}
    whole, one = compute * parameters, compute * parameters // blocks
    return {"weights in bfloat16": (whole, one, whole, one)}


def _images_at_once(experiment: ViTVQGANExperiment | VIMExperiment, replicas: int) -> int:
    return experiment.data.batch_size // replicas // experiment.training.gradient_accumulation_steps


def estimate_vit_vqgan(experiment: ViTVQGANExperiment, replicas: int = 1) -> MemoryEstimate:
    """Estimates the memory of a training of the tokenizer; `replicas` share the batch."""
    config, losses, image_size = experiment.model, experiment.losses, experiment.data.image_size
    training, length = experiment.training, count_tokens(config, image_size)
    query_block, compute = training.query_block or QUERY_BLOCK, _compute(training)
    batch = _images_at_once(experiment, replicas)
    trained = {"tokenizer": sum(count_vit_vqgan(config, image_size).values())}
    averaged = gradients = trained["tokenizer"]
    slots = _slots(experiment.optimizer, trained["tokenizer"])
    activations = {
        "encoder": _keep_coder(config.encoder, length, 3 * config.patch_size**2, compute),
        "quantizer": _same(keep_quantizer(config.quantizer, losses, config.encoder.dim, length)),
        "decoder": _keep_coder(config.decoder, length, config.quantizer.code_dim, compute),
        "pixel losses": _same(keep_pixel_losses(config, losses, image_size)),
    }
    if config.refinement_channels:
        activations["refinement"] = _same(keep_refinement(config, image_size, compute))
    blocks = [
        differentiate_block(size, length, query_block=query_block, compute=compute)
        for size in (config.encoder, config.decoder)
    ]
    at_once = tuple(map(max, *blocks))
    frozen = {}
    if losses.perceptual:
        frozen["VGG16"] = count_vgg16()
        activations["perceptual loss"] = _same(keep_perceptual(image_size))
    activations = {name: tuple(batch * n for n in kept) for name, kept in activations.items()}
    activations |= _cast(averaged, config.encoder.blocks + config.decoder.blocks, compute)
    if losses.adversarial:
        trained["discriminator"] = sum(count_discriminator(experiment.discriminator, image_size))
        slots += _slots(experiment.discriminator_optimizer, trained["discriminator"])
        gradients += 2 * trained["discriminator"]  # of its loss, and of R1
        forward, r1 = keep_discriminator(experiment.discriminator, image_size, batch)
        # Real and fake images; the adversarial term's gradient by the reconstruction.
        direction = FLOAT * 3 * batch * math.prod(image_size)
        activations["discriminator"] = _same(2 * forward + direction)
        activations[f"R1, every {experiment.discriminator.r1_every} steps"] = _same(r1)
    return _estimate(
        training, batch, trained, slots, averaged, frozen, gradients, activations, at_once
    )


def estimate_vim(
    experiment: VIMExperiment, tokenizer_config: ViTVQGANConfig, classes: int, replicas: int = 1
) -> MemoryEstimate:
    """Estimates the memory of a training of VIM.

    Args:
        experiment: the config of the training.
        tokenizer_config: the config of its tokenizer.
        classes: number of classes.
        replicas: number of replicas that share the batch.
    """
    config, image_size = experiment.model, experiment.data.image_size
    grid = tuple(side // tokenizer_config.patch_size for side in image_size)
    codes, length = tokenizer_config.quantizer.codes, math.prod(grid)
    training, batch = experiment.training, _images_at_once(experiment, replicas)
    compute = _compute(training)
    parameters = count_vim(config, grid, codes, classes)
    size = config.transformer
    ends = length * _norm(size.dim, compute)
    # The logits, their gradient, and with bfloat16 a cast.
    logits = length * codes * (2 * FLOAT + compute * (compute != FLOAT))
    if size.dropout:
        ends += MASK * length * size.dim  # after the embeddings
    kept = keep_transformer(size, length, True, compute)
    blocks = differentiate_block(size, length, True, training.query_block or QUERY_BLOCK, compute)
    at_once = tuple(max(logits, block) for block in blocks)
    activations = {
        "transformer": tuple(batch * n for n in kept),
        "embeddings and last norm": _same(batch * ends),
        **_cast(parameters, size.blocks, compute),
    }
    frozen = {"tokenizer": sum(count_vit_vqgan(tokenizer_config, image_size).values())}
    trained = {"VIM": parameters}
    slots = _slots(experiment.optimizer, parameters)
    return _estimate(
        training, batch, trained, slots, parameters, frozen, parameters, activations, at_once
    )
