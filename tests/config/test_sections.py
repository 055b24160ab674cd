import dataclasses

import pytest

from vim_tf.config import sections as configs
from vim_tf.config.experiments import (
    EXPERIMENTS,
    LinearProbeExperiment,
    ViTVQGANExperiment,
)
from vim_tf.config.loss_sections import DiscriminatorConfig, ViTVQGANLossConfig
from vim_tf.config.sections import (
    TRANSFORMER_PRESETS,
    AugmentationConfig,
    ClassifierConfig,
    DataConfig,
    OptimizerConfig,
    PerturbationConfig,
    QuantizerConfig,
    SGDHeadConfig,
    TokenizerConfig,
    TrainingConfig,
    TransformerConfig,
    VIMConfig,
    ViTVQGANConfig,
)
from vim_tf.errors import UserError

ABOVE_0 = "it must be greater than 0"
FROM_0 = "it must be 0 or greater"
SHARE = "it must be from 0 to 1"
BELOW_1 = "it must be from 0 to below 1"
HUGE = 2**63 - 1
WIDEST = "at most 65,536 is allowed"
BATCH = "at most 1,048,576 is allowed"
BLOCKS = "at most 1,024 is allowed"
STEPS = "at most 2,147,483,647 is allowed"

# Class, field, refused values, allowed values at the limit, words of the message.
RANGES = [
    (AugmentationConfig, "min_area", [0, -0.1, 1.01], [1, 1e-6], "must be above 0 and at most 1"),
    (DataConfig, "batch_size", [0, -1], [1], ABOVE_0),
    (DataConfig, "image_size", [(0, 8), (8, 0), (-8, 8)], [(1, 2)], "give height and width"),
    (DataConfig, "min_side", [0, -1, 16_385], [2], "from 1 to 16,384"),
    (DataConfig, "max_aspect", [0, 0.9, float("nan")], [20], "at least 1"),
    (DataConfig, "validation_fraction", [0, 1, -0.1, 1.5], [0.01, 0.99], "lie between 0 and 1"),
    (TransformerConfig, "blocks", [0, -1], [1], ABOVE_0),
    (TransformerConfig, "heads", [0, -1], [1], ABOVE_0),
    (TransformerConfig, "dim", [0, -12], [12], ABOVE_0),
    (TransformerConfig, "mlp_dim", [0, -1], [1], ABOVE_0),
    (TransformerConfig, "dropout", [-0.1, 1], [0, 0.99], "it must be at least 0 and below 1"),
    (QuantizerConfig, "codes", [0, -1], [1], ABOVE_0),
    (QuantizerConfig, "code_dim", [0, -1], [1], ABOVE_0),
    (QuantizerConfig, "initial_scale", [0, -1.0], [1e-9], ABOVE_0),
    (QuantizerConfig, "revive_every", [-1], [0], FROM_0),
    (QuantizerConfig, "revive_below", [-0.1, 1.1], [0, 1], SHARE),
    (ViTVQGANConfig, "patch_size", [0, -8], [1], ABOVE_0),
    (ViTVQGANConfig, "refinement_channels", [-1], [0, 1], FROM_0),
    (DiscriminatorConfig, "channels", [0, -1], [1], ABOVE_0),
    (DiscriminatorConfig, "base_channels", [0, -1], [1], ABOVE_0),
    (DiscriminatorConfig, "start", [-1, -0.5], [0, 0.5, 1000], FROM_0),
    (DiscriminatorConfig, "plateau", [-0.1], [0, 0.05], FROM_0),
    (DiscriminatorConfig, "ramp_steps", [-1], [0], FROM_0),
    (DiscriminatorConfig, "r1_gamma", [-1.0], [0], FROM_0),
    (DiscriminatorConfig, "r1_every", [0, -1], [1], ABOVE_0),
    *(
        (ViTVQGANLossConfig, name, [-0.1], [0, 100.0], FROM_0)
        for name in (
            "codebook_mean",
            "commitment_mean",
            "l2",
            "logit_laplace",
            "perceptual",
            "adversarial",
            "entropy",
        )
    ),
    (ViTVQGANLossConfig, "entropy_temperature", [0, -1], [1e-6], ABOVE_0),
    (ViTVQGANLossConfig, "adversarial_limit", [0, -0.1], [0.01, 10], ABOVE_0),
    (VIMConfig, "label_drop", [-0.1, 1.1], [0, 1], SHARE),
    (OptimizerConfig, "learning_rate", [0, -1e-4, float("nan")], [1e-9], ABOVE_0),
    (OptimizerConfig, "beta_1", [-0.1, 1], [0, 0.999], BELOW_1),
    (OptimizerConfig, "beta_2", [-0.1, 1], [0, 0.999], BELOW_1),
    (OptimizerConfig, "weight_decay", [-1e-4], [0], FROM_0),
    (OptimizerConfig, "clip_norm", [-1], [0], FROM_0),
    (OptimizerConfig, "warmup_steps", [-1], [0], FROM_0),
    (OptimizerConfig, "decay_start", [-1], [0], FROM_0),
    (OptimizerConfig, "final_ratio", [0, 1.1], [1, 1e-6], "it must be above 0 and at most 1"),
    (TrainingConfig, "steps", [0, -1], [1], ABOVE_0),
    (TrainingConfig, "cpu_replicas", [0, -1], [1], ABOVE_0),
    (TrainingConfig, "cpu_replicas", [2], [], "is one_device; only strategy mirrored"),
    (TrainingConfig, "gradient_accumulation_steps", [0, -1], [1, 8], ABOVE_0),
    (TrainingConfig, "query_block", [-1], [0, 1], FROM_0),
    (TrainingConfig, "log_every", [0, -1], [1], ABOVE_0),
    (TrainingConfig, "evaluate_every", [0, -1], [1], ABOVE_0),
    (TrainingConfig, "evaluate_batches", [-1], [0], FROM_0),
    (TrainingConfig, "checkpoint_every", [0, -1], [1], ABOVE_0),
    (TrainingConfig, "keep_checkpoints", [0, -1], [1], ABOVE_0),
    (TrainingConfig, "ema_decay", [-0.1, 1], [0, 0.9999], BELOW_1),
    (TokenizerConfig, "passes", [0, -1], [1], ABOVE_0),
    (PerturbationConfig, "share", [-0.1, 1.1], [0, 1], SHARE),
    (PerturbationConfig, "nearest", [0, -1], [1], ABOVE_0),
    (ClassifierConfig, "width", [0, -8], [8], ABOVE_0),
    (ClassifierConfig, "width", [12], [16], "it must be a multiple of 8"),
    (ClassifierConfig, "stages", [0, -1], [1], ABOVE_0),
    (ClassifierConfig, "blocks", [0, -1], [1], ABOVE_0),
    (ClassifierConfig, "dropout", [-0.1, 1], [0, 0.99], "it must be at least 0 and below 1"),
    (SGDHeadConfig, "learning_rate", [0, -0.1], [1e-9], ABOVE_0),
    (SGDHeadConfig, "batch_size", [0, -1], [1], ABOVE_0),
    (SGDHeadConfig, "epochs", [0, -1], [11], ABOVE_0),
    (SGDHeadConfig, "warmup_epochs", [-1], [0, 89], FROM_0),
    (SGDHeadConfig, "warmup_epochs", [90], [], "and sgd.epochs is 90; the warm-up must be shorter"),
    (LinearProbeExperiment, "validation_fraction", [0, 1], [0.5], "lie between 0 and 1"),
    (LinearProbeExperiment, "cpu_replicas", [0, -1], [1], ABOVE_0),
    (LinearProbeExperiment, "cpu_replicas", [2], [], "is one_device; only strategy mirrored"),
]
# Sizes that would be allocated: class, field, other needed values, largest value, words of the
# message.
LARGEST = [
    (DataConfig, "batch_size", {}, 2**20, BATCH),
    (TransformerConfig, "blocks", {}, 1024, BLOCKS),
    (TransformerConfig, "heads", {"dim": 1024}, 1024, BLOCKS),
    (TransformerConfig, "dim", {"heads": 1}, 65_536, WIDEST),
    (TransformerConfig, "mlp_dim", {}, 65_536, WIDEST),
    (QuantizerConfig, "codes", {}, 2**24, "at most 16,777,216 is allowed"),
    (QuantizerConfig, "code_dim", {}, 65_536, WIDEST),
    (ViTVQGANConfig, "patch_size", {}, 1024, BLOCKS),
    (ViTVQGANConfig, "refinement_channels", {}, 65_536, WIDEST),
    (DiscriminatorConfig, "channels", {}, 65_536, WIDEST),
    (DiscriminatorConfig, "base_channels", {}, 2**20, BATCH),
    (TrainingConfig, "cpu_replicas", {"strategy": "mirrored"}, 64, "at most 64 is allowed"),
    (TrainingConfig, "steps", {}, 2**31 - 1, STEPS),
    (TrainingConfig, "log_every", {}, 2**31 - 1, STEPS),
    (TrainingConfig, "evaluate_every", {}, 2**31 - 1, STEPS),
    (TrainingConfig, "checkpoint_every", {}, 2**31 - 1, STEPS),
    (TokenizerConfig, "passes", {}, 1000, "at most 1,000 is allowed"),
    (PerturbationConfig, "nearest", {}, 1024, "at most 1,024 is allowed"),
    (ClassifierConfig, "width", {"stages": 1}, 65_536, WIDEST),
    (ClassifierConfig, "stages", {"width": 8}, 14, "at most 14 is allowed"),
    (ClassifierConfig, "blocks", {}, 1024, BLOCKS),
    (SGDHeadConfig, "batch_size", {}, 2**20, BATCH),
    (LinearProbeExperiment, "cpu_replicas", {"strategy": "mirrored"}, 64, "at most 64 is allowed"),
]


