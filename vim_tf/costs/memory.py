"""Estimates the device memory of a training from the config, without TensorFlow.

Parameters are counted exactly. Activations are the tensors that the forward pass keeps for the
backward pass, operation by operation as in `models` and `losses`. A test compares them with
TensorFlow's graph; another test compares the total with the memory of real steps. Not counted are
integers, and temporary arrays outside of transformers and logits. XLA fuses operations and keeps
less. A number has 4 bytes in float32, 2 where `compute` is of bfloat16, and 1 in a mask.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vim_tf.config.experiments import (
    DecoderExperiment,
    PixelExperiment,
    VIMExperiment,
    ViTVQGANExperiment,
)
from vim_tf.config.sections import (
    OptimizerConfig,
    TrainingConfig,
    TransformerConfig,
    ViTVQGANConfig,
)
from vim_tf.costs.activations import (
    COLUMNS,
    FLOAT,
    HALF,
    MASK,
    QUERY_BLOCK,
    PerColumn,
    differentiate_block,
    keep_coder,
    keep_discriminator,
    keep_norm,
    keep_perceptual,
    keep_pixel_losses,
    keep_quantizer,
    keep_refinement,
    keep_transformer,
)
from vim_tf.costs.parameters import (
    count_discriminator,
    count_tokens,
    count_vgg16,
    count_vim,
    count_vit_vqgan,
)

SLACK = 0.08  # the share that TensorFlow's allocator adds to each request
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


def _images_at_once(experiment: PixelExperiment | VIMExperiment, replicas: int) -> int:
    return experiment.data.batch_size // replicas // experiment.training.gradient_accumulation_steps


def estimate_vit_vqgan(experiment: ViTVQGANExperiment, replicas: int = 1) -> MemoryEstimate:
    """Estimates the memory of a training of the tokenizer; `replicas` share the batch."""
    config, length = experiment.model, count_tokens(experiment.model, experiment.data.image_size)
    compute = _compute(experiment.training)
    trained = sum(count_vit_vqgan(config, experiment.data.image_size).values())
    dim, losses = config.encoder.dim, experiment.losses
    activations = {
        "encoder": keep_coder(config.encoder, length, 3 * config.patch_size**2, compute),
        "quantizer": _same(keep_quantizer(config.quantizer, losses, dim, length)),
    }
    coders = (config.encoder, config.decoder)
    return _estimate_pixels(
        experiment, config, replicas, {"tokenizer": trained}, {}, activations, coders
    )


def estimate_decoder(
    experiment: DecoderExperiment, tokenizer_config: ViTVQGANConfig, replicas: int = 1
) -> MemoryEstimate:
    """Estimates the memory of a training of a decoder.

    Args:
        experiment: the config of the training.
        tokenizer_config: the config of its tokenizer.
        replicas: number of replicas that share the batch.
    """
    parts = count_vit_vqgan(tokenizer_config, experiment.data.image_size)
    trained = {"decoder": parts.pop("decoder")}
    # Of the tokenizer that is opened, of the model and of the averages; and one whole decoder.
    frozen = {"encoder and quantizer, three copies": 3 * sum(parts.values())}
    frozen["decoder to start from"] = trained["decoder"]
    coders = (tokenizer_config.decoder,)
    return _estimate_pixels(experiment, tokenizer_config, replicas, trained, frozen, {}, coders)


def _estimate_pixels(
    experiment: PixelExperiment,
    config: ViTVQGANConfig,
    replicas: int,
    trained: dict[str, int],
    frozen: dict[str, int],
    activations: dict[str, PerColumn],
    coders: Sequence[TransformerConfig],
) -> MemoryEstimate:
    """Adds the decoder's activations and the networks of the losses."""
    losses, image_size = experiment.losses, experiment.data.image_size
    training, length = experiment.training, count_tokens(config, image_size)
    query_block, compute = training.query_block or QUERY_BLOCK, _compute(training)
    batch = _images_at_once(experiment, replicas)
    averaged = gradients = sum(trained.values())
    slots = _slots(experiment.optimizer, averaged)
    activations |= {
        "decoder": keep_coder(config.decoder, length, config.quantizer.code_dim, compute),
        "pixel losses": _same(keep_pixel_losses(config, losses, image_size)),
    }
    if config.refinement_channels:
        activations["refinement"] = _same(keep_refinement(config, image_size, compute))
    blocks = [
        differentiate_block(size, length, query_block=query_block, compute=compute)
        for size in coders
    ]
    at_once = tuple(map(max, zip(*blocks, strict=True)))
    if losses.perceptual:
        frozen["VGG16"] = count_vgg16()
        activations["perceptual loss"] = _same(keep_perceptual(image_size))
    activations = {name: tuple(batch * n for n in kept) for name, kept in activations.items()}
    activations |= _cast(averaged, sum(size.blocks for size in coders), compute)
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
    ends = length * keep_norm(size.dim, compute)
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
