"""Runs a training from its config to its preset, for `python -m vim_tf.train` and for Python."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vim_tf.annotations import StrPath
from vim_tf.config import loader
from vim_tf.config.experiments import TrainingExperiment
from vim_tf.distribution.strategies import describe_devices, strategy_of
from vim_tf.distribution.workers import Workers
from vim_tf.runs.continuation import open_runs
from vim_tf.stages import registry
from vim_tf.training_loop import loop

if TYPE_CHECKING:
    import keras

    from vim_tf.stages.stage import Stage


def run_training(
    experiment: TrainingExperiment,
    workdir: StrPath,
    *,
    continue_as: StrPath | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> dict[str, float]:
    """Trains an experiment; the same call again resumes.

    Args:
        experiment: the result of `load_config`, or an object of a class of
            `config.experiments.EXPERIMENTS` that is a training.
        workdir: the run's folder; created if it is missing.
        continue_as: a new folder. The run in `workdir` goes on there with `experiment`, of which
            any setting may differ that fits its weights; `workdir` is only read. The same call
            again resumes the run in the new folder.
        callbacks: see `training_loop.loop.train`.

    Returns:
        The last evaluation; {} on a worker that is not the chief.

    Raises:
        UserError: config, data, checkpoint and folder do not fit each other, or numbers were
            repeatedly not finite.
        Interrupted: SIGTERM or Ctrl-C came; everything is saved.
    """
    run, previous = open_runs(experiment, workdir, continue_as)
    changes = run.check(experiment)
    stage_class: type[Stage] = registry.stage_class(experiment)
    strategy = strategy_of(experiment.training)
    workers = Workers(strategy)
    sys.stderr.write(f"{describe_devices(strategy)}\n")

    def announce(step: int, remarks: Sequence[str]) -> None:
        for line in remarks:
            sys.stderr.write(f"{run.path}: {line}\n")
        how = f"resuming at step {step}" if step else "starting"
        sys.stderr.write(
            f"{run.path}: {how}, {experiment.training.steps} steps of "
            f"{experiment.data.batch_size} images, {stage.images_per_epoch} images per epoch, "
            f"{stage.trainer.model.count_params():,} parameters\n"
        )

    with contextlib.ExitStack() as held:
        held.enter_context(workers.watched())
        if workers.is_chief:
            held.enter_context(run.lock())
            changes = run.start(experiment)
        workers.check_same("the config", loader.to_yaml(experiment))
        stage = stage_class(experiment, strategy, run)
        if workers.is_chief:
            left_out = stage.data.left_out.save(run.path)
            if left_out is not None:
                sys.stderr.write(f"data: {left_out} has the names of what is left out\n")
        for line in stage.trainer.remarks:
            sys.stderr.write(f"{line}\n")
        return loop.train(stage, run, strategy, announce, callbacks, changes, previous)
