"""What the trainers of both stages share: one train step for Keras' fit and for the orbit loop."""

import keras
import tensorflow as tf

from vim_tf.distribution.replicas import assign_everywhere
from vim_tf.models.precision import computing_in
from vim_tf.models.seeded_dropout import row_keys, step_keys
from vim_tf.trainers.ema import ExponentialMovingAverage
from vim_tf.trainers.gradients import accumulate, apply_gradients
from vim_tf.trainers.optimizers import make_optimizer


class Trainer(keras.Model):
    """A model, the moving average of its weights, and the definition of one training step.

    A step has two halves: `compute_gradients(batch)`, pure and compilable, whose inside subclasses
    define, and `apply_gradients(gradients)`, which reduces over the replicas, clips and applies.

    Attributes:
        experiment: the configuration.
        model: the model that is trained, in `training.precision`.
        ema_model: the same model with averaged weights, for evaluation and sampling, in float32.
        epoch_logs: names of logs that mean something only over a whole epoch.
        images_counted: number of images that are in these logs.
        judged_by: (name of an evaluation's number, 1 where more is better or -1): the best one.
        rollbacks: times that the run went back to a checkpoint, an int64 tf.Variable.
        adversarial_start: step at which a discriminator takes part, an int64 tf.Variable; None for
            none.
        bad_step: first step with a log that was not finite, an int64 tf.Variable; -1 for none.
    """

    epoch_logs = ()
    images_counted = 0
    judged_by = ()
    adversarial_start = None

    def __init__(self, experiment, make_model, log_names, test_names):
        super().__init__()
        self.experiment = experiment
        with computing_in(experiment.training.precision):
            self.model = model = make_model()
        with computing_in("float32"):
            self.ema_model = ema_model = make_model()
        ema_model.trainable = False
        self.ema = ExponentialMovingAverage(
            model.trainable_variables, ema_model.weights, experiment.training.ema_decay
        )
        self.log_metrics = {name: keras.metrics.Mean(name) for name in log_names}
        # Not the names of logs: fit would report these, which are still 0, instead of those.
        self.test_metrics = {name: keras.metrics.Mean(f"evaluation_{name}") for name in test_names}
        for transformer in getattr(model, "transformers", ()):
            transformer.save_memory(
                experiment.training.rematerialize, experiment.training.query_block
            )
        self._gradients = self.compute_gradients
        if experiment.training.jit_compile:
            self._gradients = tf.function(self.compute_gradients, jit_compile=True, autograph=False)
        # What the graph found that is not finite; see `_look_for_not_finite`.
        self._watched = (*log_names,)
        self.bad_step = tf.Variable(-1, trainable=False, dtype=tf.int64)
        self._bad = tf.Variable([False] * len(self._watched), trainable=False)
        self.rollbacks = tf.Variable(0, trainable=False, dtype=tf.int64)
        self.built = True

    @property
    def metrics(self):
        """Everything that Keras resets between epochs."""
        return [*self.log_metrics.values(), *self.test_metrics.values()]

    @property
    def step(self):
        """Number of steps done, an int64 tf.Variable."""
        return self.optimizer.iterations.value

    def compile(self, optimizer=None, **kwargs):
        """Like Keras' compile; the optimizer is the experiment's unless one is given.

        Call it inside `strategy.scope()`: the slots are created here, because Keras would create
        them lazily for each replica, and a step with two optimizers crashes on that.
        """
        steps = self.experiment.training.steps
        optimizer = optimizer or make_optimizer(self.experiment.optimizer, steps)
        super().compile(optimizer=optimizer, jit_compile=False, **kwargs)
        optimizer.build(self.model.trainable_variables)

    def compute_gradients(self, batch):
        """Gradients for one replica's batch; changes nothing.

        What it draws for a row is a function of (seed, step, row of the global batch).

        Args:
            batch: dict of tensors [B,...].

        Returns:
            (gradients, logs, what `after_step` needs).
        """
        keys = self._row_keys(tf.shape(tf.nest.flatten(batch)[0])[0])
        parts = self.experiment.training.gradient_accumulation_steps
        if parts == 1:
            return self._compute_part(batch, keys)
        return accumulate(self._compute_part, (batch, keys), parts)

    def _row_keys(self, rows):
        """The keys of this replica's rows, [rows] uint32."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        row = rows * replica + tf.range(rows)
        return step_keys(self.experiment.seed, self.step, row)

    def _compute_part(self, batch, keys):
        with row_keys(keys):
            return self.gradients_of(batch)

    def gradients_of(self, batch):
        """`compute_gradients`, where the keys of the rows are given; subclasses define it.

        Returns:
            (gradients, logs, extras): nested tensors; scalars by name, means over the rows; nested
            tensors [B,...], () for none.
        """
        raise NotImplementedError

    def apply_gradients(self, gradients):
        """Applies what `compute_gradients` returned; returns their norm, as logs."""
        norm = apply_gradients(
            self.optimizer,
            gradients,
            self.model.trainable_variables,
            self.experiment.optimizer.clip_norm,
        )
        return {"gradient_norm": norm}

    def after_step(self, step, extras):
        """Called in each replica after the weights moved; a place for codebook remedies."""

    def reset_logs(self, whole_epoch):
        """Starts new means; what counts over epochs goes on unless one is over."""
        for metric in self.log_metrics.values():
            metric.reset_state()

    def summarize(self, results):
        """Turns `evaluate_batch`'s results of all images, [M] or [M,N], into named numbers."""
        raise NotImplementedError

    def after_evaluation(self, step, results):
        """Notes an evaluation; returns the step at which a discriminator takes part, 0 for none."""
        return 0

    def histograms(self):
        """Returns what TensorBoard shows as histograms, by name."""
        return {}

    def evaluate_batch(self, batch):
        """Returns one number or row of tokens an image, from the averaged weights, in a dict."""
        raise NotImplementedError

    @tf.autograph.experimental.do_not_convert  # conversion takes longer than tracing
    def train_step(self, batch):
        """One step; returns the running means of the logs."""
        step = tf.identity(self.step)
        gradients, logs, extras = self._gradients(batch)
        logs |= self.apply_gradients(gradients)
        self.ema.update(step)
        self.after_step(step, extras)
        self._look_for_not_finite(step, logs)
        for name, value in logs.items():
            self.log_metrics[name].update_state(value)
        return self.train_results()

    def _look_for_not_finite(self, step, logs):
        """Notes the first step at which a log was NaN or infinite on any replica, and which ones.

        In the graph, because a loop of many steps shows only means.
        """
        values = tf.stack([tf.cast(logs.get(name, 0.0), tf.float32) for name in self._watched])
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync > 1:
            values = context.all_reduce(tf.distribute.ReduceOp.SUM, values)
        bad = ~tf.math.is_finite(values)
        first = (self.bad_step < 0) & tf.reduce_any(bad)
        assign_everywhere(
            [self.bad_step, self._bad],
            [tf.where(first, step, self.bad_step), tf.where(first, bad, self._bad)],
        )

    def not_finite(self):
        """Returns what was not finite first, in words; None if everything was."""
        step = int(self.bad_step.numpy())
        if step < 0:
            return None
        names = [name for name, bad in zip(self._watched, self._bad.numpy(), strict=True) if bad]
        return f"{', '.join(names)} not finite at step {step}"

    def forget_not_finite(self):
        """Starts to look again, after a rollback."""
        self.bad_step.assign(-1)

    def train_results(self):
        """Returns the running means of the logs since the last reset."""
        return {name: metric.result() for name, metric in self.log_metrics.items()}

    def test_step(self, batch):
        """Updates the test metrics with one batch; returns their running means."""
        results = self.evaluate_batch(batch)
        for name, metric in self.test_metrics.items():
            metric.update_state(results[name])
        return {name: metric.result() for name, metric in self.test_metrics.items()}

    def checkpoint_items(self):
        """Returns the trackables that make up the state of a run, by name."""
        return {
            "model": self.model,
            "ema_model": self.ema_model,
            "optimizer": self.optimizer,
            "rollbacks": self.rollbacks,
            # tf.train.Checkpoint leaves the state of Keras' random layers out.
            "seeds": [v.value for v in self.model.variables if "seed" in v.path],
        }
