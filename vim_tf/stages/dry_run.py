"""Does everything that a training does, once, in a temporary folder, to find errors early."""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import numpy as np
import tensorflow as tf

from vim_tf.config.experiments import TrainingExperiment
from vim_tf.costs.memory import format_bytes
from vim_tf.distribution.replicas import share_batches
from vim_tf.distribution.strategies import describe_devices, strategy_of
from vim_tf.drawing import grids
from vim_tf.errors import UserError
from vim_tf.messages import shorten
from vim_tf.runs.run import Run
from vim_tf.stages import registry
from vim_tf.training_loop.loop import NotFinite, TrainableStage, TrainLoop
from vim_tf.training_loop.resume import make_checkpoints

if TYPE_CHECKING:
    from vim_tf.data.images import ImageData
    from vim_tf.trainers.trainer import Trainer

SHOWN_LABELS = 5
LONGEST_NAME = 60  # characters
TIMED, MOST_TIMED = 3.0, 20  # seconds and steps that the speed is measured over, about
Result = TypeVar("Result")


def dry_run(experiment: TrainingExperiment, stream: TextIO | None = None) -> None:
    """Reads data, trains two steps, saves, loads and makes an image; prints each with its time.

    Everything is as in the training, with the same batch size, except that VIM tokenizes its
    batches instead of making a token cache first. All written files are removed.

    Args:
        experiment: one of `experiments.EXPERIMENTS`.
        stream: where to write; standard output by default.

    Raises:
        UserError: the run would fail, or is one of several workers; says why.
    """
    if experiment.training.strategy == "multi_worker":
        raise UserError(
            "a dry run uses one machine, and training.strategy is multi_worker; set "
            "training.strategy=mirrored and data.batch_size to the share of one machine"
        )
    report = Report(stream or sys.stdout)
    stage_class = registry.stage_class(experiment)
    experiment = stage_class.for_dry_run(experiment, report.say)
    strategy = strategy_of(experiment.training)
    report.say(describe_devices(strategy))
    sources = report.time("data opened", lambda: stage_class.open_sources(experiment, strategy))
    _show_data(sources[1], report)
    estimate = stage_class.estimate_memory(experiment, sources, strategy.num_replicas_in_sync)
    if estimate is not None:
        report.say(estimate.format())
    with tempfile.TemporaryDirectory(prefix="vim_tf_dry_run_") as folder:
        run = Run(Path(folder) / "run")
        run.start(experiment)
        stage = report.time(
            "networks and optimizers built",
            lambda: stage_class(experiment, strategy, run, sources),
        )
        report.say(f"  {stage.trainer.model.count_params():,} parameters")
        for line in stage.trainer.remarks:
            report.say(line)
        _train_and_restore(stage, run, strategy, report)
        _load_and_use(stage, run, report)
    report.say("dry run: all good")


class Report:
    """Writes plain lines, and lines of actions with their time."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def say(self, text: str) -> None:
        """Writes a line."""
        self.stream.write(f"{text}\n")
        self.stream.flush()

    def time(self, name: str, action: Callable[[], Result]) -> Result:
        """Runs an action without arguments, writes its seconds, and returns its result."""
        started = time.perf_counter()
        result = action()
        self.seconds = time.perf_counter() - started
        self.say(f"{name}: {self.seconds:.1f} s")
        return result


def _show_data(data: ImageData, report: Report) -> None:
    names = data.class_names
    report.say(
        f"  {data.train_size:,} images to train on, {data.validation_size:,} held out; "
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
            f"there are {len(names)} classes, so labels must be from 0 to {len(names) - 1}"
        )
    values, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shown = [f"{shorten(names[values[i]], LONGEST_NAME)} {counts[i]}" for i in order[:SHOWN_LABELS]]
    more = len(values) - len(shown)
    report.say(f"  its labels: {', '.join(shown)}" + (f" and {more} other classes" * bool(more)))


def _train_and_restore(
    stage: TrainableStage, run: Run, strategy: tf.distribute.Strategy, report: Report
) -> None:
    """Saves a checkpoint between two steps and checks that restoring it undoes the second one."""
    trainer = stage.trainer
    make = functools.partial(stage.train_dataset, 0, 0)
    batches = share_batches(strategy, make, trainer.experiment.data.batch_size)
    loop = TrainLoop(trainer, strategy, batches, stage.images_per_epoch)

    def weights() -> list[str]:
        return [model.model_hash() for model in (trainer.model, trainer.ema_model)]

    def train(name: str) -> None:
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
    seconds = _measure_step(loop, trainer, report)
    report.say(f"  {trainer.experiment.data.batch_size / seconds:.1f} img/s")
    if any(new == old for new, old in zip(weights(), saved, strict=True)):
        raise UserError(
            f"a step changed no weight; raise optimizer.learning_rate, which is "
            f"{trainer.experiment.optimizer.learning_rate}"
        )
    report.time("the checkpoint loaded", checkpoints.restore)
    if weights() != saved or int(trainer.step.numpy()) != 1:
        raise UserError(
            "the checkpoint does not restore the weights of the first step; a run could not resume"
        )


def _measure_step(loop: TrainLoop, trainer: Trainer, report: Report) -> float:
    """Returns the seconds of a step, with R1's share; trains on."""
    every = trainer.rare_every
    steps = min(max(round(TIMED / report.seconds), 1), MOST_TIMED)
    if every > 1:
        steps = min(steps, every - 1)
        trainer.step.assign(every + 1)  # the next steps are without R1
    report.time("more steps", lambda: loop.train(tf.constant(steps)))
    seconds = report.seconds / steps
    if every > 1:
        trainer.step.assign(every)
        report.time(f"a step with R1, one of {every}", lambda: loop.train(tf.constant(1)))
        seconds = ((every - 1) * seconds + report.seconds) / every
    return seconds


def _load_and_use(stage: Any, run: Run, report: Report) -> None:
    report.time("a preset saved", lambda: run.save_preset(stage.save))
    image = stage.try_preset(run, report)
    if image is None:
        return
    path = run.image_dir / "dry_run.png"
    grids.write_png(path, image)
    report.say(f"  {image.shape[0]} x {image.shape[1]} pixels, {path.stat().length:,} bytes of PNG")
