"""The start of a training: the last checkpoint, and settings that have changed since then."""

from collections.abc import Mapping
from typing import Any

from vim_tf.config.sections import TrainingConfig
from vim_tf.distribution.workers import Workers
from vim_tf.runs.changes import Changes, check_steps, find_changes
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
) -> tuple[list[str], bool]:
    """Restores the newest checkpoint, and adopts the settings that have changed.

    Args:
        checkpoints: those of the run.
        trainer: the trainer.
        run: the run's folder.
        workers: the workers; all call this.
        changes: settings that have changed since the run was stopped; None if nothing was trained.
        previous: another run, from whose last checkpoint this one goes on if it has none itself.

    Returns:
        (Lines for the user, whether the first step must be evaluated before training goes on.)

    Raises:
        UserError: the checkpoint does not fit the trainer, the images or the tokenizer.
    """
    restored = checkpoints.restore()
    # The run may have been killed between the checkpoint of a step and its evaluation.
    config, step = trainer.experiment.training, int(trainer.step.numpy())
    evaluates = step > 0 and is_due(config, step, config.evaluate_every)
    if restored is not None:
        if workers.is_chief:
            run.metrics.resume(step, evaluates)
        lines = [] if changes is None else _adopt(changes, {}, trainer, run, workers)
        return lines, evaluates
    if workers.is_chief:
        run.metrics.start()
        checkpoints.forget_best()
    if previous is None:
        return [], False
    changes = find_changes(previous.load_experiment(), trainer.experiment)
    lines = checkpoints.restore_from(previous.checkpoint_dir)
    done = int(trainer.step.numpy())
    lines += trainer.start_new_parts(done)
    check_steps(trainer.experiment, done, previous.path)
    lines += _adopt(changes, {"continues": str(previous.path)}, trainer, run, workers)
    checkpoints.save(done)
    return lines, done > 0 and is_due(config, done, config.evaluate_every)


def is_due(config: TrainingConfig, step: int, every: int) -> bool:
    """Returns whether something is done at a step: every so many steps, and at the last one."""
    return step % every == 0 or step == config.steps


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
