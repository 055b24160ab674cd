"""What every kind of training answers: its data, trainer, images, preset and descriptions."""

import abc
import dataclasses

import keras

from vim_tf.config.checks import batch_divides
from vim_tf.data.hashing import hash_integers
from vim_tf.data.images import make_image_dataset
from vim_tf.drawing import curves, grids
from vim_tf.runs.made_from import MadeFrom

SHOWN_SIDE = 64  # pixels, about, so that small images can be seen


class Stage(abc.ABC):
    """A training of one experiment, ready to start. Each experiment has a subclass in a file.

    The class itself answers what is asked before anything is built; an object has the networks.
    A subclass that reads more than images overrides `open_sources`, and those of `train_dataset`,
    `evaluation_dataset` and `save` that then differ.

    Args:
        experiment: one of `experiments.EXPERIMENTS`.
        strategy: what `strategies.make_strategy` returned.
        run: the `Run`.
        sources: what `open_sources` returned; None opens them.

    Attributes:
        experiment: as given.
        tokenizer: the `ViTVQGAN` of the tokens that are learnt; None without one.
        data: the `ImageData`.
        trainer: a `Trainer`, compiled.
        made_from: the `MadeFrom` of the training.
        images_per_epoch: number of training images.

    Raises:
        UserError: data, tokenizer and config do not fit each other.
    """

    # What the progress line shows, of the trainer's numbers.
    shown = ()
    # Of curves.png: (title, whether the axis is logarithmic, [("train" or "evaluation", number)]).
    panels = ()

    def __init__(self, experiment, strategy, run, sources=None):
        batch_divides(experiment, strategy.num_replicas_in_sync)
        keras.utils.set_random_seed(experiment.seed % 2**32)  # NumPy's range; ours is any integer
        self.experiment = experiment
        self.tokenizer, self.data = sources or self.open_sources(experiment, strategy)
        self.prepare(strategy, run)
        tokenizer_hash = self.tokenizer.model_hash() if self.tokenizer else None
        self.made_from = MadeFrom(self.data, tokenizer_hash, run.path)
        with strategy.scope():
            self.trainer = self.make_trainer()
            self.trainer.compile()

    # Before anything is built ---------------------------------------------------------------------

    @classmethod
    def open_sources(cls, experiment, strategy):
        """Opens what a training reads: (the `ViTVQGAN` or None, `ImageData`)."""
        return None, make_image_dataset(experiment.data, experiment.seed)

    @classmethod
    def for_dry_run(cls, experiment, say):
        """Returns the experiment that a dry run tries; says a line for each change."""
        return experiment

    @classmethod
    def estimate_memory(cls, experiment, sources, replicas):
        """Returns a `costs.memory.MemoryEstimate`; None where memory does not matter."""
        return None

    @classmethod
    @abc.abstractmethod
    def describe(cls, experiment, images, table):
        """Pushes images [B,H,W,3] through fresh networks.

        Args:
            experiment: the experiment.
            images: float32 in [-1,1].
            table: a `describe.Table`, which runs and shows each call.
        """

    # The training ---------------------------------------------------------------------------------

    def prepare(self, strategy, run):
        """Makes what the trainer reads, before there is a trainer, and counts the images."""
        self.images_per_epoch = self.data.train_size

    @abc.abstractmethod
    def make_trainer(self):
        """Returns the `Trainer`."""

    def train_dataset(self, start_step, rollbacks, *share):
        """Returns endless batches from a step on.

        Args:
            start_step: the step.
            rollbacks: number of rollbacks so far; the order after each is another one.
            *share: the index of a worker and their number; that worker's share of the rows of each
                batch. Nothing is one worker.
        """
        data = dataclasses.replace(self.data, seed=order_seed(self.data.seed, rollbacks))
        return data.train(start_step, *share)

    @property
    def evaluation_dataset(self):
        """Finite batches of held-out images."""
        return self.data.evaluation()

    # What people see, and what others load --------------------------------------------------------

    @abc.abstractmethod
    def draw_images(self):
        """Returns the images of an evaluation, {name: uint8 [H,W,3]}."""

    def draw(self, run):
        """Writes the images of an evaluation and the curves into a `Run`; returns the images."""
        drawn = self.draw_images()
        for name, image in drawn.items():
            grids.write_png(run.image_dir / f"{name}.png", image)
        curves.draw_curves(run.read_metrics(), self.panels, run.image_dir / "curves.png")
        return drawn

    def save(self, folder):
        """Writes the preset: averaged weights, and the names of the classes."""
        names = {"class_names": list(self.data.class_names)}
        self.trainer.ema_model.save_to_preset(folder, names | self.about())

    def about(self):
        """Returns what a preset's metadata say of the training."""
        return {"steps": int(self.trainer.step.numpy()), "made_from": self.made_from.describe()}

    @abc.abstractmethod
    def try_preset(self, run, report):
        """Loads the preset that a dry run saved, and uses it once.

        Args:
            run: the `Run`.
            report: a `dry_run.Report`, which times each action.

        Returns:
            An image that came of it, uint8 [H,W,3]; None if there is none.
        """


def order_seed(seed, rollbacks):
    """The seed of the data's order: another one after each rollback, which no other seed has."""
    return int(hash_integers(seed, rollbacks)) if rollbacks else seed


def zoom_of(images):
    """How much larger images [n,H,W,3] are drawn."""
    return grids.zoom_to(SHOWN_SIDE, images.shape[1:3])
