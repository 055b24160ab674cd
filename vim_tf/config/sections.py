"""The sections of a config as frozen dataclasses; the defaults are the paper's base models.

Paper: "Vector-quantized Image Modeling with Improved VQGAN", https://arxiv.org/abs/2110.04627.
`experiments` combines them. This module imports neither TensorFlow nor Keras, so that `--help` and
a wrong config answer at once. If a default is not the paper's, a comment gives its source.
"""

from dataclasses import dataclass, field
from typing import Literal

from vim_tf.config import checks
from vim_tf.config.checks import cpu_replicas, fraction, not_negative, positive, require, sizes
from vim_tf.messages import shorten

# Data -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes of training images; evaluation always resizes and centre-crops.

    `crop`: "random_resized" cuts a random area (at least `min_area` of the image, aspect ratio
    3/4 to 4/3) and resizes it; "random" resizes the shorter side to `1 / min_area ** 0.5` of the
    target and cuts a random window; "center" is evaluation's resize and centre crop.
    `flip` mirrors half of the images left to right.
    """

    crop: Literal["random_resized", "random", "center"] = "random_resized"
    min_area: float = 0.5  # the paper names no augmentation
    flip: bool = True

    def __post_init__(self) -> None:
        require(
            0 < self.min_area <= 1,
            f"data.augmentation.min_area is {self.min_area}; it must be above 0 and at most 1",
        )


@dataclass(frozen=True)
class DataConfig:
    """Where images come from and what shape they get; see docs/data.md."""

    source: Literal["emoji", "folder", "tfds", "tfrecord", "idx", "styles"] = "emoji"
    path: str | None = None  # folder, TFRecord glob, IDX folder, or data_dir of tfds
    name: str | None = None  # tfds: dataset name
    split: str = "train"  # tfds split, or IDX file prefix ("train", "t10k")
    label: Literal["group", "style", "group_and_style"] | None = None  # styles; None is group
    validation_split: str | None = None  # a separate split; otherwise a fraction is held out
    validation_path: str | None = None  # a separate folder or TFRecord glob
    validation_fraction: float = 0.1
    image_size: tuple[int, int] = (256, 256)  # height, width; one number means a square
    batch_size: int = 256  # global: over all replicas
    on_error: Literal["stop", "skip"] = "stop"  # what to do with an image that cannot be read
    min_side: int = 2  # folder: images of a shorter side are left out, such as single pixels
    max_aspect: float = 20.0  # folder: images whose sides differ by a larger factor are left out
    cache: bool = True  # folder: keep decoded images in ~/.cache/vim_tf between runs
    convert_profiles: bool = True  # convert colours to sRGB as an image's ICC profile says
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)

    def __post_init__(self) -> None:
        sizes("data", batch_size=(self.batch_size, checks.LARGEST_BATCH))
        require(
            0 < min(self.image_size) <= max(self.image_size) <= checks.LONGEST_SIDE,
            f"data.image_size is {list(self.image_size)}; give height and width, both above 0 and "
            f"at most {checks.LONGEST_SIDE:,}",
        )
        require(
            0 < self.validation_fraction < 1,
            f"data.validation_fraction is {self.validation_fraction}; "
            "it must lie between 0 and 1, for example 0.1",
        )
        require(
            self.path or self.source in ("emoji", "tfds"),
            f"data.path is not set; data.source {self.source} needs it: set data.path=...",
        )
        require(
            self.name or self.source != "tfds",
            "data.name is not set; data.source tfds needs a dataset name, for example cifar10",
        )
        for other, sources in (
            ("validation_path", ("folder", "tfrecord")),
            ("validation_split", ("tfds", "idx", "styles")),
            ("label", ("styles",)),
        ):
            require(
                getattr(self, other) is None or self.source in sources,
                f"data.{other} is set, but data.source is {self.source}; "
                f"it is read for {' and '.join(sources)} only",
            )
        require(
            0 < self.min_side <= checks.LONGEST_SIDE,
            f"data.min_side is {self.min_side}; it must be from 1 to {checks.LONGEST_SIDE:,}",
        )
        require(
            self.max_aspect >= 1,
            f"data.max_aspect is {self.max_aspect:g}; it must be at least 1, for a square",
        )
        for other in ("min_side", "max_aspect"):
            require(
                getattr(self, other) == getattr(DataConfig, other) or self.source == "folder",
                f"data.{other} is set, but data.source is {self.source}; only folder reads it",
            )
        if self.source == "styles":
            held_out = self.validation_split or "tune"
            checks.one_of("data.validation_split", held_out, ("tune", "report", "pairs"))


# Models ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TransformerConfig:
    """Size of one transformer. `dropout` acts on attention, activation and residual outputs."""

    blocks: int = 12
    heads: int = 12
    dim: int = 768
    mlp_dim: int = 3072
    dropout: float = 0.0

    def __post_init__(self) -> None:
        sizes(
            "transformer",
            blocks=(self.blocks, checks.MOST_BLOCKS),
            heads=(self.heads, checks.MOST_HEADS),
            dim=(self.dim, checks.WIDEST),
            mlp_dim=(self.mlp_dim, checks.WIDEST),
        )
        require(
            self.dim % self.heads == 0,
            f"dim is {self.dim} and heads is {self.heads}; dim must be a multiple of heads",
        )
        require(
            0 <= self.dropout < 1, f"dropout is {self.dropout}; it must be at least 0 and below 1"
        )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.heads


# Table 2 (stage 1) and section 4.2 (stage 2) of the paper. A YAML file may give the name alone.
TRANSFORMER_PRESETS = {
    "small": TransformerConfig(8, 8, 512, 2048),
    "base": TransformerConfig(12, 12, 768, 3072),
    "large": TransformerConfig(32, 16, 1280, 5120),
    "vim_base": TransformerConfig(24, 16, 1536, 6144, dropout=0.1),
    "vim_large": TransformerConfig(36, 32, 2048, 8192, dropout=0.1),
}


@dataclass(frozen=True)
class QuantizerConfig:
    """Factorised, l2-normalised codebook (section 3.2) and remedies against its collapse."""

    codes: int = 8192
    code_dim: int = 32
    l2_normalize: bool = True
    initial_scale: float = 0.02  # deviation of new codes; small ones turn faster (measured)
    rotation_trick: bool = False  # arXiv 2410.06424; otherwise straight-through
    revive_every: int = 0  # steps between revivals of dead codes; 0 is off
    revive_below: float = 0.1  # a code is dead if used less than this share of the mean use

    def __post_init__(self) -> None:
        sizes(
            "model.quantizer",
            codes=(self.codes, checks.MOST_CODES),
            code_dim=(self.code_dim, checks.WIDEST),
        )
        positive("model.quantizer", initial_scale=self.initial_scale)
        not_negative("model.quantizer", revive_every=self.revive_every)
        fraction("model.quantizer", revive_below=self.revive_below)


@dataclass(frozen=True)
class ViTVQGANConfig:
    """The image tokenizer: ViT encoder, quantizer, ViT decoder (section 3)."""

    patch_size: int = 8
    encoder: TransformerConfig = field(default_factory=lambda: TRANSFORMER_PRESETS["base"])
    decoder: TransformerConfig = field(default_factory=lambda: TRANSFORMER_PRESETS["base"])
    positions: Literal["learned", "sincos"] = "learned"
    output: Literal["logit_laplace", "rgb"] = "logit_laplace"
    # Both are ours and hide the patch borders. The decoder makes patches of twice the side, which
    # overlap; convolutions of so many channels see both sides of a border.
    overlapping_patches: bool = False
    refinement_channels: int = 0
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)

    def __post_init__(self) -> None:
        sizes("model", patch_size=(self.patch_size, checks.LARGEST_PATCH))
        checks.sizes_or_zero("model", refinement_channels=(self.refinement_channels, checks.WIDEST))

    @property
    def output_channels(self) -> int:
        """Numbers per pixel that the decoder returns: means and scales, or only means."""
        return 6 if self.output == "logit_laplace" else 3

    @property
    def outputs_per_token(self) -> int:
        """Numbers that the decoder makes from a token."""
        pixels = self.patch_size**2 * (4 if self.overlapping_patches else 1)
        return self.output_channels * pixels


@dataclass(frozen=True)
class VIMConfig:
    """The autoregressive model of tokens (section 3.4)."""

    transformer: TransformerConfig = field(default_factory=lambda: TRANSFORMER_PRESETS["vim_base"])
    conditional: bool = True  # False: every image gets the null label
    label_drop: float = 0.1  # share of labels replaced by the null label, for guidance

    def __post_init__(self) -> None:
        fraction("model", label_drop=self.label_drop)


@dataclass(frozen=True)
class ClassifierConfig:
    """A small residual network that tells the classes of the images apart."""

    width: int = 32  # channels of the first stage; each further one has twice as many
    stages: int = 3  # each after the first halves height and width
    blocks: int = 1  # residual blocks per stage
    dropout: float = 0.3  # of the features before the last layer

    def __post_init__(self) -> None:
        sizes(
            "model",
            width=(self.width, checks.WIDEST),
            stages=(self.stages, checks.MOST_STAGES),
            blocks=(self.blocks, checks.MOST_BLOCKS),
        )
        last = self.width * 2 ** (self.stages - 1)
        require(
            last <= checks.WIDEST,
            f"model.width is {self.width} and model.stages is {self.stages}: the last stage has "
            f"{last:,} channels; at most {checks.WIDEST:,} are allowed",
        )
        require(
            self.width % 8 == 0,
            f"model.width is {self.width}; it must be a multiple of 8, for GroupNormalization",
        )
        require(
            0 <= self.dropout < 1,
            f"model.dropout is {self.dropout}; it must be at least 0 and below 1",
        )


# Training -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a warm-up, an optional plateau, and a decay to `final_ratio` of the peak."""

    learning_rate: float = 1e-4
    beta_1: float = 0.9
    beta_2: float = 0.99
    weight_decay: float = 1e-4
    second_moment: Literal["full", "factored"] = "full"  # factored: Adafactor's, half the slots
    clip_norm: float = 0.0  # limit of the gradients' global norm, after the all-reduce; 0 is off
    schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    warmup_steps: int = 50_000
    decay_start: int = 0  # the plateau ends here; counts from step 0
    final_ratio: float = 0.5

    def __post_init__(self) -> None:
        positive("optimizer", learning_rate=self.learning_rate)
        require(
            0 < self.final_ratio <= 1,
            f"optimizer.final_ratio is {self.final_ratio}; it must be above 0 and at most 1",
        )
        not_negative(
            "optimizer",
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            warmup_steps=self.warmup_steps,
            decay_start=self.decay_start,
        )
        for name in ("beta_1", "beta_2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name} is {value}; it must be from 0 to below 1")


