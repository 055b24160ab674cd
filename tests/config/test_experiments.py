import dataclasses
from fractions import Fraction

import pytest

from vim_tf.config.experiments import (
    EXPERIMENTS,
    ClassifierExperiment,
    DecoderExperiment,
    VIMExperiment,
    ViTVQGANExperiment,
)
from vim_tf.config.loss_sections import ViTVQGANLossConfig
from vim_tf.config.sections import DataConfig, OptimizerConfig, TrainingConfig, ViTVQGANConfig
from vim_tf.errors import UserError


def test_the_patch_divides_height_and_width():
    for size in ((30, 32), (32, 30)):
        with pytest.raises(UserError) as caught:
            ViTVQGANExperiment(data=DataConfig(image_size=size))
        assert str(caught.value) == (
            f"data.image_size is {size[0]} x {size[1]} and model.patch_size is 8; "
            "height and width must be multiples of the patch size"
        )
    assert ViTVQGANExperiment(data=DataConfig(image_size=(32, 48))).grid == (4, 6)


def test_logit_laplace_needs_its_six_channels():
    model = ViTVQGANConfig(output="rgb")
    with pytest.raises(UserError, match="losses.logit_laplace is 0.1 and model.output is rgb"):
        ViTVQGANExperiment(model=model)
    ViTVQGANExperiment(model=model, losses=ViTVQGANLossConfig(logit_laplace=0))


def test_configs_cannot_be_changed_by_accident():
    for cls in EXPERIMENTS.values():
        with pytest.raises(dataclasses.FrozenInstanceError):
            cls().seed = 1


def test_defaults_are_the_papers_recipe():
    """See sections 3.3, 4.1 and 4.2."""
    stage_1, stage_2 = ViTVQGANExperiment(), VIMExperiment()
    assert stage_1.grid == (32, 32)
    assert (stage_1.model.quantizer.codes, stage_1.model.quantizer.code_dim) == (8192, 32)
    assert (stage_1.data.batch_size, stage_1.training.steps) == (256, 500_000)
    assert (stage_2.data.batch_size, stage_2.training.steps) == (1024, 450_000)
    losses = stage_1.losses
    assert (losses.codebook_mean, losses.commitment_mean, losses.l2) == (1, 0.25, 1)
    assert (losses.adversarial, losses.perceptual, losses.logit_laplace) == (0.1, 0.1, 0.1)
    optimizer = stage_1.optimizer
    assert (optimizer.learning_rate, optimizer.beta_1, optimizer.beta_2) == (1e-4, 0.9, 0.99)
    assert (optimizer.weight_decay, optimizer.warmup_steps) == (1e-4, 50_000)
    assert optimizer.learning_rate * optimizer.final_ratio == 5e-5
    optimizer = stage_2.optimizer
    assert (optimizer.learning_rate, optimizer.beta_1, optimizer.beta_2) == (4.5e-4, 0.9, 0.96)
    assert (optimizer.warmup_steps, optimizer.decay_start) == (5_000, 80_000)
    assert Fraction(optimizer.final_ratio).limit_denominator(1000) == Fraction(1, 45)


@pytest.mark.parametrize(
    ("experiment", "section"),
    [
        (ViTVQGANExperiment, "optimizer"),
        (ViTVQGANExperiment, "discriminator_optimizer"),
        (DecoderExperiment, "optimizer"),
        (DecoderExperiment, "discriminator_optimizer"),
        (VIMExperiment, "optimizer"),
        (ClassifierExperiment, "optimizer"),
    ],
)
@pytest.mark.parametrize("name", ["warmup_steps", "decay_start"])
def test_no_warm_up_or_plateau_is_longer_than_the_run(experiment, section, name):
    def make(value):
        short = OptimizerConfig(warmup_steps=0)
        optimizers = {
            field.name: short
            for field in dataclasses.fields(experiment)
            if field.name.endswith("optimizer")
        }
        optimizers[section] = dataclasses.replace(short, **{name: value})
        return experiment(training=TrainingConfig(steps=100), **optimizers)

    assert getattr(getattr(make(100), section), name) == 100
    with pytest.raises(UserError) as caught:
        make(101)
    assert str(caught.value) == (
        f"{section}.{name} is 101 and training.steps is 100; set {section}.{name} to 100 or less"
    )