@pytest.mark.parametrize(
    ("cls", "field", "others", "largest", "words"),
    LARGEST,
    ids=[f"{cls.__name__}.{field}" for cls, field, *_ in LARGEST],
)
def test_sizes_that_would_be_allocated_have_a_largest(cls, field, others, largest, words):
    assert getattr(cls(**others, **{field: largest}), field) == largest
    for value in (largest + 1, HUGE):
        with pytest.raises(UserError, match=f"{field} is {value}; {words}"):
            cls(**others, **{field: value})


@pytest.mark.parametrize("size", [(16_385, 8), (8, HUGE)])
def test_an_image_has_a_longest_side(size):
    with pytest.raises(UserError, match="data.image_size is .*above 0 and at most 16,384"):
        DataConfig(image_size=size)
    assert DataConfig(image_size=(16_384, 1)).image_size == (16_384, 1)


def test_an_image_has_a_largest_number_of_tokens():
    def grid(height, width):
        data = DataConfig(image_size=(height, width))
        return ViTVQGANExperiment(data=data, model=ViTVQGANConfig(patch_size=4)).grid

    assert grid(1024, 1024) == (256, 256)
    assert grid(16_384, 64) == (4096, 16)
    with pytest.raises(UserError) as caught:
        grid(1024, 1028)
    assert str(caught.value) == (
        "data.image_size is 1024 x 1028 and model.patch_size is 4: an image has 65,792 tokens; "
        "at most 65,536 are allowed"
    )


