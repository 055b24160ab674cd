"""`experiment: vim`: the autoregressive model of a tokenizer's tokens."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from vim_tf.annotations import Tensor
from vim_tf.config.experiments import VIMExperiment
from vim_tf.costs import operations
from vim_tf.costs.memory import MemoryEstimate, estimate_vim
from vim_tf.data.images import ImageData, make_image_dataset
from vim_tf.data.token_cache import TokenCache
from vim_tf.distribution.workers import Workers
from vim_tf.drawing import grids
from vim_tf.drawing.spread_images import spread
from vim_tf.errors import UserError
from vim_tf.generation.image_generator import ImageGenerator
from vim_tf.metrics.unigram_baseline import unigram_nats
from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.runs.run import Run
from vim_tf.sampling import sample
from vim_tf.stages.make_token_cache import open_or_make_cache
from vim_tf.stages.stage import Stage, open_tokenizer, order_seed, zoom_of
from vim_tf.trainers.vim_trainer import VIMTrainer

if TYPE_CHECKING:
    from vim_tf.stages.describe import Table
    from vim_tf.stages.dry_run import Report

SAMPLES = 64
SHOWN_CLASSES = 20  # at even distances, if there are more
SHOWN_PER_CLASS = 8
DESCRIBED_TOKENS = 4  # an image; the paper's 1,024 would take minutes on a CPU


class VIMStage(Stage):
    """Trains a `VIM` on a token cache, or on batches that it tokenizes; it draws samples.

    Attributes:
        cache: the token cache; None where batches are tokenized.
    """

    experiment: VIMExperiment
    tokenizer: ViTVQGAN
    trainer: VIMTrainer
    shown = ("nats", "accuracy")
    panels = (
        ("nats per token", False, [("train", "nats"), ("evaluation", "nats")]),
        ("accuracy of the next token", False, [("train", "accuracy"), ("evaluation", "accuracy")]),
    )
    cache: TokenCache | None = None

    @classmethod
    def open_sources(
        cls, experiment: VIMExperiment, strategy: tf.distribute.Strategy
    ) -> tuple[ViTVQGAN, ImageData]:
        """Opens the tokenizer and the images; UserError if they do not fit each other."""
        with strategy.scope():
            tokenizer = open_tokenizer(experiment)
            data = make_image_dataset(experiment.data, experiment.seed)
        if experiment.model.conditional and not data.class_names:
            raise UserError(
                "model.conditional is true, but the images of data.source "
                f"{experiment.data.source} have no labels; set model.conditional: false, or give "
                "each class its own sub-folder"
            )
        return tokenizer, data

    @classmethod
    def for_dry_run(cls, experiment: VIMExperiment, say: Callable[[str], None]) -> VIMExperiment:
        """Tokenizes batches, because a token cache takes long."""
        if experiment.tokenizer.online:
            return experiment
        tokenizer = dataclasses.replace(experiment.tokenizer, online=True, cache=None)
        say("no token cache is made: this dry run tokenizes its batches (tokenizer.online)")
        return dataclasses.replace(experiment, tokenizer=tokenizer)

    @classmethod
    def estimate_memory(
        cls, experiment: VIMExperiment, sources: tuple[ViTVQGAN, ImageData], replicas: int
    ) -> MemoryEstimate:
        """Estimates the memory of VIM and its frozen tokenizer."""
        tokenizer, data = sources
        return estimate_vim(experiment, tokenizer.config, len(data.class_names), replicas)

    @classmethod
    def describe(cls, experiment: VIMExperiment, images: Tensor, table: Table) -> None:
        """Shows tokens, embeddings, logits, features, and a few generated tokens, decoded."""
        tokenizer = open_tokenizer(experiment)
        class_names = (tokenizer.metadata or {}).get("class_names", ())
        config = tokenizer.config.quantizer
        model = VIM(experiment.model, tokenizer.grid, config.codes, len(class_names))
        batch, length = images.shape[0], model.tokens_per_image
        labels = tf.range(batch) % max(model.classes, 1)
        blocks = model.transformer.count_params()
        ends = sum(layer.count_params() for layer in (model.norm, model.head))
        table.say(
            f"{model.classes} classes, as the tokenizer was trained on"
            if model.classes
            else "no classes: every image has the null label"
        )
        table.start()
        table.show("images", images)
        tokens = table.call(
            "ViTVQGAN.tokenize(images)",
            tokenizer.tokenize,
            images,
            parameters=tokenizer.count_params(),
        )
        table.show("labels", labels)
        embeddings = table.call(
            "VIM: embeddings of labels, tokens, positions",
            lambda tokens, labels: model._embed(tokens, labels, False),
            tokens,
            labels,
            parameters=model.count_params() - blocks - ends,
        )
        table.call(
            "VIM: transformer blocks",
            model.transformer,
            embeddings,
            parameters=blocks,
            operations=operations.count_transformer_operations(model.config.transformer, length),
        )
        table.call(
            "VIM(tokens, labels): logits",
            model,
            tokens,
            labels,
            parameters=ends,
            operations=operations.count_vim_operations(model.config, length, config.codes),
        )
        last = len(model.transformer.blocks)
        table.call(
            f"VIM.features(tokens, block={last})",
            lambda tokens: model.features(tokens, last),
            tokens,
        )
        count = min(DESCRIBED_TOKENS, length)
        generated = table.call(
            f"sampling.generate_tokens, {count} of {length}",
            functools.partial(_generate, model, count),
            labels,
        )
        table.call("ViTVQGAN.decode_tokens(tokens)", tokenizer.decode_tokens, generated)
        table.say(f"VIM: {model.count_params():,} parameters")
        table.say(f"ViTVQGAN, the tokenizer: {tokenizer.count_params():,} parameters, frozen")

    def prepare(self, strategy: tf.distribute.Strategy, run: Run) -> None:
        """Opens the token cache or makes it: the chief first, the other workers after it."""
        if self.experiment.tokenizer.online:
            super().prepare(strategy, run)
            return
        folder = self.experiment.tokenizer.cache or run.path / "tokens"
        passes = self.experiment.tokenizer.passes
        with Workers(strategy).chief_first(), strategy.scope():
            self.cache = open_or_make_cache(folder, self.tokenizer, self.data, passes)
        self.images_per_epoch = self.cache.train_size

    def make_trainer(self) -> VIMTrainer:
        """Returns a `VIMTrainer`; with a token cache it knows the unigram baseline."""
        trainer = VIMTrainer(self.experiment, self.tokenizer, len(self.data.class_names))
        if self.cache is not None:
            tokens = self.cache.tokens
            trainer.unigram_nats = unigram_nats(
                tokens["train"].reshape(-1, tokens["train"].shape[-1]),
                tokens["validation"][0],
                self.cache.codes,
            )
        return trainer

    def train_dataset(self, start: int, rollbacks: int, *share: int) -> tf.data.Dataset:
        """Batches of the cache's tokens, or of images."""
        if self.cache is None:
            return super().train_dataset(start, rollbacks, *share)
        seed = order_seed(self.experiment.seed, rollbacks)
        return self.cache.train(seed, self.experiment.data.batch_size, start, *share)

    @property
    def evaluation_dataset(self) -> tf.data.Dataset:
        """Batches of held-out tokens, or of images."""
        if self.cache is None:
            return super().evaluation_dataset
        return self.cache.evaluation(self.experiment.data.batch_size)

    @functools.cached_property
    def generator(self) -> ImageGenerator:
        """The `ImageGenerator` of the averaged weights."""
        names = self.data.class_names if self.experiment.model.conditional else ()
        return ImageGenerator(self.trainer.ema_model, self.tokenizer, tuple(names))

    def draw_images(self) -> dict[str, np.ndarray]:
        """Samples of no class, and some of each of at most `SHOWN_CLASSES` classes.

        A model that knows no null label draws the former of all classes in turn.
        """
        generator, names = self.generator, self.generator.class_names
        label_drop = self.experiment.model.label_drop
        in_turn = spread(len(names), SAMPLES) if names and label_drop == 0 else None
        images = generator.generate(
            None if in_turn is None else np.resize(in_turn, SAMPLES), SAMPLES
        )
        drawn = {"samples": grids.image_grid(images, columns=16, zoom=zoom_of(images))}
        if names and label_drop < 1:
            shown = spread(len(names), SHOWN_CLASSES)
            images = generator.generate(np.repeat(shown, SHOWN_PER_CLASS))
            rows = images.reshape(len(shown), SHOWN_PER_CLASS, *images.shape[1:])
            shown_names = [names[label] for label in shown]
            drawn["samples_by_class"] = grids.labelled_rows(rows, shown_names, zoom_of(images))
        return drawn

    def save(self, folder: Path) -> None:
        """Writes the preset, with the tokenizer's preset inside."""
        self.generator.save(folder, self.about())

    def try_preset(self, run: Run, report: Report) -> np.ndarray:
        """Generates an image."""
        name = "vim_tf.load of it and of its tokenizer"
        generator = report.time(name, lambda: ImageGenerator.load(run.path))
        knows_labels = generator.class_names and self.experiment.model.label_drop < 1
        labels = [0] if knows_labels else None
        return report.time("a sample made", lambda: generator.generate(labels, n=1))[0]


def _generate(model: VIM, count: int, labels: Tensor) -> Tensor:
    """The first `count` tokens of images with labels [B]: [B,N]; the others are 0."""

    def next_logits(previous: Tensor, position: Tensor, cache: Any) -> tuple[Tensor, Any]:
        return model.next_logits(previous, position, cache, labels)

    batch = labels.shape[0]
    tokens, _ = sample.generate_tokens(
        next_logits,
        model.init_cache(batch),
        tf.zeros([model.tokens_per_image, batch], tf.int32),
        sample.row_seeds(0, batch),
        tf.ones([batch]),
        stop=count,
    )
    return tf.transpose(tokens)
