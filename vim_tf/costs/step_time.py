"""What training would take on hardware that is not here, from a config alone, without TensorFlow.

Memory is that of `memory`. A step's time is the least that the hardware's limits allow: the
operations of products and convolutions at its rate of them, or what must be read and written at its
bandwidth, whichever takes longer. Steps that were measured, on CPUs, took 1.1 to 1.4 times that, as
docs/performance.md has it; exchange between devices and reading images come on top.
"""

from dataclasses import dataclass

from vim_tf.config.checks import batch_divides
from vim_tf.config.sections import ViTVQGANConfig
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

ASSUMED_CLASSES = 1000  # a label's embedding is little beside the rest
# Forward passes that a step comes to: a gradient by inputs and one by weights are one each.
TRAINED = 3
# Of real and fake: forward; by weights and inputs for its loss; by the fake's pixels for ours.
DISCRIMINATOR = 2 + 4 + 1
R1 = 6  # forward, by pixels, and both once more for its gradient
PERCEPTUAL = 2 + 1  # of image and reconstruction; by the reconstruction's pixels


@dataclass(frozen=True)
class Prediction:
    """A training step on given hardware.

    Attributes:
        estimate: the `memory.MemoryEstimate` of a device.
        operations: part -> floating-point operations of a device in a step, on average.
        traffic: bytes that a device must read and write in a step.
        flops: its floating-point operations a second.
        bandwidth: its bytes a second.
        devices: number of them.
        images: of a step, on all devices.
        steps: of the training.
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
    def seconds(self):
        """The least time of a step."""
        return max(sum(self.operations.values()) / self.flops, self.traffic / self.bandwidth)

    def format(self):
        """Returns it as text of several lines."""
        total = sum(self.operations.values())
        lines = [
            self.estimate.format(),
            "",
            f"{self.devices} device{'s' * (self.devices > 1)} of {self.flops / 1e12:,.3g} TFLOP/s "
            f"and {self.bandwidth / 1e9:,.4g} GB/s; of each in a step:",
        ]
        for name, count in self.operations.items():
            lines.append(f"{name:38}{count / 1e12:12,.3g} TFLOP{count / self.flops:10,.3g} s")
        lines += [
            f"{'all':38}{total / 1e12:12,.3g} TFLOP{total / self.flops:10,.3g} s",
            f"{'memory read and written':38}{self.traffic / 1e9:12,.3g} GB   "
            f"{self.traffic / self.bandwidth:10,.3g} s",
            f"at least {self.seconds:.3g} s a step, {self.steps:,} steps in "
            f"{self.steps * self.seconds / 3600:,.3g} hours; at most "
            f"{self.images / self.seconds:,.4g} img/s.",
            "Steps that were measured, on CPUs, took 1.1 to 1.4 times as long.",
        ]
        return "\n".join(lines)


def predict(experiment, count_step, flops, bandwidth, devices=1, tokenizer_config=None):
    """Predicts a training.

    Args:
        experiment: the training's config.
        count_step: function (experiment, devices, tokenizer_config) -> (the `MemoryEstimate` of a
            device, {part: floating-point operations an image}), such as `count_vim_step`.
        flops: of a device, in the experiment's precision.
        bandwidth: of a device's memory, bytes a second.
        devices: number of devices.
        tokenizer_config: the `ViTVQGANConfig` of a VIM's tokenizer; None is the default, base.

    Returns:
        `Prediction`.

    Raises:
        UserError: a number is not positive, or the batch does not divide.
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


def _activations(estimate):
    """Bytes of what is kept, written in the forward pass and read in the backward pass."""
    kept = [n for name, n in estimate.rows.items() if name.startswith("activations: ")]
    rare = [n for name, n in estimate.rows.items() if name.startswith("activations: R1")]
    return 2 * (sum(n[estimate.column] for n in kept) - sum(n[estimate.column] for n in rare))


def _weights(estimate):
    """Bytes of an update: weights forward and backward, gradients, slots, averages, and back."""
    times = {"weights": 4, "gradients": 2, "optimizer's slots": 2, "moving average of weights": 2}
    return sum(count * estimate.rows[name][estimate.column] for name, count in times.items())


def count_vit_vqgan_step(experiment, devices, tokenizer_config=None):
    """Counts a step of a `ViTVQGANExperiment`, see `predict`."""
    config, losses, image_size = experiment.model, experiment.losses, experiment.data.image_size
    forward = count_encoder_operations(config, image_size)
    forward += count_quantizer_operations(config, image_size)
    forward += count_decoder_operations(config, image_size)
    length = count_tokens(config, image_size)
    again = _computed_again(experiment, [config.encoder, config.decoder], length)
    found = {"tokenizer": TRAINED * forward + again}
    if losses.perceptual:
        found["perceptual loss"] = PERCEPTUAL * count_vgg16_operations(image_size)
    if losses.adversarial:
        one = count_discriminator_operations(experiment.discriminator, image_size)
        found["discriminator"] = DISCRIMINATOR * one
        found["R1, its share of a step"] = R1 * one / experiment.discriminator.r1_every
    return memory.estimate_vit_vqgan(experiment, devices), found


def count_vim_step(experiment, devices, tokenizer_config=None):
    """Counts a step of a `VIMExperiment`, see `predict`."""
    tokenizer = tokenizer_config or ViTVQGANConfig()
    image_size = experiment.data.image_size
    length, codes = count_tokens(tokenizer, image_size), tokenizer.quantizer.codes
    forward = count_vim_operations(experiment.model, length, codes)
    again = _computed_again(experiment, [experiment.model.transformer], length)
    found = {"VIM": TRAINED * forward + again}
    if experiment.tokenizer.online:
        found["tokenizing"] = count_encoder_operations(tokenizer, image_size)
        found["tokenizing"] += count_quantizer_operations(tokenizer, image_size)
    estimate = memory.estimate_vim(experiment, tokenizer, ASSUMED_CLASSES, devices)
    return estimate, found


def _computed_again(experiment, transformers, length):
    """Operations of the blocks, whose inside rematerialisation computes twice."""
    if not experiment.training.rematerialize:
        return 0
    return sum(count_transformer_operations(config, length) for config in transformers)