OneProcess = Literal["one_device", "mirrored"]
Strategy = Literal[OneProcess, "multi_worker", "tpu"]  # of `strategies.make_strategy`


@dataclass(frozen=True)
class TrainingConfig:
    """Length of a run, its devices, and the steps at which it reports, evaluates and saves."""

    steps: int = 500_000
    strategy: Strategy = "one_device"
    cpu_replicas: int = 1  # mirrored without a GPU: logical CPUs, each with a share of the batch
    tpu: str = "local"  # for strategy tpu: its name or grpc://HOST:PORT; local on a TPU VM
    jit_compile: bool = False  # XLA for the gradients
    precision: Literal["float32", "mixed_bfloat16"] = "float32"  # of the model that is trained
    gradient_accumulation_steps: int = 1  # parts of a replica's batch, one after the other
    rematerialize: bool = False  # compute the inside of each block again for its gradient
    query_block: int = 0  # keep no attention weights: this many queries at a time; 0 keeps them
    deterministic: bool = False  # only operations that give the same bits each time; slower on GPUs
    ema_decay: float = 0.999  # MaskGIT's code; the paper names none
    log_every: int = 100
    evaluate_every: int = 5_000
    evaluate_batches: int = 0  # validation batches per evaluation; 0 is all
    checkpoint_every: int = 5_000
    keep_checkpoints: int = 3

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "evaluate_every", "checkpoint_every"):
            sizes("training", **{name: (getattr(self, name), checks.MOST_STEPS)})
        positive(
            "training",
            keep_checkpoints=self.keep_checkpoints,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
        )
        not_negative(
            "training", evaluate_batches=self.evaluate_batches, query_block=self.query_block
        )
        require(
            0 <= self.ema_decay < 1,
            f"training.ema_decay is {self.ema_decay}; it must be from 0 to below 1",
        )
        cpu_replicas("training", self)


