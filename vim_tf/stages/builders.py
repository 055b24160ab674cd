"""From a config to everything a training needs: strategy, data, trainer and pictures."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from vim_tf.config.checks import batch_divides
from vim_tf.data.hashing import hash_integers
from vim_tf.data.images import make_image_dataset
from vim_tf.data.transforms import to_uint8
from vim_tf.distribution.workers import Workers
from vim_tf.drawing import curves, grids
from vim_tf.errors import UserError
from vim_tf.generation.image_generator import ImageGenerator
from vim_tf.metrics.unigram_baseline import unigram_nats
from vim_tf.runs.load import load_tokenizer
from vim_tf.runs.made_from import MadeFrom
from vim_tf.stages.make_token_cache import open_or_make_cache
from vim_tf.trainers.classifier_trainer import ClassifierTrainer
from vim_tf.trainers.vim_trainer import VIMTrainer
from vim_tf.trainers.vit_vqgan_trainer import ViTVQGANTrainer

SHOWN_IMAGES = 32  # in a grid of reconstructions
SHOWN_PER_CLASS = 8
SHOWN_SIDE = 64  # pixels, about, so that small images can be seen


@dataclass(frozen=True)
class Stage:
    """One stage, ready to be trained.

    Attributes:
        trainer: a `Trainer`, compiled.
        train_dataset: called with a step, the number of rollbacks, the index of a worker and their
            number; endless batches from that step on, that worker's share of the rows of each, in
            an order of their own after each rollback.
        evaluation_dataset: finite batches of held-out images.
        images_per_epoch: number of training images.
        draw: called with the `Run`; writes its pictures and returns them by name, uint8.
        save: called with a folder; writes the preset.
        made_from: the `MadeFrom` of the training.
    """

    trainer: Any
    train_dataset: Callable
    evaluation_dataset: Any
    images_per_epoch: int
    draw: Callable
    save: Callable
    made_from: Any


def open_sources(experiment, strategy):
    """Opens what a training reads: (the `ViTVQGAN` of stage 2 or None, `ImageData`)."""
    if experiment.experiment != "vim":
        return None, make_image_dataset(experiment.data, experiment.seed)
    with strategy.scope():
        return _open_tokenizer_and_data(experiment)


def make_stage(experiment, strategy, run, sources=None):
    """Builds the stage that `experiment` describes.

    Args:
        experiment: one of `experiments.EXPERIMENTS`.
        strategy: what `devices.make_strategy` returned.
        run: the `Run`, for the token cache.
        sources: what `open_sources` returned, if it was called before.

    Raises:
        UserError: data, tokenizer and config do not fit each other.
    """
    batch_divides(experiment, strategy.num_replicas_in_sync)
    keras.utils.set_random_seed(experiment.seed % 2**32)  # NumPy's range; ours is any integer
    makers = {"vit_vqgan": _make_vit_vqgan, "vim": _make_vim, "classifier": _make_classifier}
    make = makers[experiment.experiment]
    return make(experiment, strategy, run, *(sources or open_sources(experiment, strategy)))


def _zoom(images):
    """How much larger images [n,H,W,3] are drawn."""
    return grids.zoom_to(SHOWN_SIDE, images.shape[1:3])


def _order_seed(seed, rollbacks):
    """The seed of the data's order: another one after each rollback, which no other seed has."""
    return int(hash_integers(seed, rollbacks)) if rollbacks else seed


def _image_order(data):
    """The `train_dataset` of a `Stage` that reads `ImageData`."""

    def train_dataset(start_step, rollbacks, *share):
        reordered = dataclasses.replace(data, seed=_order_seed(data.seed, rollbacks))
        return reordered.train(start_step, *share)

    return train_dataset


def _preset_writer(trainer, made_from, data):
    """Returns a function (folder) that writes the averaged weights and the names of the classes."""

    def save(folder):
        names = {"class_names": list(data.class_names)}
        trainer.ema_model.save_to_preset(folder, names | _about(trainer, made_from))

    return save


def _about(trainer, made_from):
    """What a preset's metadata say of a training."""
    return {"steps": int(trainer.step.numpy()), "made_from": made_from.describe()}


def _image_stage(trainer, data, draw, run):
    """The `Stage` of a training that reads images alone."""
    made_from = MadeFrom(data, None, run.path)
    save, order = _preset_writer(trainer, made_from, data), _image_order(data)
    evaluation = data.evaluation()
    return Stage(trainer, order, evaluation, data.train_size, draw, save, made_from)


def _make_vit_vqgan(experiment, strategy, run, _, data):
    with strategy.scope():
        trainer = ViTVQGANTrainer(experiment)
        trainer.compile()
    shown = next(iter(data.evaluation(batch_size=SHOWN_IMAGES)))["image"]

    def draw(run):
        reconstructions = trainer.ema_model(shown)
        grid = grids.reconstruction_grid(
            to_uint8(shown),
            to_uint8(reconstructions),
            zoom=_zoom(shown),
        )
        grids.write_png(run.picture_dir / "reconstructions.png", grid)
        curves.draw_curves(run.read_metrics(), VIT_VQGAN_PANELS, run.picture_dir / "curves.png")
        return {"reconstructions": grid}

    return _image_stage(trainer, data, draw, run)


