"""The base of all trainers: one training step for Keras' fit and for the orbit loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf
from keras import tree

from vim_tf.annotations import StrPath, Tensor
from vim_tf.config.experiments import TrainingExperiment
from vim_tf.distribution.replicas import assign_everywhere
from vim_tf.distribution.strategies import has_accelerator
from vim_tf.errors import UserError
from vim_tf.models.precision import computing_in
from vim_tf.models.seeded_dropout import row_keys, step_keys
from vim_tf.trainers.ema import ExponentialMovingAverage
from vim_tf.trainers.gradients import accumulate, apply_gradients
from vim_tf.trainers.optimizers import make_optimizer
from vim_tf.trainers.schedules import learning_rate_schedule

if TYPE_CHECKING:
    import numpy as np

NO_XLA = (
    "training.jit_compile: XLA makes convolutions slow on a CPU, so the steps of this run are not "
    "compiled with XLA"
)
# What a user does instead of saving a trainer as a whole.
_SAVE = (
    "save its weights, ModelCheckpoint('x.weights.h5', save_weights_only=True) or "
    "save_weights('x.weights.h5'), or the trained model, ema_model.save_to_preset('folder')"
)


class Trainer(keras.Model):
    """A model, the moving average of its weights, and the definition of one training step.

    A step has two halves. `compute_gradients(batch)` is pure and compilable, and calls
    `gradients_of`, which subclasses define. `apply_gradients(gradients)` reduces over the replicas,
    clips and applies.

    Attributes:
        experiment: the configuration.
        model: the model that is trained, in `training.precision`.
        ema_model: the same model with averaged weights, for evaluation and sampling, in float32.
        epoch_logs: names of logs that mean something only over a whole epoch.
        images_counted: number of images in these logs.
        judged_by: (the number by which evaluations are compared, 1 if more is better, else -1);
            every subclass sets it.
        convolves: whether a step is mostly convolutions, which XLA makes slow on a CPU.
        rare_every: steps from one step with R1 to the next; 1 if all steps cost the same.
        remarks: lines for the user about what was changed or left out.
        rollbacks: how often the run went back to a checkpoint, an int64 tf.Variable.
        origin: int64 tf.Variable [3]: (step, position, batch size). Batches of this size are read
            from that step on; the first of them starts at this position of the endless sequence
            of epochs. It changes when a run goes on with another batch size.
        bad_step: first step with a log that was not finite, an int64 tf.Variable; -1 without one.
    """

    epoch_logs: tuple[str, ...] = ()
    images_counted: int = 0
    judged_by: tuple[str, int]
    convolves: bool = False
    rare_every: int = 1

    def __init__(
        self,
        experiment: TrainingExperiment,
        make_model: Callable[[], keras.Model],
        log_names: Sequence[str],
        test_names: Sequence[str],
    ) -> None:
        super().__init__()
        self.experiment = experiment
        with computing_in(experiment.training.precision):
            self.model = model = make_model()
        with computing_in("float32"):
            self.ema_model = ema_model = make_model()
        ema_model.trainable = False
        pairs = zip(model.weights, ema_model.weights, strict=True)
        sources, targets = zip(*(pair for pair in pairs if pair[0].trainable), strict=True)
        self.ema = ExponentialMovingAverage(sources, targets, experiment.training.ema_decay)
        self.log_metrics = {name: keras.metrics.Mean(name) for name in log_names}
        # Other names than the logs': fit would report these, still 0, instead of the logs.
        self.test_metrics = {name: keras.metrics.Mean(f"evaluation_{name}") for name in test_names}
        for transformer in getattr(model, "transformers", ()):
            transformer.save_memory(
                experiment.training.rematerialize, experiment.training.query_block
            )
        self.remarks: list[str] = []
        self._gradients = self.compute_gradients
        if experiment.training.jit_compile and self.convolves and not has_accelerator():
            self.remarks.append(NO_XLA)
        elif experiment.training.jit_compile:
            self._gradients = tf.function(self.compute_gradients, jit_compile=True, autograph=False)
        # The graph notes here which logs are not finite; see `_look_for_not_finite`.
        self._watched = (*log_names,)
        self.bad_step = tf.Variable(-1, trainable=False, dtype=tf.int64)
        self._bad = tf.Variable([False] * len(self._watched), trainable=False)
        self.rollbacks = tf.Variable(0, trainable=False, dtype=tf.int64)
        size = experiment.data.batch_size
        self.origin = tf.Variable([0, 0, size], trainable=False, dtype=tf.int64)
        self.built = True

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Everything that Keras resets between epochs."""
        return [*self.log_metrics.values(), *self.test_metrics.values()]

    @property
    def step(self) -> tf.Variable:
        """Number of steps done, an int64 tf.Variable."""
        return self.optimizer.iterations.value

    def compile(self, optimizer: keras.optimizers.Optimizer | None = None, **kwargs: Any) -> None:
        """Like Keras' compile; the optimizer is the experiment's unless one is given.

        Call it inside `strategy.scope()`, because it creates the slots. Keras would create them
        lazily for each replica, and a step with two optimizers crashes on that.
        """
        steps = self.experiment.training.steps
        chosen = optimizer or make_optimizer(self.experiment.optimizer, steps)
        super().compile(optimizer=chosen, jit_compile=False, **kwargs)
        chosen.build(self.model.trainable_variables)

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Keras' fit; UserError at once for a callback that would save the trainer as a whole."""
        given = inspect.signature(keras.Model.fit).bind(self, *args, **kwargs).arguments
        callbacks = given.get("callbacks")
        for callback in tree.flatten(getattr(callbacks, "callbacks", callbacks)):
            whole = isinstance(callback, keras.callbacks.ModelCheckpoint)
            if whole and not callback.save_weights_only:
                raise UserError(
                    f"callbacks has ModelCheckpoint of {callback.filepath}, which would save a "
                    f"whole trainer; {_SAVE}"
                )
        return super().fit(*args, **kwargs)

    def save(self, filepath: StrPath, *args: Any, **kwargs: Any) -> None:
        """Refused: a trainer holds data and losses, which a file of Keras cannot."""
        raise UserError(f"{filepath}: a trainer cannot be saved as a whole; {_SAVE}")

    def compute_gradients(self, batch: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor], Any]:
        """Gradients for one replica's batch; changes nothing.

        The random numbers of a row are a function of (seed, step, row of the global batch).

        Args:
            batch: tensors [B,...] by name.

        Returns:
            (gradients, logs, the extras that `after_step` needs).
        """
        keys = self._row_keys(tf.shape(tf.nest.flatten(batch)[0])[0])
        parts = self.experiment.training.gradient_accumulation_steps
        if parts == 1:
            return self._compute_part(batch, keys)
        return accumulate(self._compute_part, (batch, keys), parts)

    def _row_keys(self, rows: Tensor) -> Tensor:
        """The keys of this replica's rows, [rows] uint32."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        row = rows * replica + tf.range(rows)
        return step_keys(self.experiment.seed, self.step, row)

    def _compute_part(
        self, batch: dict[str, Tensor], keys: Tensor
    ) -> tuple[Any, dict[str, Tensor], Any]:
        with row_keys(keys):
            return self.gradients_of(batch)

    def gradients_of(self, batch: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor], Any]:
        """`compute_gradients` with the keys of the rows already set; subclasses define it.

        Returns:
            (gradients, logs, extras): nested tensors; scalars by name, means over the rows; nested
            tensors [B,...], () for none.
        """
        raise NotImplementedError

    def apply_gradients(self, gradients: Any) -> dict[str, Tensor]:
        """Applies the gradients of `compute_gradients`; returns their norm, as logs."""
        norm = apply_gradients(
            self.optimizer,
            gradients,
            self.model.trainable_variables,
            self.experiment.optimizer.clip_norm,
        )
        return {"gradient_norm": norm}

    def after_step(self, step: Tensor, extras: Any) -> None:
        """Called in each replica after the update; a subclass may change the codebook here."""

    def reset_logs(self, whole_epoch: bool) -> None:
        """Starts new means; `epoch_logs` continue unless `whole_epoch`."""
        for metric in self.log_metrics.values():
            metric.reset_state()

    def summarize(self, results: dict[str, np.ndarray]) -> dict[str, float]:
        """Turns `evaluate_batch`'s results of all images, [M] or [M,N], into named numbers."""
        raise NotImplementedError

    def is_better(self, results: dict[str, float], best: float | None) -> bool:
        """Returns whether an evaluation is to be kept as the best one.

        Args:
            results: the numbers of `summarize`.
            best: the number of the best evaluation so far that `judged_by` names; None without one.
        """
        name, sign = self.judged_by
        return best is None or sign * results[name] > sign * best

    @property
    def decisions(self) -> dict[str, tf.Variable]:
        """The int64 variables that `after_evaluation` decides about, by name."""
        return {}

    def after_evaluation(self, step: int, results: dict[str, float]) -> dict[str, int]:
        """Notes an evaluation; returns the number for each of the `decisions`."""
        return {}

    def describe_decision(self, name: str, number: int) -> str:
        """Returns a line about a decision that changed to `number`."""
        raise NotImplementedError

    def is_counted(self, name: str, step: Tensor) -> Tensor | None:
        """Returns whether a log of a step is part of its mean, a bool scalar; None: always."""
        return None

    def histograms(self) -> dict[str, np.ndarray]:
        """Returns the values that TensorBoard shows as histograms, by name."""
        return {}

    def evaluate_batch(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the averaged weights' numbers [B] or tokens [B,N] for the images, by name."""
        raise NotImplementedError

    @tf.autograph.experimental.do_not_convert  # conversion takes longer than tracing
    def train_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Does one step; returns the running means of the logs."""
        step = tf.identity(self.step)
        gradients, logs, extras = self._gradients(batch)
        logs |= self.apply_gradients(gradients)
        self.ema.update(step)
        self.after_step(step, extras)
        self._look_for_not_finite(step, logs)
        for name, value in logs.items():
            counted = self.is_counted(name, step)
            weight = None if counted is None else tf.cast(counted, tf.float32)
            self.log_metrics[name].update_state(value, weight)
        return self.train_results()

    def _look_for_not_finite(self, step: Tensor, logs: dict[str, Tensor]) -> None:
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

    def not_finite(self) -> str | None:
        """Returns a text: the first logs that were not finite; None if all were finite."""
        step = int(self.bad_step.numpy())
        if step < 0:
            return None
        names = [name for name, bad in zip(self._watched, self._bad.numpy(), strict=True) if bad]
        return f"{', '.join(names)} not finite at step {step}"

    def forget_not_finite(self) -> None:
        """Forgets the logs that were not finite; called after a rollback."""
        self.bad_step.assign(-1)

    def images_seen(self) -> int:
        """Returns the position of the next batch in the endless sequence of epochs."""
        step, position, size = (int(number) for number in self.origin.numpy())
        return position + (int(self.step.numpy()) - step) * size

    def adopt_batch_size(self) -> str | None:
        """Lets the data go on with the batch size of the config; called after each restore.

        Returns:
            A line for the user if the checkpoint is of another batch size; otherwise None.
        """
        size, before = self.experiment.data.batch_size, int(self.origin.numpy()[2])
        if size == before:
            return None
        position = self.images_seen()
        self.origin.assign([int(self.step.numpy()), position, size])
        return (
            f"data.batch_size was {before} and is {size}: the data goes on after its first "
            f"{position:,} images"
        )

    def adopt_steps(self, before: int) -> list[str]:
        """Notes that a run goes on with another number of steps; returns lines for the user.

        The schedules have the new length from now on, as if the run had it from its start.

        Args:
            before: `training.steps` until now.
        """
        now, lines = self.experiment.training.steps, []
        for name, start in self.optimizer_starts().items():
            config, step = getattr(self.experiment, name), int(self.step.numpy())
            rates = [
                float(learning_rate_schedule(config, steps, start)(step)) for steps in (before, now)
            ]
            lines.append(
                f"learning rate of {name} at step {step}: {rates[0]:.3g} -> {rates[1]:.3g}"
            )
        return lines

    def start_new_parts(self, step: int) -> list[str]:
        """Lets parts that a run gets when it goes on in a new folder start at its step.

        Args:
            step: the steps that are done.

        Returns:
            Lines for the user.
        """
        return []

    def optimizer_starts(self) -> dict[str, int | tf.Variable]:
        """Returns {config section of each optimizer: the step at which its weights start}."""
        return {"optimizer": 0}

    def train_results(self) -> dict[str, Tensor]:
        """Returns the running means of the logs since the last reset."""
        return {name: metric.result() for name, metric in self.log_metrics.items()}

    def learning_rates(self) -> dict[str, Tensor]:
        """Returns the learning rate of each optimizer, by name, for the step that comes next."""
        return {"learning_rate": self.optimizer.learning_rate}

    def test_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Updates the test metrics with one batch; returns their running means."""
        results = self.evaluate_batch(batch)
        for name, metric in self.test_metrics.items():
            metric.update_state(results[name])
        return {name: metric.result() for name, metric in self.test_metrics.items()}

    def checkpoint_items(self) -> dict[str, Any]:
        """Returns the trackables that make up the state of a run, by name."""
        return {
            "model": self.model,
            "ema_model": self.ema_model,
            "optimizer": self.optimizer,
            "rollbacks": self.rollbacks,
            "origin": self.origin,
            # tf.train.Checkpoint leaves the state of Keras' random layers out.
            "seeds": [v.value for v in self.model.variables if "seed" in v.path],
        }