@dataclass(frozen=True)
class TokenizerConfig:
    """Which stage-1 run makes the tokens, and how VIM gets them."""

    run: str | None = None  # a run folder or a preset folder
    cache: str | None = None  # folder of the token cache; by default inside the workdir
    passes: int = 4  # differently augmented passes over the images in the cache
    online: bool = False  # tokenize each batch while training instead

    def __post_init__(self) -> None:
        sizes("tokenizer", passes=(self.passes, checks.MOST_PASSES))
        require(
            self.cache is None or not self.online,
            f"tokenizer.cache is {shorten(str(self.cache))} and tokenizer.online is true, which "
            "makes no cache; leave one of them out",
        )


@dataclass(frozen=True)
class FrozenTokenizerConfig:
    """The tokenizer whose decoder is trained. Its encoder, projection and codebook stay frozen."""

    run: str | None = None  # a run folder or a preset folder


@dataclass(frozen=True)
class PerturbationConfig:
    """Tokens that the decoder sees in place of the encoder's, as a model of tokens errs.

    After arXiv 2509.12474. Other tokens than the encoder's name codes close to its codes.
    """

    share: float = 0.1  # of an image's tokens, each drawn apart; 0 leaves all as they are
    nearest: int = 8  # the new code is one of so many nearest ones

    def __post_init__(self) -> None:
        fraction("perturbation", share=self.share)
        sizes("perturbation", nearest=(self.nearest, checks.MOST_NEAREST))


@dataclass(frozen=True)
class SGDHeadConfig:
    """A probe's head that is trained in batches, for more features than fit into memory.

    The protocol of MAE (arXiv 2111.06377, appendix A.1) without augmentation: a batch norm without
    scale and offset, a linear layer, momentum 0.9, no weight decay, warm-up and cosine.
    """

    optimizer: Literal["lars", "sgd"] = "lars"  # lars needs thousands of steps; sgd for little data
    learning_rate: float = 0.1  # for a batch of 256 images; scaled in proportion to batch_size
    batch_size: int = 16384
    epochs: int = 90
    warmup_epochs: int = 10

    def __post_init__(self) -> None:
        positive("sgd", learning_rate=self.learning_rate, epochs=self.epochs)
        sizes("sgd", batch_size=(self.batch_size, checks.LARGEST_BATCH))
        not_negative("sgd", warmup_epochs=self.warmup_epochs)
        require(
            self.warmup_epochs < self.epochs,
            f"sgd.warmup_epochs is {self.warmup_epochs} and sgd.epochs is {self.epochs}; "
            "the warm-up must be shorter",
        )
