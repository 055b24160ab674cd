"""Predicts memory and step time of a training on other hardware, from its config alone.

Needs no TensorFlow. `memory` estimates the memory. The step time is the least that the hardware
allows: the time of the operations of `operations` at its FLOP rate, or the time to read and write
the data at its bandwidth, whichever is longer. Measured steps on CPUs took 1.1 to 1.4 times that,
see docs/performance.md. Communication between devices and reading images are not included.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from vim_tf.config.checks import batch_divides
from vim_tf.config.experiments import (
    DecoderExperiment,
    PixelExperiment,
    TrainingExperiment,
    VIMExperiment,
    ViTVQGANExperiment,
)
from vim_tf.config.sections import TransformerConfig, ViTVQGANConfig
from vim_tf.costs import memory
from vim_tf.costs.operations import (
    count_decoder_operations,
    count_discriminator_operations,
    count_encoder_operations,
    count_quantizer_operations,
    count_transformer_operations,
    count_vgg16_operations,
    count_vim_operations,
)
from vim_tf.costs.parameters import count_tokens
from vim_tf.errors import UserError

ASSUMED_CLASSES = 1000  # the embeddings of labels are small compared with the rest
# Costs in forward passes: a gradient by inputs and a gradient by weights cost one each.
TRAINED = 3
# Two forward passes, of real and fake; four gradients by weights and inputs for its own loss; one
# gradient by the pixels of the fake for the generator's loss.
DISCRIMINATOR = 2 + 4 + 1
R1 = 6  # a forward pass, the gradient by pixels, and the gradients of both
PERCEPTUAL = 2 + 1  # image and reconstruction; the gradient by the reconstruction's pixels
# (Experiment, devices, tokenizer's config) -> (the memory of a device, {part: floating-point
# operations an image}). Each function takes its own class of experiment, hence Any.
CountStep: TypeAlias = Callable[
    [Any, int, ViTVQGANConfig | None], tuple[memory.MemoryEstimate, dict[str, float]]
]


@dataclass(frozen=True)
class Prediction:
    """The prediction of a training step on given hardware.

    Attributes:
        estimate: the memory of a device.
        operations: part -> floating-point operations of a device in a step, on average.
        traffic: bytes that a device must read and write in a step.
        flops: floating-point operations a second of a device.
        bandwidth: bytes a second of a device's memory.
        devices: number of devices.
        images: images in a step, on all devices.
        steps: steps of the training.
    """

    estimate: memory.MemoryEstimate
    operations: dict[str, float]
    traffic: float
    flops: float
    bandwidth: float
    devices: int
    images: int
    steps: int

    @property
    def seconds(self) -> float:
        """The least time of a step."""
        return max(sum(self.operations.values()) / self.flops, self.traffic / self.bandwidth)

    def format(self) -> str:
        """Returns the prediction as text of several lines."""
        total = sum(self.operations.values())
        lines = [
            self.estimate.format(),
            "",
            f"{self.devices} device{'s' * (self.devices > 1)} of {self.flops / 1e12:,.3g} TFLOP/s "
            f"and {self.bandwidth / 1e9:,.4g} GB/s; per device and step:",
        ]
        for name, count in self.operations.items():
            lines.append(f"{name:38}{count / 1e12:12,.3g} TFLOP{count / self.flops:10,.3g} s")
        lines += [
            f"{'all':38}{total / 1e12:12,.3g} TFLOP{total / self.flops:10,.3g} s",
            f"{'memory read and written':38}{self.traffic / 1e9:12,.3g} GB   "
            f"{self.traffic / self.bandwidth:10,.3g} s",
            f"at least {self.seconds:.3g} s per step, {self.steps:,} steps in "
            f"{self.steps * self.seconds / 3600:,.3g} hours; at most "
            f"{self.images / self.seconds:,.4g} img/s.",
            "Measured steps on CPUs took 1.1 to 1.4 times as long.",
        ]
        return "\n".join(lines)


def predict(
    experiment: TrainingExperiment,
    count_step: CountStep,
    flops: float,
    bandwidth: float,
    devices: int = 1,
    tokenizer_config: ViTVQGANConfig | None = None,
) -> Prediction:
    """Predicts memory and step time of a training.

    Args:
        experiment: the training's config.
        count_step: a `CountStep`, such as `count_vim_step`.
        flops: floating-point operations a second of a device, in the experiment's precision.
        bandwidth: bytes a second of a device's memory.
        devices: number of devices.
        tokenizer_config: the config of the frozen tokenizer of a VIM or a decoder; None is the
            default, base.

    Raises:
        UserError: a number is not positive, or the devices cannot share the batch equally.
    """
    for name, value in (("flops", flops), ("bandwidth", bandwidth), ("devices", devices)):
        if not value > 0:
            raise UserError(f"{name} is {value}; it must be above 0, for example 312e12")
    batch_divides(experiment, devices)
    estimate, operations = count_step(experiment, devices, tokenizer_config)
    batch, training = experiment.data.batch_size, experiment.training
    share = batch // devices
    return Prediction(
        estimate,
        {name: share * count for name, count in operations.items()},
        training.gradient_accumulation_steps * _activations(estimate) + _weights(estimate),
        flops,
        bandwidth,
        devices,
        batch,
        training.steps,
    )


def _activations(estimate: memory.MemoryEstimate) -> int:
    """Bytes of the kept tensors, which are written in the forward and read in the backward pass."""
    kept = [n for name, n in estimate.rows.items() if name.startswith("activations: ")]
    rare = [n for name, n in estimate.rows.items() if name.startswith("activations: R1")]
    return 2 * (sum(n[estimate.column] for n in kept) - sum(n[estimate.column] for n in rare))


def _weights(estimate: memory.MemoryEstimate) -> int:
    """Bytes read and written for the weights: both passes, gradients, slots and averages."""
    times = {"weights": 4, "gradients": 2, "optimizer's slots": 2, "moving average of weights": 2}
    return sum(count * estimate.rows[name][estimate.column] for name, count in times.items())


def count_vit_vqgan_step(
    experiment: ViTVQGANExperiment, devices: int, tokenizer_config: ViTVQGANConfig | None = None
) -> tuple[memory.MemoryEstimate, dict[str, float]]:
    """Counts a training step of the tokenizer, see `CountStep`."""
    config, image_size = experiment.model, experiment.data.image_size
    forward = count_encoder_operations(config, image_size)
    forward += count_quantizer_operations(config, image_size)
    forward += count_decoder_operations(config, image_size)
    length = count_tokens(config, image_size)
    again = _computed_again(experiment, [config.encoder, config.decoder], length)
    found = {"tokenizer": TRAINED * forward + again, **_count_loss_networks(experiment)}
    return memory.estimate_vit_vqgan(experiment, devices), found


def count_decoder_step(
    experiment: DecoderExperiment, devices: int, tokenizer_config: ViTVQGANConfig | None = None
) -> tuple[memory.MemoryEstimate, dict[str, float]]:
    """Counts a training step of a decoder, see `CountStep`."""
    config, image_size = tokenizer_config or ViTVQGANConfig(), experiment.data.image_size
    tokenizing = count_encoder_operations(config, image_size)
    tokenizing += count_quantizer_operations(config, image_size)
    forward = count_decoder_operations(config, image_size)
    again = _computed_again(experiment, [config.decoder], count_tokens(config, image_size))
    found = {"tokenizing": tokenizing, "decoder": TRAINED * forward + again}
    found |= _count_loss_networks(experiment)
    return memory.estimate_decoder(experiment, config, devices), found


def _count_loss_networks(experiment: PixelExperiment) -> dict[str, float]:
    losses, image_size, found = experiment.losses, experiment.data.image_size, {}
    if losses.perceptual:
        found["perceptual loss"] = PERCEPTUAL * count_vgg16_operations(image_size)
    if losses.adversarial:
        one = count_discriminator_operations(experiment.discriminator, image_size)
        found["discriminator"] = DISCRIMINATOR * one
        found["R1, its share of a step"] = R1 * one / experiment.discriminator.r1_every
    return found


def count_vim_step(
    experiment: VIMExperiment, devices: int, tokenizer_config: ViTVQGANConfig | None = None
) -> tuple[memory.MemoryEstimate, dict[str, float]]:
    """Counts a training step of VIM, see `CountStep`."""
    tokenizer = tokenizer_config or ViTVQGANConfig()
    image_size = experiment.data.image_size
    length, codes = count_tokens(tokenizer, image_size), tokenizer.quantizer.codes
    forward = count_vim_operations(experiment.model, length, codes)
    again = _computed_again(experiment, [experiment.model.transformer], length)
    found: dict[str, float] = {"VIM": TRAINED * forward + again}
    if experiment.tokenizer.online:
        found["tokenizing"] = count_encoder_operations(tokenizer, image_size)
        found["tokenizing"] += count_quantizer_operations(tokenizer, image_size)
    estimate = memory.estimate_vim(experiment, tokenizer, ASSUMED_CLASSES, devices)
    return estimate, found


def _computed_again(
    experiment: PixelExperiment | VIMExperiment,
    transformers: Sequence[TransformerConfig],
    length: int,
) -> int:
    """Operations that rematerialisation computes a second time: those inside of the blocks."""
    if not experiment.training.rematerialize:
        return 0
    return sum(count_transformer_operations(config, length) for config in transformers)