def test_the_last_stage_of_a_classifier_has_a_largest_width():
    assert ClassifierConfig(width=64, stages=11).width == 64
    with pytest.raises(UserError) as caught:
        ClassifierConfig(width=64, stages=12)
    assert str(caught.value) == (
        "model.width is 64 and model.stages is 12: the last stage has 131,072 channels; at most "
        "65,536 are allowed"
    )


def test_published_sizes_are_allowed():
    """Parti 20B (arXiv 2206.10789), GPT-3 (2005.14165) and MAGVIT-v2's codebook (2310.05737)."""
    TransformerConfig(blocks=64, heads=64, dim=4096, mlp_dim=16_384)
    TransformerConfig(blocks=96, heads=96, dim=12_288, mlp_dim=49_152)
    QuantizerConfig(codes=262_144, code_dim=18)


@pytest.mark.parametrize(
    ("cls", "field", "refused", "allowed", "words"),
    RANGES,
    ids=[f"{cls.__name__}.{field}-{words}" for cls, field, _, _, words in RANGES],
)
def test_ranges(cls, field, refused, allowed, words):
    for value in refused:
        with pytest.raises(UserError) as caught:
            cls(**{field: value})
        message = str(caught.value)
        shown = list(value) if isinstance(value, tuple) else value
        assert f"{field} is {shown}" in message
        assert words in message
        assert "\n" not in message
    for value in allowed:
        assert getattr(cls(**{field: value}), field) == value


def test_every_number_has_its_range_tested():
    numbers = {
        (cls, field.name)
        for cls in [*vars(configs).values(), *EXPERIMENTS.values()]
        if dataclasses.is_dataclass(cls)
        for field in dataclasses.fields(cls)
        if field.type in (int, float)
    }
    seeds = {(cls, "seed") for cls in EXPERIMENTS.values()}  # any whole number is allowed
    assert numbers - seeds <= {(cls, field) for cls, field, *_ in RANGES}


