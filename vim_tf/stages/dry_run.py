"""Everything a training does, once and in a temporary folder, so that a long run will not fail."""

import dataclasses
import functools
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

import vim_tf
from vim_tf.costs.memory import estimate_vim, estimate_vit_vqgan, format_bytes
from vim_tf.data.transforms import to_uint8
from vim_tf.distribution.replicas import share_batches
from vim_tf.distribution.strategies import describe_devices, strategy_of
from vim_tf.drawing import grids
from vim_tf.errors import UserError
from vim_tf.evaluation.keras_classifier import open_classifier
from vim_tf.generation.image_generator import ImageGenerator
from vim_tf.runs.run import Run
from vim_tf.stages import builders
from vim_tf.training_loop.loop import NotFinite, TrainLoop, make_checkpoints

SHOWN_LABELS = 5


def dry_run(experiment, stream=None):
    """Reads data, trains two steps, saves, loads and makes a picture; prints each with its time.

    Everything is the real thing with the real batch, but that VIM tokenizes its batches instead of
    making a token cache first. Nothing that is written stays.

    Args:
        experiment: one of `experiments.EXPERIMENTS`.
        stream: where to write; standard output by default.

    Raises:
        UserError: the run would fail, or is one of several workers; says why.
    """
    if experiment.training.strategy == "multi_worker":
        raise UserError(
            "a dry run tries one machine, and training.strategy is multi_worker; give it "
            "set training.strategy=mirrored and one machine's share of data.batch_size"
        )
    report = _Report(stream or sys.stdout)
    if experiment.experiment == "vim" and not experiment.tokenizer.online:
        tokenizer_config = dataclasses.replace(experiment.tokenizer, online=True, cache=None)
        experiment = dataclasses.replace(experiment, tokenizer=tokenizer_config)
        report.say("no token cache is made: this dry run tokenizes its batches (tokenizer.online)")
    strategy = strategy_of(experiment.training)
    report.say(describe_devices(strategy))
    sources = report.time("data opened", lambda: builders.open_sources(experiment, strategy))
    _show_data(sources[1], report)
    if experiment.experiment != "classifier":  # too small to matter
        report.say(_estimate(experiment, *sources, strategy.num_replicas_in_sync).format())
    with tempfile.TemporaryDirectory(prefix="vim_tf_dry_run_") as folder:
        run = Run(Path(folder) / "run")
        run.start(experiment)
        stage = report.time(
            "networks and optimizers built",
            lambda: builders.make_stage(experiment, strategy, run, sources),
        )
        report.say(f"  {stage.trainer.model.count_params():,} parameters")
        _train_and_restore(stage, run, strategy, report)
        _load_and_draw(stage, run, sources[1], report)
    report.say("dry run: all good")


class _Report:
    """Writes plain lines; those of actions with the time they took."""

    def __init__(self, stream):
        self.stream = stream

    def say(self, text):
        self.stream.write(f"{text}\n")
        self.stream.flush()

    def time(self, name, action):
        started = time.perf_counter()
        result = action()
        self.seconds = time.perf_counter() - started
        self.say(f"{name}: {self.seconds:.1f} s")
        return result


def _show_data(data, report):
    names = data.class_names
    report.say(
        f"  {data.train_size:,} pictures to train on, {data.validation_size:,} held out; "
        + (f"{len(names):,} classes" if names else "no labels")
    )
    batch = report.time("a batch of training data read", lambda: next(iter(data.train())))
    images, labels = batch["image"].numpy(), batch["label"].numpy()
    report.say(
        f"  images {list(images.shape)} {images.dtype} from {images.min():.2f} to "
        f"{images.max():.2f}, labels {list(labels.shape)} {labels.dtype}"
    )
    if not names:
        return
    if labels.min() < 0 or labels.max() >= len(names):
        raise UserError(
            f"the data has a label {labels.min() if labels.min() < 0 else labels.max()}; "
            f"there are {len(names)} classes, so that labels must be from 0 to {len(names) - 1}"
        )
    values, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shown = [f"{names[values[i]]} {counts[i]}" for i in order[:SHOWN_LABELS]]
    more = len(values) - len(shown)
    report.say(f"  its labels: {', '.join(shown)}" + (f" and {more} other classes" * bool(more)))


def _estimate(experiment, tokenizer, data, replicas):
    if tokenizer is None:
        return estimate_vit_vqgan(experiment, replicas)
    return estimate_vim(experiment, tokenizer.config, len(data.class_names), replicas)


def _train_and_restore(stage, run, strategy, report):
    """Saves a checkpoint between two steps and checks that it takes the second one back."""
    trainer = stage.trainer
    make = functools.partial(stage.train_dataset, 0, 0)
    batches = share_batches(strategy, make, trainer.experiment.data.batch_size)
    loop = TrainLoop(trainer, strategy, batches, stage.images_per_epoch)

    def weights():
        return [model.model_hash() for model in (trainer.model, trainer.ema_model)]

    def train(name):
        try:
            results = report.time(name, lambda: loop.train(tf.constant(1)))
        except NotFinite as found:
            raise UserError(
                f"{found}, after {name}; lower optimizer.learning_rate, or set optimizer.clip_norm"
            ) from None
        report.say("  " + "  ".join(f"{log} {float(value):.4g}" for log, value in results.items()))

    train("the first step, with its compilation")
    saved = weights()
    checkpoints = make_checkpoints(trainer, run, loop.workers)
    report.time("a checkpoint saved", lambda: checkpoints.save(1))
    size = sum(file.stat().length for file in checkpoints.path(1).iterdir())
    kept = trainer.experiment.training.keep_checkpoints
    report.say(f"  {format_bytes(size)}; a run keeps {kept}")
    train("the second step")
    report.say(f"  {trainer.experiment.data.batch_size / report.seconds:.1f} img/s")
    if any(new == old for new, old in zip(weights(), saved, strict=True)):
        raise UserError(
            f"a step changed no weight; raise optimizer.learning_rate, which is "
            f"{trainer.experiment.optimizer.learning_rate}"
        )
    report.time("the checkpoint loaded", checkpoints.restore)
    if weights() != saved or int(trainer.step.numpy()) != 1:
        raise UserError(
            "the checkpoint did not bring the first step's weights back; a run could not be resumed"
        )


def _load_and_draw(stage, run, data, report):
    report.time("a preset saved", lambda: run.save_preset(stage.save))
    if stage.trainer.experiment.experiment == "classifier":
        classifier = report.time("vim_tf.load of it", lambda: open_classifier(run.path, "the run"))
        image = to_uint8(next(iter(data.evaluation(batch_size=1)))["image"])
        shares = report.time("a picture classified", lambda: classifier(image)).probabilities
        report.say(f"  {data.class_names[np.argmax(shares)]}, probability {shares.max():.3f}")
        return
    if stage.trainer.experiment.experiment == "vit_vqgan":
        model = report.time("vim_tf.load of it", lambda: vim_tf.load(run.path))
        images = next(iter(data.evaluation(batch_size=1)))["image"]
        what, draw = "a reconstruction", lambda: to_uint8(model(images))
    else:
        generator = report.time(
            "vim_tf.load of it and of its tokenizer", lambda: ImageGenerator.load(run.path)
        )
        labels = [0] if generator.class_names else None
        what, draw = "a sample", lambda: generator.generate(labels, n=1)
    path = run.picture_dir / "dry_run.png"
    image = report.time(f"{what} made", draw)[0]
    grids.write_png(path, image)
    report.say(f"  {image.shape[0]} x {image.shape[1]} pixels, {path.stat().length:,} bytes of PNG")
