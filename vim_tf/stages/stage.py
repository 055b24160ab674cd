"""The base of all kinds of training: data, trainer, images, preset and descriptions."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from vim_tf.annotations import Tensor
from vim_tf.config.checks import batch_divides
from vim_tf.config.experiments import DecoderExperiment, TrainingExperiment, VIMExperiment
from vim_tf.costs.memory import MemoryEstimate
from vim_tf.data.hashing import hash_integers
from vim_tf.data.images import ImageData, make_image_dataset
from vim_tf.drawing import curves, grids
from vim_tf.errors import UserError
from vim_tf.runs.load import load_tokenizer
from vim_tf.runs.made_from import MadeFrom
from vim_tf.runs.run import Run
from vim_tf.trainers.trainer import Trainer

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

    from vim_tf.models.vit_vqgan import ViTVQGAN
    from vim_tf.stages.describe import Table
    from vim_tf.stages.dry_run import Report

# Of every stage; the second one if there is a discriminator.
LEARNING_RATES = (
    "learning rate",
    False,
    [("train", "learning_rate"), ("train", "discriminator_learning_rate")],
)
SHOWN_SIDE = 64  # pixels, about, so that small images can be seen


class Stage(abc.ABC):
    """A training of one experiment, ready to start. Each experiment has a subclass in its own file.

    The class methods work before anything is built; an object has the networks. A subclass that
    reads more than images overrides `open_sources`, and where needed `train_dataset`,
    `evaluation_dataset` and `save`.

    Args:
        experiment: the config.
        strategy: the strategy to train with, see `strategies.make_strategy`.
        run: the run's folder.
        sources: the result of `open_sources`; None opens them.

    Attributes:
        experiment: as given.
        tokenizer: the frozen tokenizer of a VIM or of a decoder; None without one.
        data: the images.
        trainer: the compiled trainer.
        made_from: the images and the tokenizer that the weights are made from.
        images_per_epoch: number of training images.

    Raises:
        UserError: data, tokenizer and config do not fit each other.
    """

    # The trainer's numbers that the progress line shows.
    shown: tuple[str, ...] = ()
    # Of curves.png: (title, whether the axis is logarithmic, [("train" or "evaluation", number)]).
    panels: Sequence[tuple[str, bool, Sequence[tuple[str, str]]]] = ()

    experiment: TrainingExperiment
    tokenizer: ViTVQGAN | None
    data: ImageData
    trainer: Trainer
    made_from: MadeFrom
    images_per_epoch: int

    def __init__(
        self,
        experiment: TrainingExperiment,
        strategy: tf.distribute.Strategy,
        run: Run,
        sources: tuple[ViTVQGAN | None, ImageData] | None = None,
    ) -> None:
        batch_divides(experiment, strategy.num_replicas_in_sync)
        keras.utils.set_random_seed(experiment.seed % 2**32)  # NumPy's range; ours is any integer
        self.experiment = experiment
        self.tokenizer, self.data = sources or self.open_sources(experiment, strategy)
        self.prepare(strategy, run)
        token_hash = self.tokenizer.token_hash() if self.tokenizer else None
        self.made_from = MadeFrom(self.data, token_hash, run.path)
        with strategy.scope():
            self.trainer = self.make_trainer()
            self.trainer.compile()

    # Before anything is built ---------------------------------------------------------------------

    @classmethod
    def open_sources(
        cls, experiment: TrainingExperiment, strategy: tf.distribute.Strategy | None
    ) -> tuple[ViTVQGAN | None, ImageData]:
        """Opens the tokenizer, None without one, and the images."""
        return None, make_image_dataset(experiment.data, experiment.seed)

    @classmethod
    def for_dry_run(
        cls, experiment: TrainingExperiment, say: Callable[[str], None]
    ) -> TrainingExperiment:
        """Returns the experiment that a dry run tries; says a line for each change."""
        return experiment

    @classmethod
    def estimate_memory(
        cls,
        experiment: TrainingExperiment,
        sources: tuple[ViTVQGAN | None, ImageData],
        replicas: int,
    ) -> MemoryEstimate | None:
        """Estimates the memory of a device; None where memory does not matter."""
        return None

    @classmethod
    @abc.abstractmethod
    def describe(cls, experiment: TrainingExperiment, images: Tensor, table: Table) -> None:
        """Runs images [B,H,W,3] through new networks.

        Args:
            experiment: the config.
            images: float32 in [-1,1].
            table: runs and shows each call.
        """

    # The training ---------------------------------------------------------------------------------

    def prepare(self, strategy: tf.distribute.Strategy, run: Run) -> None:
        """Makes the trainer's data, before the trainer is made, and counts the images."""
        self.images_per_epoch = self.data.train_size

    @abc.abstractmethod
    def make_trainer(self) -> Trainer:
        """Returns the trainer, not compiled yet."""

    def train_dataset(self, start: int, rollbacks: int, *share: int) -> tf.data.Dataset:
        """Returns endless batches from a position on.

        Args:
            start: position of the first image in the endless sequence of epochs.
            rollbacks: number of rollbacks so far; each leads to another order.
            *share: index of a worker and number of workers, for that worker's share of the rows of
                each batch. Without them there is one worker.
        """
        data = dataclasses.replace(self.data, seed=order_seed(self.data.seed, rollbacks))
        return data.train(start, *share)

    @property
    def evaluation_dataset(self) -> tf.data.Dataset:
        """Finite batches of held-out images."""
        return self.data.evaluation()

    # Images for people, and the preset ------------------------------------------------------------

    @abc.abstractmethod
    def draw_images(self) -> dict[str, np.ndarray]:
        """Returns the images of an evaluation, {name: uint8 [H,W,3]}."""

    def draw(self, run: Run) -> dict[str, np.ndarray]:
        """Writes the images of an evaluation and the curves into a run; returns the images."""
        drawn = self.draw_images()
        for name, image in drawn.items():
            grids.write_png(run.image_dir / f"{name}.png", image)
        panels = (*self.panels, LEARNING_RATES)
        curves.draw_curves(run.read_metrics(), panels, run.image_dir / "curves.png")
        return drawn

    def save(self, folder: Path) -> None:
        """Writes the preset: averaged weights, and the names of the classes."""
        names = {"class_names": list(self.data.class_names)}
        self.trainer.ema_model.save_to_preset(folder, names | self.about())

    def about(self) -> dict[str, Any]:
        """Returns the part of a preset's metadata that describes the training."""
        return {"steps": int(self.trainer.step.numpy()), "made_from": self.made_from.describe()}

    @abc.abstractmethod
    def try_preset(self, run: Run, report: Report) -> np.ndarray | None:
        """Loads the preset that a dry run saved, and uses it once.

        Args:
            run: the run's folder.
            report: times each action.

        Returns:
            An image that was made with it, uint8 [H,W,3]; None if there is none.
        """


def open_tokenizer(experiment: VIMExperiment | DecoderExperiment) -> ViTVQGAN:
    """Opens the tokenizer that an experiment names; UserError if it does not fit."""
    if not experiment.tokenizer.run:
        raise UserError(
            "tokenizer.run is not set; name a trained tokenizer: set tokenizer.run=runs/..."
        )
    tokenizer = load_tokenizer(experiment.tokenizer.run)
    if tuple(experiment.data.image_size) != tokenizer.image_size:
        raise UserError(
            f"data.image_size is {list(experiment.data.image_size)} and the tokenizer's is "
            f"{list(tokenizer.image_size)}; set the same"
        )
    return tokenizer


def order_seed(seed: int, rollbacks: int) -> int:
    """The seed of the data's order; each rollback gives a new one that no other seed gives."""
    return int(hash_integers(seed, rollbacks)) if rollbacks else seed


def zoom_of(images: np.ndarray) -> int:
    """The factor by which images [n,H,W,3] are enlarged when they are drawn."""
    return grids.zoom_to(SHOWN_SIDE, images.shape[1:3])