@pytest.mark.parametrize("source", ["folder", "tfrecord", "idx"])
def test_sources_that_need_a_path(source):
    with pytest.raises(UserError, match=f"data.path is not set; data.source {source} needs it"):
        DataConfig(source=source)
    with pytest.raises(UserError, match="data.path is not set"):
        DataConfig(source=source, path="")
    assert DataConfig(source=source, path="x").path == "x"


def test_sources_that_need_no_path():
    assert DataConfig(source="emoji").path is None
    assert DataConfig(source="tfds", name="cifar10").path is None


def test_tfds_needs_a_name():
    with pytest.raises(UserError, match="data.name is not set; data.source tfds needs"):
        DataConfig(source="tfds")


@pytest.mark.parametrize(
    ("field", "source", "allowed"),
    [
        ("validation_path", "emoji", False),
        ("validation_path", "tfds", False),
        ("validation_path", "idx", False),
        ("validation_path", "folder", True),
        ("validation_path", "tfrecord", True),
        ("validation_split", "emoji", False),
        ("validation_split", "folder", False),
        ("validation_split", "tfrecord", False),
        ("validation_split", "tfds", True),
        ("validation_split", "idx", True),
        ("label", "emoji", False),
        ("label", "folder", False),
        ("label", "tfrecord", False),
    ],
)
def test_a_validation_set_of_its_own_must_suit_the_source(field, source, allowed):
    settings = {"source": source, "path": "x", "name": "y", field: "z"}
    if allowed:
        assert getattr(DataConfig(**settings), field) == "z"
    else:
        with pytest.raises(UserError, match=f"data.{field} is set, but data.source is {source}"):
            DataConfig(**settings)


@pytest.mark.parametrize("field", ["min_side", "max_aspect"])
def test_only_folders_have_limits_of_sides(field):
    with pytest.raises(UserError, match=f"data.{field} is set, but data.source is emoji"):
        DataConfig(**{field: 3})


def test_styles_have_three_splits_to_hold_out_and_three_labels():
    for split in ("tune", "report", "pairs"):
        assert DataConfig(source="styles", path="x", validation_split=split)
    with pytest.raises(
        UserError, match="validation_split is test; allowed are tune, report, pairs"
    ):
        DataConfig(source="styles", path="x", validation_split="test")
    with pytest.raises(UserError, match="data.path is not set; data.source styles needs it"):
        DataConfig(source="styles", label="style")
    assert DataConfig(source="styles", path="x", label="group_and_style").label


@pytest.mark.parametrize("blocks", ["", "some", "1;2", "-1", "1,,2", "all,1", "0,12345"])
def test_blocks_to_probe_are_all_or_numbers(blocks):
    with pytest.raises(UserError, match=f"blocks is {blocks}; it must be all, or numbers"):
        LinearProbeExperiment(blocks=blocks)
    assert LinearProbeExperiment(blocks="0, 12").blocks == "0, 12"


def test_text_in_a_message_is_cut():
    for make in (
        lambda text: LinearProbeExperiment(blocks=text),
        lambda text: TokenizerConfig(cache=text, online=True),
    ):
        with pytest.raises(UserError, match=r"x\.\.\. \(9,000 characters\)") as caught:
            make("x" * 9_000)
        assert len(str(caught.value)) < 400


def test_heads_divide_the_width():
    with pytest.raises(UserError, match="dim is 10 and heads is 3; dim must be a multiple"):
        TransformerConfig(dim=10, heads=3)
    assert TransformerConfig(dim=12, heads=3).head_dim == 4


def test_sizes_are_the_papers():
    """See table 2 and section 4.2: blocks, heads, width, MLP width, dropout."""
    assert {name: dataclasses.astuple(size) for name, size in TRANSFORMER_PRESETS.items()} == {
        "small": (8, 8, 512, 2048, 0),
        "base": (12, 12, 768, 3072, 0),
        "large": (32, 16, 1280, 5120, 0),
        "vim_base": (24, 16, 1536, 6144, 0.1),
        "vim_large": (36, 32, 2048, 8192, 0.1),
    }


def test_a_cache_and_online_tokens_exclude_each_other():
    assert TokenizerConfig(cache="x").online is False
    with pytest.raises(UserError, match="tokenizer.cache is x and tokenizer.online is true"):
        TokenizerConfig(cache="x", online=True)
