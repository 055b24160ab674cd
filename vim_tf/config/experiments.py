"""The experiments: everything that can be trained. The key `experiment` of a config names one.

`config.loader` reads the rest of the file into the class. Imports neither TensorFlow nor Keras.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from vim_tf.config.checks import MOST_BLOCKS, cpu_replicas, no_longer_than, require, tokens
from vim_tf.config.loss_sections import (
    DiscriminatorConfig,
    PixelLossConfig,
    ViTVQGANLossConfig,
)
from vim_tf.config.sections import (
    ClassifierConfig,
    DataConfig,
    FrozenTokenizerConfig,
    OptimizerConfig,
    PerturbationConfig,
    SGDHeadConfig,
    Strategy,
    TokenizerConfig,
    TrainingConfig,
    VIMConfig,
    ViTVQGANConfig,
)
from vim_tf.messages import shorten


def _discriminator_optimizer() -> OptimizerConfig:
    """StyleGAN2's (arXiv 1912.04958); its equalised weights need 20 times the paper's rate of 1e-4.

    No warm-up and no decay, so that it fits a run of any length.
    """
    return OptimizerConfig(
        learning_rate=2e-3, beta_1=0.0, weight_decay=0.0, schedule="constant", warmup_steps=0
    )


@dataclass(frozen=True)
class ViTVQGANExperiment:
    """`experiment: vit_vqgan`: trains the image tokenizer."""

    experiment: ClassVar[str] = "vit_vqgan"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ViTVQGANConfig = field(default_factory=ViTVQGANConfig)
    losses: ViTVQGANLossConfig = field(default_factory=ViTVQGANLossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    discriminator_optimizer: OptimizerConfig = field(default_factory=_discriminator_optimizer)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        height, width = self.data.image_size
        patch = self.model.patch_size
        place = f"data.image_size is {height} x {width} and model.patch_size is {patch}"
        require(
            height % patch == 0 and width % patch == 0,
            f"{place}; height and width must be multiples of the patch size",
        )
        tokens(*self.grid, place)
        require(
            self.losses.logit_laplace == 0 or self.model.output == "logit_laplace",
            f"losses.logit_laplace is {self.losses.logit_laplace} and model.output is "
            f"{self.model.output}; set losses.logit_laplace: 0 or model.output: logit_laplace",
        )
        one_device = self.training.strategy == "one_device"
        require(
            one_device or not (self.losses.entropy and self.training.jit_compile),
            f"losses.entropy is {self.losses.entropy}, training.jit_compile is true and "
            f"training.strategy is {self.training.strategy}: replicas cannot average their choices "
            "of codes inside XLA; set training.jit_compile: false or losses.entropy: 0",
        )
        parts = self.training.gradient_accumulation_steps
        require(
            parts == 1 or not self.losses.entropy,
            f"losses.entropy is {self.losses.entropy} and training.gradient_accumulation_steps is "
            f"{parts}: the entropy term needs the whole batch at once; leave one of them out",
        )
        no_longer_than(self.training, optimizer=self.optimizer)
        if self.losses.adversarial:
            no_longer_than(self.training, discriminator_optimizer=self.discriminator_optimizer)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        height, width = self.data.image_size
        return height // self.model.patch_size, width // self.model.patch_size


@dataclass(frozen=True)
class DecoderExperiment:
    """`experiment: decoder`: trains the decoder of a tokenizer whose tokens stay as they are.

    As Parti does (arXiv 2206.10789, section 2.1), with the decoder of the tokenizer itself.
    """

    experiment: ClassVar[str] = "decoder"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: FrozenTokenizerConfig = field(default_factory=FrozenTokenizerConfig)
    perturbation: PerturbationConfig = field(default_factory=PerturbationConfig)
    losses: PixelLossConfig = field(default_factory=lambda: PixelLossConfig(logit_laplace=0.0))
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    discriminator_optimizer: OptimizerConfig = field(default_factory=_discriminator_optimizer)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        no_longer_than(self.training, optimizer=self.optimizer)
        if self.losses.adversarial:
            no_longer_than(self.training, discriminator_optimizer=self.discriminator_optimizer)


@dataclass(frozen=True)
class VIMExperiment:
    """`experiment: vim`: trains the autoregressive model on a tokenizer's tokens."""

    experiment: ClassVar[str] = "vim"
    seed: int = 0
    data: DataConfig = field(default_factory=lambda: DataConfig(batch_size=1024))
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: VIMConfig = field(default_factory=VIMConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            learning_rate=4.5e-4,
            beta_2=0.96,
            weight_decay=4.5e-2,  # this and clip_norm: of Parti, by the same group; VIM names none
            clip_norm=4.0,
            schedule="exponential",
            warmup_steps=5_000,
            decay_start=80_000,
            final_ratio=1e-5 / 4.5e-4,
        )
    )
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=450_000))

    def __post_init__(self) -> None:
        no_longer_than(self.training, optimizer=self.optimizer)


