"""The custom training loop: orbit's loop around the trainers' step.

restore the newest undamaged checkpoint, if there is one
until the last step:
    train `log_every` steps in one graph call      -> report
    every `evaluate_every` steps: evaluate          -> report, images, preset
    every `checkpoint_every` steps: save everything
a number that is not finite: back to the last checkpoint, continue with another order of the data
SIGTERM or Ctrl-C: save everything and end

Several workers do the same in step; only the chief evaluates, reports and writes.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import keras
import numpy as np
import orbit
import tensorflow as tf
from absl import logging

from vim_tf.annotations import Tensor
from vim_tf.distribution.replicas import share_batches
from vim_tf.distribution.workers import Workers
from vim_tf.errors import Interrupted, UserError
from vim_tf.runs.changes import Changes
from vim_tf.runs.checkpoints import Checkpoints
from vim_tf.runs.made_from import MadeFrom
from vim_tf.runs.run import Run
from vim_tf.trainers.trainer import Trainer
from vim_tf.training_loop import tensorboard
from vim_tf.training_loop.evaluation_loop import EvaluationLoop, Stopped
from vim_tf.training_loop.reporter import Reporter
from vim_tf.training_loop.resume import is_due, make_checkpoints, restore
from vim_tf.training_loop.stop_signal import StopSignal
from vim_tf.training_loop.training_warnings import Diagnosis

MOST_ROLLBACKS = 3


class TrainableStage(Protocol):
    """The part of a `stages.stage.Stage` that the loop uses; that package is above this one."""

    shown: tuple[str, ...]
    trainer: Trainer
    made_from: MadeFrom
    images_per_epoch: int

    @property
    def evaluation_dataset(self) -> tf.data.Dataset:
        """Finite batches of held-out images."""
        ...

    def train_dataset(self, start: int, rollbacks: int, *share: int) -> tf.data.Dataset:
        """Returns endless batches from a position in the sequence of epochs on."""
        ...

    def draw(self, run: Run) -> dict[str, np.ndarray]:
        """Writes the images of an evaluation into a run; returns them."""
        ...

    def save(self, folder: Path) -> None:
        """Writes the preset."""
        ...


class NotFinite(Exception):
    """A loss or a gradient became NaN or infinite."""


class TrainLoop(orbit.StandardTrainer):
    """orbit's inner loop: `strategy.run` of the trainer's step, up to `steps` times in one graph.

    It ends early when `stop` is set on any worker, or when a log is not finite.

    Args:
        trainer: the trainer.
        strategy: the strategy that it was made in.
        batches: the data set as the strategy distributes it, see `replicas.share_batches`.
        images_per_epoch: number of training images.
        stop: bool tf.Variable of this worker; None never stops.
    """

    def __init__(
        self,
        trainer: Trainer,
        strategy: tf.distribute.Strategy,
        batches: tf.distribute.DistributedDataset,
        images_per_epoch: int,
        stop: tf.Variable | None = None,
    ) -> None:
        super().__init__(batches)
        self.trainer = trainer
        self.strategy = strategy
        self.images_per_epoch = images_per_epoch
        self.workers = Workers(strategy)
        self.stop = tf.Variable(False, trainable=False) if stop is None else stop
        self.stopped = tf.Variable(False, trainable=False)  # whether `stop` is set on any worker

    def _whole_epoch(self) -> bool:
        return self.trainer.images_counted >= self.images_per_epoch

    def create_train_loop_fn(self) -> Callable[[tf.distribute.DistributedIterator, Tensor], None]:
        """Like orbit's, but checks both reasons to end before each step."""

        @tf.autograph.experimental.do_not_convert
        def loop(iterator: tf.distribute.DistributedIterator, steps: Tensor) -> None:
            def goes_on(done: Tensor, stopped: Tensor) -> Tensor:
                return (done < steps) & ~stopped & (self.trainer.bad_step < 0)

            def step(done: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
                self.train_step(iterator)
                return done + 1, self.workers.any(self.stop.read_value())

            start = [tf.zeros_like(steps), self.workers.any(self.stop.read_value())]
            self.stopped.assign(tf.while_loop(goes_on, step, start)[1])

        return tf.function(loop)

    def train_loop_begin(self) -> None:
        """Starts new means; the usage of the codebook is counted for at least a whole epoch."""
        self.trainer.reset_logs(self._whole_epoch())

    def train_step(self, iterator: tf.distribute.DistributedIterator) -> None:
        """Does one step on every replica."""
        self.strategy.run(self.trainer.train_step, args=(next(iterator),))

    def train_loop_end(self) -> dict[str, Tensor]:
        """Returns the means of the steps since `train_loop_begin`, and the learning rates.

        Raises:
            NotFinite: a number was not finite.
            Stopped: `stop` was set on a worker.
        """
        found = self.trainer.not_finite()
        if found is not None:
            raise NotFinite(found)
        if self.stopped.numpy():
            raise Stopped
        results = self.trainer.train_results()
        # Of no step: R1 between two steps with it, or a discriminator before its start.
        absent = {name for name, log in self.trainer.log_metrics.items() if not log.count.numpy()}
        if not self._whole_epoch():
            absent |= {*self.trainer.epoch_logs}
        results = {name: value for name, value in results.items() if name not in absent}
        return results | self.trainer.learning_rates()


def train(
    stage: TrainableStage,
    run: Run,
    strategy: tf.distribute.Strategy,
    on_start: Callable[[int, Sequence[str]], None] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    changes: Changes | None = None,
    previous: Run | None = None,
) -> dict[str, float]:
    """Trains a stage up to its last step, resuming from the run's last checkpoint.

    Args:
        stage: a `stages.stage.Stage`.
        run: the run's folder, started.
        strategy: the strategy that the trainer was made in.
        on_start: called with the step at which training begins, and lines for the user.
        callbacks: their `model` is the trainer. These methods are called: `on_train_begin`;
            `on_train_batch_end(step - 1, logs)`, once every `log_every` steps; `on_test_begin`,
            `on_test_end(logs)`; and `on_train_end(logs)`. A callback that sets
            `self.model.stop_training` ends the training as a signal does.
        changes: settings that have changed since the run was stopped.
        previous: another run, from whose last checkpoint this one goes on if it has none itself.

    Returns:
        The last evaluation; {} on a worker that is not the chief.

    Raises:
        Interrupted: SIGTERM, SIGHUP or SIGINT came; everything is saved.
        UserError: numbers were not finite `MOST_ROLLBACKS` + 1 times; or the checkpoint is of
            another architecture, or was made from other images or by another tokenizer.
    """
    trainer = stage.trainer
    config = trainer.experiment.training
    workers = Workers(strategy)
    checkpoints = make_checkpoints(trainer, run, workers, stage.made_from)
    remarks, evaluates = restore(checkpoints, trainer, run, workers, changes, previous)
    first_step = int(trainer.step.numpy())
    if on_start:
        on_start(first_step, remarks)
    reporter = Reporter(
        run, first_step, config.steps, trainer.experiment.data.batch_size, stage.shown
    )
    with contextlib.ExitStack() as held:
        stop = held.enter_context(StopSignal(reporter.say))
        held.enter_context(contextlib.closing(reporter))
        if workers.is_chief:
            held.enter_context(contextlib.closing(stage.made_from))
            stage.made_from.start()
        training = _Training(stage, run, strategy, checkpoints, reporter, stop, callbacks)
        # orbit would print these lines; the reporter writes the same to standard error.
        held.enter_context(mock.patch.object(orbit.controller, "_log", logging.info))
        return training.run(first_step, evaluates)


class _Training:
    """The part of `train` from the first step on."""

    def __init__(
        self,
        stage: TrainableStage,
        run: Run,
        strategy: tf.distribute.Strategy,
        checkpoints: Checkpoints,
        reporter: Reporter,
        stop: StopSignal,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> None:
        self.stage, self.run_folder, self.strategy = stage, run, strategy
        self.trainer, self.config = stage.trainer, stage.trainer.experiment.training
        self.checkpoints, self.reporter, self.stop = checkpoints, reporter, stop
        self.callbacks = keras.callbacks.CallbackList(callbacks, model=self.trainer)
        self.trainer.stop_training = False
        start = self.trainer.decisions.get("start")
        self.diagnosis = Diagnosis(
            self.trainer.experiment,
            None if start is None else lambda: int(start.numpy()),
            stage.images_per_epoch,
        )
        self.loop = TrainLoop(
            self.trainer, strategy, self._batches(), stage.images_per_epoch, stop.requested
        )
        self.workers = self.loop.workers
        summary_dir = str(run.tensorboard_dir) if self.workers.is_chief else None
        self.evaluator = EvaluationLoop(
            self.trainer,
            strategy,
            stage.evaluation_dataset,
            # Several workers stop together, in their next step.
            stop.requested if self.workers.count == 1 else None,
        )
        self.controller = orbit.Controller(
            global_step=self.trainer.step,
            trainer=self.loop,
            evaluator=self.evaluator,
            strategy=strategy,
            train_actions=[self._report_training],
            eval_actions=[self._report_evaluation],
            steps_per_loop=self.config.log_every,
            summary_dir=summary_dir,
        )

    def _batches(self) -> tf.distribute.DistributedDataset:
        place = self.trainer.images_seen(), int(self.trainer.rollbacks.numpy())
        make = functools.partial(self.stage.train_dataset, *place)
        return share_batches(self.strategy, make, self.trainer.experiment.data.batch_size)

    def run(self, step: int, evaluates: bool) -> dict[str, float]:
        """Trains from `step` on; returns the last evaluation.

        Args:
            step: the first step.
            evaluates: whether to evaluate before it.
        """
        config, results = self.config, {}
        self._forget_logs_after(step, evaluates)
        self.callbacks.on_train_begin()
        try:
            if evaluates:
                results = self._evaluate(step)
            while step < config.steps:
                next_stops = [
                    (step // n + 1) * n for n in (config.evaluate_every, config.checkpoint_every)
                ]
                target = min(*next_stops, config.steps)
                try:
                    self.controller.train(target, checkpoint_at_completion=False)
                except NotFinite as found:
                    step = self._roll_back(str(found))
                    continue
                step = target
                if is_due(config, step, config.checkpoint_every):
                    self.checkpoints.save(step)
                if is_due(config, step, config.evaluate_every):
                    results = self._evaluate(step)
        except Stopped:
            step = int(self.trainer.step.numpy())
            self.checkpoints.save(step)
            raise Interrupted(
                f"stopped at step {step} and saved; the same command resumes from there"
            ) from None
        self.callbacks.on_train_end(results or None)
        self.workers.wait()  # a worker that ends earlier would count as dead
        return results

    def _forget_logs_after(self, step: int, evaluates: bool) -> None:
        """Makes TensorBoard forget the steps that are repeated; see `MetricsLog.resume`."""
        if not self.workers.is_chief:
            return
        writer = self.controller.summary_manager.summary_writer()
        tensorboard.forget_from(writer, step if evaluates else step + 1)
        if evaluates:  # TensorBoard forgets whole steps, and this one's training is not repeated
            for record in self.run_folder.read_metrics():
                if (record["step"], record["kind"]) == (step, "train"):
                    tensorboard.write(writer, record)

    def _evaluate(self, step: int) -> dict[str, float]:
        """Returns the evaluation; {} on a worker that is not the chief."""
        results, is_best, decided = {}, False, {}
        if self.workers.is_chief:
            self.callbacks.on_test_begin()
            results = self.controller.evaluate(self.config.evaluate_batches or -1)
            results = {name: float(value) for name, value in results.items()}
            self.callbacks.on_test_end(results)
            best = self.checkpoints.best()
            is_best = self.trainer.is_better(results, None if best is None else best[1])
            decided = self.trainer.after_evaluation(step, results)
        for name, variable in self.trainer.decisions.items():
            number = self.workers.chiefs(decided.get(name, 0))
            if number != int(variable.numpy()):
                variable.assign(number)
                self.reporter.say(self.trainer.describe_decision(name, number))
        if self.workers.chiefs(is_best):
            self.checkpoints.save(step)
            if self.workers.is_chief:
                self.run_folder.save_preset(self.stage.save, best=True)
                self.checkpoints.mark_best(step, results[self.trainer.judged_by[0]])
        return results

    def _roll_back(self, found: str) -> int:
        rollbacks = int(self.trainer.rollbacks.numpy()) + 1
        advice = (
            "lower optimizer.learning_rate, set optimizer.clip_norm, or check the images of "
            "the data"
        )
        if rollbacks > MOST_ROLLBACKS:
            raise UserError(f"{found}, after {MOST_ROLLBACKS} rollbacks; {advice}")
        step = self.checkpoints.restore()
        if step is None:
            raise UserError(f"{found}, before the first checkpoint; {advice}")
        self.trainer.adopt_batch_size()
        self.trainer.rollbacks.assign(rollbacks)
        self.trainer.forget_not_finite()
        self.loop.train_dataset = self._batches()
        if self.workers.is_chief:
            self.run_folder.metrics.resume(step, evaluates=False)
        self._forget_logs_after(step, evaluates=False)
        self.reporter.restart(step)
        self.reporter.say(
            f"{found}: back to step {step}, the data now comes in another order "
            f"(rollback {rollbacks} of {MOST_ROLLBACKS})"
        )
        return step

    def _report(
        self,
        values: dict[str, Any],
        report: Callable[[int, dict[str, float]], None],
        diagnose: Callable[[int, dict[str, float]], Iterable[str]],
    ) -> None:
        step = int(self.trainer.step.numpy())
        values = {k: float(v) for k, v in values.items()}
        report(step, values)
        for line in diagnose(step, values):
            self.reporter.say(line)

    def _report_training(self, values: dict[str, Any]) -> None:
        if self.workers.is_chief:
            self._report(values, self.reporter.train, self.diagnosis.training)
        logs = {name: float(value) for name, value in values.items()}
        self.callbacks.on_train_batch_end(int(self.trainer.step.numpy()) - 1, logs)
        if self.trainer.stop_training:
            self.stop.requested.assign(True)

    def _report_evaluation(self, values: dict[str, Any]) -> None:
        diagnose = functools.partial(self.diagnosis.evaluation, images=self.evaluator.images)
        self._report(values, self.reporter.evaluation, diagnose)
        writer = self.controller.eval_summary_manager.summary_writer()
        with writer.as_default(int(self.trainer.step.numpy())):
            for name, image in self.stage.draw(self.run_folder).items():
                tf.summary.image(name, image[None])
            for name, values in self.trainer.histograms().items():
                tf.summary.histogram(name, values)
        self.run_folder.save_preset(self.stage.save)
