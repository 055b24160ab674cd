"""The sections of a config about the tokenizer's losses and the networks that only losses use.

As in `sections`: frozen dataclasses without TensorFlow, whose defaults are the paper's.
"""

from dataclasses import dataclass, field
from typing import Literal

from vim_tf.config import checks
from vim_tf.config.checks import not_negative, positive, require, sizes


@dataclass(frozen=True)
class DiscriminatorConfig:
    """StyleGAN2's residual discriminator (arXiv 1912.04958) and when it takes part.

    Its widths follow the image size unless they are given: see `costs.parameters`.
    """

    channels: int | None = None  # at the coarsest resolution; no other has more
    base_channels: int | None = None  # resolution r has base_channels / r, capped at channels
    start: float = 0  # a step; a value below 1 is a fraction of the run
    plateau: float = 0.0  # dB: waits after start until PSNR gains less between evaluations
    ramp_steps: int = 0  # the adversarial weight grows linearly over this many steps
    # The paper names none; its authors advise StyleGAN2's, non-saturating with R1.
    loss: Literal["non_saturating", "hinge"] = "non_saturating"
    r1_gamma: float | None = None  # by default 10 at 256 pixels, in proportion to the longer side
    r1_every: int = 16
    # DiffAugment (arXiv 2006.10738): the discriminator sees real and fake images changed at random.
    augment: bool = False  # shifted by up to 1/8 of a side, with a grey square of half a side
    augment_colour: bool = False  # with another brightness, saturation and contrast

    def __post_init__(self) -> None:
        for name, most in (
            ("channels", checks.WIDEST),
            ("base_channels", checks.MOST_BASE_CHANNELS),
        ):
            if (width := getattr(self, name)) is not None:
                sizes("discriminator", **{name: (width, most)})
        not_negative(
            "discriminator",
            start=self.start,
            plateau=self.plateau,
            ramp_steps=self.ramp_steps,
            r1_gamma=self.r1_gamma or 0,
        )
        positive("discriminator", r1_every=self.r1_every)


@dataclass(frozen=True)
class PerceptualNetworkConfig:
    """The frozen VGG16 of the perceptual loss: Keras' ImageNet weights, or those of a file."""

    path: str | None = None  # VGG16 weights without top; unset: Keras downloads its own, once
    sha256: str | None = None  # of the file, so that a run resumes with the same network

    def __post_init__(self) -> None:
        require(
            self.path or not self.sha256,
            "perceptual_network.sha256 is set and perceptual_network.path is not; the hash belongs "
            "to a file, so set both or neither",
        )


@dataclass(frozen=True)
class PixelLossConfig:
    """Weight of each loss term of pixels (section 3.3); 0 leaves the term out."""

    l2: float = 1.0
    logit_laplace: float = 0.1
    perceptual: float = 0.1
    adversarial: float = 0.1
    # The adversarial gradient at the decoder's output is at most this share of that of the other
    # terms; losses.adversarial is lowered to hold it. Ours: the paper names no bound.
    adversarial_limit: float = 0.1
    perceptual_network: PerceptualNetworkConfig = field(default_factory=PerceptualNetworkConfig)

    def __post_init__(self) -> None:
        not_negative(
            "losses",
            l2=self.l2,
            logit_laplace=self.logit_laplace,
            perceptual=self.perceptual,
            adversarial=self.adversarial,
        )
        positive("losses", adversarial_limit=self.adversarial_limit)
        require(
            self.l2 or self.logit_laplace or self.perceptual,
            "losses.l2, losses.logit_laplace and losses.perceptual are 0, so that nothing compares "
            "reconstructions with their images; set one of them",
        )


@dataclass(frozen=True)
class ViTVQGANLossConfig(PixelLossConfig):
    """Weight of each loss term (section 3.3); 0 leaves the term out."""

    codebook_mean: float = 1.0  # the mean over the code's dimensions, see losses.codebook_loss
    commitment_mean: float = 0.25  # the paper's beta
    entropy: float = 0.0  # MaskGIT's code: 0.1; arXiv 2212.03185: 0.01
    entropy_temperature: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(
            "losses",
            codebook_mean=self.codebook_mean,
            commitment_mean=self.commitment_mean,
            entropy=self.entropy,
        )
        positive("losses", entropy_temperature=self.entropy_temperature)