@dataclass(frozen=True)
class ClassifierExperiment:
    """`experiment: classifier`: trains a classifier of the images' labels.

    It evaluates samples: it gives proxy features and accuracy, and selects the samples to keep.
    """

    experiment: ClassVar[str] = "classifier"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ClassifierConfig = field(default_factory=ClassifierConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            learning_rate=2e-3, weight_decay=0.05, warmup_steps=100, final_ratio=0.01
        )
    )
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=5_000))

    def __post_init__(self) -> None:
        require(
            not self.training.rematerialize and not self.training.query_block,
            "training.rematerialize and training.query_block are for transformers, and a "
            "classifier has none; leave them out",
        )
        no_longer_than(self.training, optimizer=self.optimizer)


@dataclass(frozen=True)
class LinearProbeExperiment:
    """`experiment: linear_probe`: a linear classifier on features of a frozen VIM (section 3.4)."""

    experiment: ClassVar[str] = "linear_probe"
    seed: int = 0
    run: str | None = None  # the folder of a VIM run
    blocks: str = "all"  # or numbers separated by commas; 0 is the embeddings
    head: Literal["logistic_regression", "sgd"] = "logistic_regression"
    validation_fraction: float = 0.1  # share of the training images that chooses the block
    strategy: Strategy = "one_device"  # several devices share the features and head sgd
    cpu_replicas: int = 1  # mirrored without a GPU: logical CPUs
    tpu: str = "local"  # for strategy tpu: its name or grpc://HOST:PORT; local on a TPU VM
    sgd: SGDHeadConfig = field(default_factory=SGDHeadConfig)

    def __post_init__(self) -> None:
        require(
            0 < self.validation_fraction < 1,
            f"validation_fraction is {self.validation_fraction}; "
            "it must lie between 0 and 1, for example 0.1",
        )
        cpu_replicas("", self)
        digits = len(str(MOST_BLOCKS))
        parts = [part.strip() for part in self.blocks.split(",")]
        require(
            self.blocks == "all" or all(part.isdecimal() and len(part) <= digits for part in parts),
            f"blocks is {shorten(self.blocks)}; it must be all, or numbers of at most {digits} "
            "digits and commas such as 0,6,12",
        )


# Trainings with terms of pixels, and so perhaps with a discriminator.
PixelExperiment: TypeAlias = ViTVQGANExperiment | DecoderExperiment
TrainingExperiment: TypeAlias = PixelExperiment | VIMExperiment | ClassifierExperiment
Experiment: TypeAlias = TrainingExperiment | LinearProbeExperiment

EXPERIMENTS: dict[str, type[Experiment]] = {
    cls.experiment: cls
    for cls in (
        ViTVQGANExperiment,
        DecoderExperiment,
        VIMExperiment,
        ClassifierExperiment,
        LinearProbeExperiment,
    )
}
