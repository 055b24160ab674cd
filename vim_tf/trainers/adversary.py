"""The adversarial term of the tokenizer: the discriminator, its half of a step, and its pull.

The pull of the term is bounded, because a discriminator that tells real from fake at once has a
gradient that is 10 to 28 times that of the squared error, and takes the reconstruction apart.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vim_tf import losses
from vim_tf.annotations import Tensor
from vim_tf.config.experiments import PixelExperiment
from vim_tf.distribution.replicas import assign_everywhere
from vim_tf.models.discriminator import Discriminator
from vim_tf.trainers.diff_augment import augment
from vim_tf.trainers.gradients import gradients_or_zeros
from vim_tf.trainers.optimizers import make_optimizer
from vim_tf.trainers.schedules import ramp, start_step

LOGS = ("adversarial", "discriminator", "real_logit", "fake_logit", "r1")
GAMMA_AT_256 = 10.0  # StyleGAN2's
MEMORY = 0.9  # share of the running means that a step keeps
WORSE = 1.0  # dB below the best evaluation, from which the weight is halved
WAITS = 2**62  # the start of a discriminator that waits for a plateau: no run has so many steps
_SALTS = (2**30, 2**30 + 1, 2**30 + 2)  # of the draws for real and fake images, and for R1


class Adversary:
    """A discriminator in training, and the weight of the term that it adds to the tokenizer's loss.

    The weight is `losses.adversarial`, times the ramp, times 0.5 for each halving; but at most so
    large that the term's gradient at the decoder's output is `losses.adversarial_limit` times that
    of the other terms. Both are running means of squared norms over the steps before.

    Create it inside `strategy.scope()`.

    Attributes:
        network: the `Discriminator`.
        start: step from which it takes part, an int64 tf.Variable.
        gamma: weight of R1.
        halvings: how often its weight was halved, an int64 tf.Variable.
        mean_squares: running means of the squared gradients [others, adversarial], float32.
    """

    def __init__(self, experiment: PixelExperiment) -> None:
        config, steps = experiment.discriminator, experiment.training.steps
        self.config, self.losses, self.steps = config, experiment.losses, steps
        self.network = Discriminator(config, experiment.data.image_size)
        self.network.build()  # its optimizer is built before the first call
        self.discriminator_loss, self.generator_loss = losses.ADVERSARIAL_LOSSES[config.loss]
        self.first_start = start_step(config.start, steps)
        # The same function of smaller images has larger gradients by their pixels.
        by_size = GAMMA_AT_256 * max(experiment.data.image_size) / 256
        self.gamma = by_size if config.r1_gamma is None else config.r1_gamma
        start = WAITS if config.plateau > 0 else self.first_start
        self.start = tf.Variable(start, trainable=False, dtype=tf.int64)
        self.halvings = tf.Variable(0, trainable=False, dtype=tf.int64)
        self.mean_squares = tf.Variable([0.0, 0.0], trainable=False)
        # PSNR of the evaluation before the last one, of the last one and its step; the best PSNR.
        self._evaluated = tf.Variable(
            [-np.inf, -np.inf, -1.0, -np.inf], trainable=False, dtype=tf.float64
        )

    def compile(
        self, experiment: PixelExperiment, optimizer: keras.optimizers.Optimizer | None
    ) -> None:
        """Builds an optimizer, the experiment's unless one is given."""
        self.optimizer = optimizer or make_optimizer(
            experiment.discriminator_optimizer, self.steps, self.start
        )
        self.optimizer.build(self.network.trainable_variables)

    def start_new(self, step: int) -> bool:
        """Lets a new discriminator start in a run that has done so many steps.

        Its optimizer counts the run's steps, as its schedule and its start do. It takes part from
        `start`, but not before this step.

        Returns:
            Whether it was new and its start is known.
        """
        iterations = self.optimizer.iterations
        if int(iterations.numpy()) >= step:
            return False
        iterations.assign(step)
        start = int(self.start.numpy())
        if start != WAITS:
            self.start.assign(max(start, step))
        return start != WAITS

    def checkpoint_items(self) -> dict[str, Any]:
        """Returns the trackables of its state, by name."""
        return {
            "discriminator": self.network,
            "discriminator_optimizer": self.optimizer,
            "adversarial_start": self.start,
            "adversarial_halvings": self.halvings,
            "adversarial_squares": self.mean_squares,
            "evaluated": self._evaluated,
        }

    # A step ---------------------------------------------------------------------------------------

    def takes_part(self, step: Tensor) -> Tensor:
        """Returns whether the discriminator is in use at a step, a bool scalar."""
        return step >= self.start

    def takes_r1(self, step: Tensor) -> Tensor:
        """Returns whether R1 is computed at a step, a bool scalar."""
        return self.takes_part(step) & tf.equal(step % self.config.r1_every, 0)

    def weight(self, step: Tensor) -> Tensor:
        """Returns the weight of the term at a step, a float32 scalar."""
        halved = 0.5 ** tf.cast(self.halvings, tf.float32)
        wanted = self.losses.adversarial * ramp(step, self.start, self.config.ramp_steps) * halved
        others, own = tf.unstack(tf.sqrt(tf.convert_to_tensor(self.mean_squares)))
        # 0 at the first step, where nothing is known of its gradient.
        return tf.minimum(
            wanted, self.losses.adversarial_limit * tf.math.divide_no_nan(others, own)
        )

    def note_squares(self, others: Tensor, own: Tensor) -> None:
        """Adds the squared gradients of a step, means over all replicas, to the running means."""
        mean = tf.convert_to_tensor(self.mean_squares)
        moved = MEMORY * mean + (1 - MEMORY) * tf.stack([others, own])
        assign_everywhere([self.mean_squares], [tf.where(own > 0, moved, mean)])

    def judge(
        self, real: Tensor, fake: Tensor, step: Tensor
    ) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """The discriminator's half of a step; zeros before the step at which it takes part.

        Args:
            real: images [B,H,W,3] in [-1,1].
            fake: their reconstructions.
            step: integer scalar.

        Returns:
            (direction, gradients, logs): the unweighted term's gradient by `fake` [B,H,W,3], the
            discriminator's gradients, and `LOGS`.
        """
        variables = self.network.trainable_variables

        def compare() -> tuple[Tensor, list[Tensor], list[Tensor]]:
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(fake)
                fake_logits = self.network(self._augment(fake, _SALTS[0]))
                real_logits = self.network(self._augment(real, _SALTS[1]))
                adversarial = self.generator_loss(fake_logits)
                loss = self.discriminator_loss(real_logits, fake_logits)
            direction = tape.gradient(adversarial, fake)
            gradients = gradients_or_zeros(tape, loss, variables)
            penalty, more = tf.cond(self.takes_r1(step), lambda: self._r1(real), absent_r1)
            gradients = [a + b for a, b in zip(gradients, more, strict=True)]
            parts = (adversarial, loss, real_logits, fake_logits, penalty)
            return direction, gradients, [tf.reduce_mean(part) for part in parts]

        def absent_r1() -> tuple[Tensor, list[Tensor]]:
            return tf.zeros([]), [tf.zeros(v.shape) for v in variables]

        def absent() -> tuple[Tensor, list[Tensor], list[Tensor]]:
            logs = [tf.zeros([]) for _ in LOGS]
            return tf.zeros_like(fake), [tf.zeros(v.shape) for v in variables], logs

        direction, gradients, logs = tf.cond(self.takes_part(step), compare, absent)
        return direction, gradients, dict(zip(LOGS, logs, strict=True))

    def _augment(self, images: Tensor, salt: int) -> Tensor:
        config = self.config
        if not (config.augment or config.augment_colour):
            return images
        return augment(images, salt, config.augment, config.augment_colour)

    def _r1(self, real: Tensor) -> tuple[Tensor, list[Tensor]]:
        """R1's penalty (arXiv 1801.04406), and its gradients times `gamma / 2 * r1_every`.

        The gradient is taken by the pixels before the augmentation, and passes through it.
        """
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(real)
                logits = tf.reduce_sum(self.network(self._augment(real, _SALTS[2])))
            penalty = losses.r1_penalty(inner.gradient(logits, real))
            scaled = self.gamma / 2 * self.config.r1_every * penalty
        return penalty, gradients_or_zeros(outer, scaled, self.network.trainable_variables)

    # Between steps --------------------------------------------------------------------------------

    def after_evaluation(self, step: int, psnr: float) -> tuple[int, int]:
        """Notes an evaluation; returns what `start` and `halvings` must become.

        With `discriminator.plateau` the start is the step of the first evaluation, from
        `discriminator.start` on, with a smaller gain of PSNR over the previous evaluation. Until
        then it is `WAITS`. The weight is halved if the term takes part, PSNR is
        more than `WORSE` below that of the best evaluation, and is not rising.
        """
        start, halvings = int(self.start.numpy()), int(self.halvings.numpy())
        before, last, last_step, best = self._evaluated.numpy()
        if step != last_step:  # a resumed run evaluates its first step again
            before, last, best = last, psnr, max(best, psnr)
            self._evaluated.assign([before, last, step, best])
            halvings += step > start and psnr < best - WORSE and psnr <= before
        if start == WAITS and step >= self.first_start and last - before < self.config.plateau:
            start = step
        return start, halvings