VIT_VQGAN_PANELS = (
    ("loss", True, [("train", "total"), ("train", "l2")]),
    ("PSNR (dB)", False, [("train", "psnr"), ("evaluation", "psnr")]),
    ("share of codes used", False, [("train", "usage"), ("evaluation", "usage")]),
    ("perplexity of the codes", False, [("train", "perplexity"), ("evaluation", "perplexity")]),
)


def open_tokenizer(experiment):
    """Opens the `ViTVQGAN` that a `VIMExperiment` names; UserError if it misfits."""
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


def _open_tokenizer_and_data(experiment):
    """Opens what a `VIMExperiment` names: (`ViTVQGAN`, `ImageData`); UserError if they misfit."""
    tokenizer = open_tokenizer(experiment)
    data = make_image_dataset(experiment.data, experiment.seed)
    if experiment.model.conditional and not data.class_names:
        raise UserError(
            f"model.conditional is true, but the pictures of data.source {experiment.data.source} "
            "have no labels; set model.conditional: false, or give each class its own sub-folder"
        )
    return tokenizer, data


def _make_vim(experiment, strategy, run, tokenizer, data):
    if experiment.tokenizer.online:
        train_dataset, evaluation = _image_order(data), data.evaluation()
        size = data.train_size
    else:
        folder = experiment.tokenizer.cache or run.path / "tokens"
        with Workers(strategy).chief_first(), strategy.scope():
            cache = open_or_make_cache(folder, tokenizer, data, experiment.tokenizer.passes)
        batch_size = experiment.data.batch_size
        size = cache.train_size

        def train_dataset(start_step, rollbacks, *share):
            seed = _order_seed(experiment.seed, rollbacks)
            return cache.train(seed, batch_size, start_step, *share)

        evaluation = cache.evaluation(batch_size)
    made_from = MadeFrom(data, tokenizer.model_hash(), run.path)
    with strategy.scope():
        trainer = VIMTrainer(experiment, tokenizer, len(data.class_names))
        trainer.compile()
    if not experiment.tokenizer.online:
        trainer.unigram_nats = unigram_nats(
            cache.tokens["train"].reshape(-1, cache.tokens["train"].shape[-1]),
            cache.tokens["validation"][0],
            cache.codes,
        )
    class_names = data.class_names if experiment.model.conditional else ()
    generator = ImageGenerator(trainer.ema_model, tokenizer, tuple(class_names))

    def draw(run):
        images = generator.generate(n=64)
        drawn = {"samples": grids.image_grid(images, columns=16, zoom=_zoom(images))}
        if class_names:
            shown = min(len(class_names), 20)
            labels = np.repeat(np.arange(shown), SHOWN_PER_CLASS)
            images = generator.generate(labels)
            drawn["samples_by_class"] = grids.labelled_rows(
                images.reshape(shown, SHOWN_PER_CLASS, *images.shape[1:]),
                class_names[:shown],
                _zoom(images),
            )
        for name, picture in drawn.items():
            grids.write_png(run.picture_dir / f"{name}.png", picture)
        curves.draw_curves(run.read_metrics(), VIM_PANELS, run.picture_dir / "curves.png")
        return drawn

    def save(folder):
        generator.save(folder, _about(trainer, made_from))

    return Stage(trainer, train_dataset, evaluation, size, draw, save, made_from)


VIM_PANELS = (
    ("nats a token", False, [("train", "nats"), ("evaluation", "nats")]),
    ("accuracy of the next token", False, [("train", "accuracy"), ("evaluation", "accuracy")]),
)


def _make_classifier(experiment, strategy, run, _, data):
    names = data.class_names
    if len(names) < 2:
        raise UserError(
            f"the pictures of data.source {experiment.data.source} have {len(names)} classes, and "
            "a classifier needs 2 or more; give each class its own sub-folder"
        )
    with strategy.scope():
        trainer = ClassifierTrainer(experiment, len(names))
        trainer.compile()
    shown = next(iter(data.evaluation(batch_size=SHOWN_PER_CLASS * 4 * len(names))))["image"]

    def draw(run):
        taken_for = np.argmax(trainer.ema_model.predict(shown, verbose=0), -1)
        images = to_uint8(shown)
        rows = np.full((len(names), SHOWN_PER_CLASS, *images.shape[1:]), 255, "uint8")
        for i, row in enumerate(rows):
            found = images[taken_for == i][:SHOWN_PER_CLASS]
            row[: len(found)] = found
        grid = grids.labelled_rows(rows, names, _zoom(images))
        grids.write_png(run.picture_dir / "taken_for.png", grid)
        curves.draw_curves(run.read_metrics(), CLASSIFIER_PANELS, run.picture_dir / "curves.png")
        return {"taken_for": grid}

    return _image_stage(trainer, data, draw, run)


CLASSIFIER_PANELS = (
    ("cross-entropy (nats)", True, [("train", "cross_entropy"), ("evaluation", "cross_entropy")]),
    ("accuracy", False, [("train", "accuracy"), ("evaluation", "accuracy")]),
)
