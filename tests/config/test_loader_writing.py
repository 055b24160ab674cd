"""The texts that the loader writes: resolved YAML, differences and help."""

import dataclasses
import re

import pytest

from vim_tf.config.experiments import EXPERIMENTS, VIMExperiment, ViTVQGANExperiment
from vim_tf.config.loader import config_help, diff, load_config, to_yaml
from vim_tf.config.loss_sections import (
    DiscriminatorConfig,
    PerceptualNetworkConfig,
    ViTVQGANLossConfig,
)
from vim_tf.config.sections import (
    AugmentationConfig,
    DataConfig,
    OptimizerConfig,
    QuantizerConfig,
    TokenizerConfig,
    TrainingConfig,
    TransformerConfig,
    VIMConfig,
    ViTVQGANConfig,
)


@pytest.fixture
def load(tmp_path):
    """Loads one YAML text."""

    def load(text):
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config([path])

    return load


def unusual_stage_1():
    """Values far from the defaults, and strings that look like other types."""
    return ViTVQGANExperiment(
        seed=-3,
        data=DataConfig(
            source="tfds",
            path="a: b # c",
            name="off",
            split="1e-4",
            validation_split="null",
            validation_fraction=1e-7,
            image_size=(48, 32),
            on_error="skip",
            augmentation=AugmentationConfig(crop="center", min_area=1 / 3, flip=False),
        ),
        model=ViTVQGANConfig(
            patch_size=4,
            encoder=TransformerConfig(blocks=1, heads=2, dim=6, mlp_dim=5, dropout=0.3),
            decoder=TransformerConfig(blocks=2, heads=3, dim=6, mlp_dim=7),
            output="rgb",
            quantizer=QuantizerConfig(l2_normalize=False, initial_scale=1e-5, rotation_trick=True),
        ),
        losses=ViTVQGANLossConfig(
            logit_laplace=0, perceptual_network=PerceptualNetworkConfig("päth 'x'", "abc")
        ),
        discriminator=DiscriminatorConfig(start=0.25, r1_gamma=12),
        optimizer=OptimizerConfig(
            learning_rate=1e22, weight_decay=1, schedule="constant", warmup_steps=0
        ),
        discriminator_optimizer=OptimizerConfig(final_ratio=1, warmup_steps=1),
        training=TrainingConfig(steps=1, strategy="mirrored", jit_compile=True),
    )


def unusual_stage_2():
    return VIMExperiment(
        data=DataConfig(source="folder", path="~", validation_path="50_000"),
        tokenizer=TokenizerConfig(run="true", cache="", passes=1),
        model=VIMConfig(conditional=False, label_drop=0),
    )


@pytest.mark.parametrize(
    "config",
    [ViTVQGANExperiment(), VIMExperiment(), unusual_stage_1(), unusual_stage_2()],
    ids=["stage 1", "stage 2", "unusual stage 1", "unusual stage 2"],
)
def test_what_is_written_loads_to_the_same(load, config):
    text = to_yaml(config)
    again = load(text)
    assert again == config
    assert diff(again, config) == []
    assert to_yaml(again) == to_yaml(load(to_yaml(again)))


def test_every_key_is_written_in_the_order_of_the_dataclasses():
    lines = to_yaml(VIMExperiment()).splitlines()
    assert lines[0] == "experiment: vim"
    sections = [line[:-1] for line in lines if re.fullmatch(r"\w+:", line)]
    fields = [field.name for field in dataclasses.fields(VIMExperiment)]
    assert sections == [name for name in fields if name != "seed"]
    keys = [line.strip().split(":")[0] for line in lines if line.startswith("  ")]
    assert keys[:3] == ["source", "path", "name"]
    assert "  image_size: [256, 256]" in lines


def test_a_default_written_as_an_int_is_saved_as_the_float_it_means(load):
    assert DiscriminatorConfig.start == 0
    assert "  start: 0.0" in to_yaml(load("experiment: vit_vqgan")).splitlines()


def test_diff_names_each_changed_key():
    old = VIMExperiment()
    new = dataclasses.replace(
        old,
        seed=1,
        data=dataclasses.replace(old.data, path="a b", image_size=(64, 32)),
        optimizer=dataclasses.replace(old.optimizer, learning_rate=3e-4),
    )
    assert diff(old, new) == [
        "seed: 0 -> 1",
        'data.path: null -> "a b"',
        "data.image_size: [256, 256] -> [64, 32]",
        "optimizer.learning_rate: 0.00045 -> 0.0003",
    ]
    assert diff(old, ViTVQGANExperiment()) == ['experiment: "vim" -> "vit_vqgan"']


def test_help_names_every_key_with_its_default_and_meaning():
    text = config_help()
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())
    assert "data.batch_size: 256 (a whole number; global: over all replicas)" in words
    strategies = "one of one_device, mirrored, multi_worker, tpu"
    assert f'training.strategy: "one_device" ({strategies})' in words
    assert "optimizer.learning_rate: 0.00045 (a number)" in words  # stage 2's own default

    def paths(cls, prefix=""):
        for field in dataclasses.fields(cls):
            if dataclasses.is_dataclass(field.type):
                yield from paths(field.type, f"{prefix}{field.name}.")
            else:
                yield prefix + field.name

    for name, part in zip(
        EXPERIMENTS, re.split("^experiment: .*$", text, flags=re.M)[1:], strict=True
    ):
        listed = re.findall(r"^    ([\w.]+): ", part, re.M)
        assert sorted(listed) == sorted(paths(EXPERIMENTS[name]))
