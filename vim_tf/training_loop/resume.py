"""The start of a training: the last checkpoint, and settings that have changed since then."""

from collections.abc import Mapping
from typing import Any

from vim_tf.distribution.workers import Workers
from vim_tf.errors import UserError
from vim_tf.runs.changes import Changes, find_changes
from vim_tf.runs.checkpoints import Checkpoints
from vim_tf.runs.made_from import MadeFrom
from vim_tf.runs.run import Run
from vim_tf.trainers.trainer import Trainer


def make_checkpoints(
    trainer: Trainer, run: Run, workers: Workers, made_from: MadeFrom | None = None
) -> Checkpoints:
    """Returns the `Checkpoints` of a trainer's whole state in a run's folder."""
    items, keep = trainer.checkpoint_items(), trainer.experiment.training.keep_checkpoints
    return Checkpoints(items, run.checkpoint_dir, keep, workers, made_from=made_from)


def restore(
    checkpoints: Checkpoints,
    trainer: Trainer,
    run: Run,
    workers: Workers,
    changes: Changes | None,
    previous: Run | None,
) -> list[str]:
    """Restores the newest checkpoint, and adopts the settings that have changed.

    Args:
        checkpoints: those of the run.
        trainer: the trainer.
        run: the run's folder.
        workers: the workers; all call this.
        changes: settings that have changed since the run was stopped; None if nothing was trained.
        previous: another run, from whose last checkpoint this one goes on if it has none itself.

    Returns:
        Lines for the user.

    Raises:
        UserError: the checkpoint does not fit the trainer, the images or the tokenizer.
    """
    if checkpoints.restore() is not None:
        return [] if changes is None else _adopt(changes, {}, trainer, run, workers)
    if previous is None:
        return []
    changes = find_changes(previous.load_experiment(), trainer.experiment)
    lines = checkpoints.restore_from(previous.checkpoint_dir)
    steps, done = trainer.experiment.training.steps, int(trainer.step.numpy())
    if done > steps:
        raise UserError(
            f"training.steps is {steps:,}, and {previous.path} has done {done:,} steps; give at "
            "least as many"
        )
    lines += _adopt(changes, {"continues": str(previous.path)}, trainer, run, workers)
    checkpoints.save(done)
    return lines


def _adopt(
    changes: Changes, note: Mapping[str, Any], trainer: Trainer, run: Run, workers: Workers
) -> list[str]:
    """Adopts changed settings, and keeps them and `note` in the run; returns lines for the user."""
    lines = changes.remarks()
    adopted = trainer.adopt_batch_size()
    lines += [adopted] if adopted else []
    if changes.steps_before is not None:
        lines += trainer.adopt_steps(changes.steps_before)
    if workers.is_chief and (changes.values or note):
        step = int(trainer.step.numpy())
        run.go_on(trainer.experiment, step, {**note, "changes": changes.lines})
    return lines
