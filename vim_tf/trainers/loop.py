"""The custom training loop: orbit's, around the trainers' one step.

restore the last checkpoint, if there is one
until the last step:
    train `log_every` steps in one graph call      -> report
    every `evaluate_every` steps: evaluate          -> report, pictures, preset
    every `checkpoint_every` steps: save everything
"""

import contextlib
import io

import numpy as np
import orbit
import tensorflow as tf

from vim_tf.trainers.reporter import Reporter


class TrainLoop(orbit.StandardTrainer):
    """orbit's inner loop: `strategy.run` of the trainer's step, `steps` times in one graph."""

    def __init__(self, trainer, strategy, dataset, images_per_epoch):
        super().__init__(strategy.experimental_distribute_dataset(dataset))
        self.trainer = trainer
        self.strategy = strategy
        self.images_per_epoch = images_per_epoch

    def _whole_epoch(self):
        return self.trainer.images_counted >= self.images_per_epoch

    def train_loop_begin(self):
        """Starts new means; usage of the codebook counts at least a whole epoch."""
        self.trainer.reset_logs(self._whole_epoch())

    def train_step(self, iterator):
        """One step on every replica."""
        self.strategy.run(self.trainer.train_step, args=(next(iterator),))

    def train_loop_end(self):
        """Returns the means of the steps since `train_loop_begin`."""
        results = self.trainer.train_results()
        if not self._whole_epoch():
            results = {k: v for k, v in results.items() if k not in self.trainer.epoch_logs}
        return results


class EvaluationLoop(orbit.AbstractEvaluator):
    """Evaluates the averaged weights on a finite dataset, on one replica."""

    def __init__(self, trainer, dataset):
        self.trainer = trainer
        self.dataset = dataset
        self.evaluate_batch = tf.function(
            trainer.evaluate_batch, reduce_retracing=True, autograph=False
        )

    def evaluate(self, num_steps):
        """Returns the trainer's summary of all batches, or of the first `num_steps`."""
        num_steps = int(num_steps)
        dataset = self.dataset if num_steps < 0 else self.dataset.take(num_steps)
        batches = [tf.nest.map_structure(np.asarray, self.evaluate_batch(b)) for b in dataset]
        names = batches[0]
        return self.trainer.summarize({n: np.concatenate([b[n] for b in batches]) for n in names})


def make_checkpoint_manager(trainer, run):
    """Returns the `tf.train.CheckpointManager` of a trainer's whole state in a run's folder."""
    config = trainer.experiment.training
    return tf.train.CheckpointManager(
        tf.train.Checkpoint(**trainer.checkpoint_items()),
        str(run.checkpoint_dir),
        max_to_keep=config.keep_checkpoints,
        step_counter=trainer.step,
        checkpoint_interval=config.checkpoint_every,
    )


def train(stage, run, strategy, on_start=None):
    """Trains a stage up to its last step, resuming from the run's last checkpoint.

    Args:
        stage: a `builders.Stage`.
        run: the `Run`, started.
        strategy: the `tf.distribute` strategy in whose scope the trainer was made.
        on_start: called with the step at which training begins.

    Returns:
        The last evaluation, as a dict of floats.
    """
    trainer = stage.trainer
    config = trainer.experiment.training
    manager = make_checkpoint_manager(trainer, run)
    manager.restore_or_initialize()
    first_step = int(trainer.step.numpy())
    if on_start:
        on_start(first_step)
    reporter = Reporter(run, first_step, config.steps, trainer.experiment.data.batch_size)
    writer = tf.summary.create_file_writer(str(run.tensorboard_dir))

    def report_training(values):
        step = int(trainer.step.numpy())
        reporter.train(step, {k: float(v) for k, v in values.items()})

    def report_evaluation(values):
        step = int(trainer.step.numpy())
        reporter.evaluation(step, {k: float(v) for k, v in values.items()})
        with writer.as_default(step):
            for name, picture in stage.draw(run).items():
                tf.summary.image(name, picture[None])
            for name, values in trainer.histograms().items():
                tf.summary.histogram(name, values)
        run.save_preset(stage.save)

    controller = orbit.Controller(
        global_step=trainer.step,
        trainer=TrainLoop(
            trainer, strategy, stage.train_dataset(first_step), stage.images_per_epoch
        ),
        evaluator=EvaluationLoop(trainer, stage.evaluation_dataset),
        strategy=strategy,
        train_actions=[report_training],
        eval_actions=[report_evaluation],
        steps_per_loop=config.log_every,
        checkpoint_manager=manager,
        summary_dir=str(run.tensorboard_dir),
    )
    # The controller prints its log lines; the reporter, on standard error, says the same.
    with contextlib.redirect_stdout(io.StringIO()):
        # Not controller.train_and_evaluate: it counts its intervals from the step it resumes at.
        step, every = first_step, config.evaluate_every
        while step < config.steps:
            step = min((step // every + 1) * every, config.steps)
            controller.train(step, checkpoint_at_completion=step == config.steps)
            results = controller.evaluate(config.evaluate_batches or -1)
        if first_step == config.steps:
            results = controller.evaluate(config.evaluate_batches or -1)
    reporter.close()
    return {name: float(value) for name, value in results.items()}
