"""An experiment that is defined only in this file: it trains, resumes, is described and dry-run.

It learns the mean colour of the images.
"""

import dataclasses
import io
from dataclasses import dataclass, field
from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf

import vim_tf
from vim_tf import train
from vim_tf.config.experiments import EXPERIMENTS
from vim_tf.config.sections import DataConfig, OptimizerConfig, TrainingConfig
from vim_tf.data.images import make_image_dataset
from vim_tf.models.preset import MODELS, Preset
from vim_tf.runs.load import load
from vim_tf.runs.run import Run
from vim_tf.stages import registry
from vim_tf.stages.dry_run import dry_run
from vim_tf.stages.stage import Stage
from vim_tf.trainers.trainer import Trainer


@dataclass(frozen=True)
class MeanColourConfig:
    channels: int = 3


@dataclass(frozen=True)
class MeanColourExperiment:
    """`experiment: mean_colour`."""

    experiment: ClassVar[str] = "mean_colour"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: MeanColourConfig = field(default_factory=MeanColourConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=0.1, warmup_steps=0, weight_decay=0)
    )
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=40))


@dataclass(frozen=True)
class Arguments:
    channels: int


class MeanColour(Preset, keras.Model):
    """Images [B,H,W,3] -> the learnt mean colour [B,3]."""

    Arguments = Arguments

    def __init__(self, channels):
        super().__init__()
        self.colour = self.add_weight((channels,), name="colour", initializer="zeros")
        self.built = True

    def call(self, images):
        return keras.ops.zeros_like(images[:, 0, 0]) + self.colour

    def get_config(self):
        return {"channels": self.colour.shape[0]}

    @staticmethod
    def count_parameters(arguments):
        return arguments.channels


class MeanColourTrainer(Trainer):
    judged_by = ("l2", -1)

    def __init__(self, experiment):
        make = lambda: MeanColour(experiment.model.channels)  # noqa: E731
        super().__init__(experiment, make, ("l2", "gradient_norm"), ("l2",))

    def gradients_of(self, batch):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self._errors(self.model, batch))
        return tape.gradient(loss, self.model.trainable_variables), {"l2": loss}, ()

    def evaluate_batch(self, batch):
        return {"l2": self._errors(self.ema_model, batch)}

    def summarize(self, results):
        return {"l2": float(np.mean(results["l2"]))}

    def _errors(self, model, batch):
        found = tf.reduce_mean(batch["image"], [1, 2])
        return tf.reduce_mean(tf.square(model(batch["image"]) - found), -1)


class MeanColourStage(Stage):
    shown = ("l2",)
    panels = (("l2", True, [("train", "l2"), ("evaluation", "l2")]),)

    @classmethod
    def describe(cls, experiment, images, table):
        model = MeanColour(experiment.model.channels)
        table.start()
        table.call("MeanColour(images)", model, images, parameters=model.count_params())

    def make_trainer(self):
        return MeanColourTrainer(self.experiment)

    def draw_images(self):
        colour = np.asarray(self.trainer.ema_model.colour)
        image = np.full((8, 8, 3), np.clip((colour + 1) * 127.5, 0, 255))
        return {"colour": image.astype("uint8")}

    def try_preset(self, run, report):
        model = report.time("vim_tf.load of it", lambda: load(run.path))
        report.say(f"  {np.asarray(model.colour)}")


@pytest.fixture(autouse=True)
def registered():
    kind = registry.Kind(MeanColourExperiment, f"{__name__}:MeanColourStage")
    registry.register(kind)
    yield kind
    EXPERIMENTS.pop("mean_colour")
    registry._KINDS.pop("mean_colour")


@pytest.fixture
def config(tiny_images, tmp_path):
    path = tmp_path / "mean.yaml"
    path.write_text(
        f"experiment: mean_colour\n"
        f"data: {{source: folder, path: {tiny_images}/train, image_size: 16, batch_size: 8,\n"
        f"  validation_path: {tiny_images}/validation}}\n"
        "training: {steps: 60, log_every: 10, evaluate_every: 30, checkpoint_every: 15}\n"
    )
    return path


def test_it_trains_and_resumes(config, tmp_path):
    run = Run(tmp_path / "run")
    given = ["--config", str(config), "--workdir"]
    train.main([*given, str(run.path)])
    model = vim_tf.load(run.path)
    assert type(model) is MeanColour
    data = make_image_dataset(run.load_experiment().data, 0)
    images = np.concatenate([batch["image"] for batch in data.evaluation("train")])
    np.testing.assert_allclose(model.colour, images.mean((0, 1, 2)), atol=0.05)
    assert {path.name for path in run.image_dir.iterdir()} == {"colour.png", "curves.png"}
    with pytest.MonkeyPatch.context() as patch:  # killed after the second checkpoint
        patch.setattr(Stage, "draw", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train.main([*given, str(tmp_path / "again")])
    train.main([*given, str(tmp_path / "again")])
    assert vim_tf.load(tmp_path / "again").model_hash() == model.model_hash()


def test_it_is_described_and_tried_dry(config):
    experiment = vim_tf.load_config([config])
    assert isinstance(experiment, MeanColourExperiment)
    stream = io.StringIO()
    registry_describe(experiment, stream)
    assert "MeanColour(images)" in stream.getvalue()
    dry_run(experiment, stream)
    assert stream.getvalue().endswith("dry run: all good\n")
    assert "vim_tf.load of it" in stream.getvalue()


def registry_describe(experiment, stream):
    from vim_tf.stages.describe import describe

    describe(dataclasses.replace(experiment), stream)


def test_a_name_is_of_one_experiment(registered):
    other = dataclasses.make_dataclass("Other", [], frozen=True)
    other.experiment = "vim"
    with pytest.raises(ValueError, match="experiment vim is another class already"):
        registry.register(registry.Kind(other, "x:y"))


def test_a_model_is_known_by_its_name():
    assert MODELS["MeanColour"] is MeanColour
    with pytest.raises(TypeError, match="a model called MeanColour is known already"):
        type("MeanColour", (Preset,), {"__module__": "elsewhere"})
