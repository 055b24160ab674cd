"""One training step of the tokenizer (section 3.3 of https://arxiv.org/abs/2110.04627)."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vim_tf import losses
from vim_tf.annotations import Tensor
from vim_tf.config.experiments import ViTVQGANExperiment
from vim_tf.metrics.codebook import codebook_usage
from vim_tf.models.discriminator import Discriminator
from vim_tf.models.perceptual import PerceptualFeatures
from vim_tf.models.quantizer import QuantizerOutput
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.trainers.codebook_health import CodebookRevival, CodebookUsage, mean_angle
from vim_tf.trainers.gradients import (
    apply_gradients,
    gradients_or_zeros,
    mean_over_replicas,
)
from vim_tf.trainers.optimizers import make_optimizer
from vim_tf.trainers.schedules import ramp, start_step
from vim_tf.trainers.trainer import Trainer

DISCRIMINATOR_LOGS = ("adversarial", "discriminator", "real_logit", "fake_logit", "r1")


class ViTVQGANTrainer(Trainer):
    """Trains tokenizer and discriminator together, from one forward pass of each.

    The discriminator's half computes the gradient of the adversarial term by the reconstruction.
    This gradient then passes through the tokenizer together with those of all other terms.

    Args:
        experiment: the configuration.
    """

    experiment: ViTVQGANExperiment
    model: ViTVQGAN
    ema_model: ViTVQGAN
    discriminator: Discriminator | None  # None without an adversarial term
    perceptual: PerceptualFeatures | None  # None without a perceptual term
    revival: CodebookRevival | None  # None without revivals
    judged_by = ("psnr", 1)
    epoch_logs = ("usage", "perplexity", "dead_codes")

    def __init__(self, experiment: ViTVQGANExperiment) -> None:
        weights = experiment.losses
        self.loss_weights = {
            name: getattr(weights, name)
            for name in ("codebook", "commitment", "l2", "logit_laplace", "perceptual", "entropy")
            if getattr(weights, name)
        }
        self.adversarial = weights.adversarial > 0
        names = ["total", *self.loss_weights, "psnr", "gradient_norm", "code_angle"]
        if self.adversarial:
            names += [*DISCRIMINATOR_LOGS, "adversarial_weight", "discriminator_gradient_norm"]
        make_model = lambda: ViTVQGAN(experiment.model, experiment.data.image_size)  # noqa: E731
        super().__init__(experiment, make_model, names, ("psnr", "l1", "l2"))
        self.usage = CodebookUsage(experiment.model.quantizer.codes)
        quantizer = self.model.quantizer
        self.first_codes = tf.math.l2_normalize(quantizer.initial_codebook(), -1)
        self.discriminator = self.perceptual = self.revival = None
        if self.adversarial:
            discriminator = Discriminator(experiment.discriminator, experiment.data.image_size)
            self.discriminator = discriminator
            discriminator.build()  # its optimizer is built before the first call
            self.discriminator_loss, self.generator_loss = losses.ADVERSARIAL_LOSSES[
                experiment.discriminator.loss
            ]
            steps = experiment.training.steps
            self.first_start = start_step(experiment.discriminator.start, steps)
            waits = experiment.discriminator.plateau > 0
            self.adversarial_start = tf.Variable(
                steps if waits else self.first_start, trainable=False, dtype=tf.int64
            )
            # PSNR of the evaluation before the last one, of the last one, and its step.
            self._evaluated = tf.Variable(
                [-np.inf, -np.inf, -1.0], trainable=False, dtype=tf.float64
            )
        if "perceptual" in self.loss_weights:
            self.perceptual = PerceptualFeatures(weights.perceptual_weights)

    @property
    def images_counted(self) -> int:
        """Images with counted tokens since the last reset; a resumed run continues the count."""
        tokens = np.sum(np.asarray(self.usage.counts), dtype="float64")
        return round(tokens / self.model.tokens_per_image)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Everything that Keras resets between epochs."""
        return [*super().metrics, self.usage]

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | None = None,
        discriminator_optimizer: keras.optimizers.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Like Keras' compile, with one optimizer for each network.

        An optimizer that is not given is the experiment's. Call it inside `strategy.scope()`.
        """
        super().compile(optimizer, **kwargs)
        config = self.experiment
        if self.discriminator is not None:
            self.discriminator_optimizer = discriminator_optimizer or make_optimizer(
                config.discriminator_optimizer, config.training.steps, self.adversarial_start
            )
            self.discriminator_optimizer.build(self.discriminator.trainable_variables)
        if config.model.quantizer.revive_every:
            self.revival = CodebookRevival(
                self.model.quantizer,
                self.ema_model.quantizer.codebook,
                self.optimizer,
                config.seed,
            )

    def _loss_terms(
        self,
        images: Tensor,
        output: QuantizerOutput,
        reconstruction: Tensor,
        mean: Tensor,
        log_scale: Tensor,
    ) -> dict[str, Tensor]:
        """The unweighted loss terms that have a weight, by name."""
        terms = {}
        for name in self.loss_weights:
            if name == "codebook":
                terms[name] = losses.codebook_loss(output.latents, output.codes)
            elif name == "commitment":
                terms[name] = losses.commitment_loss(output.latents, output.codes)
            elif name == "l2":
                terms[name] = losses.l2_loss(reconstruction, images)
            elif name == "logit_laplace":
                terms[name] = losses.logit_laplace_loss(mean, log_scale, images)
            elif name == "perceptual":
                assert self.perceptual is not None
                terms[name] = losses.perceptual_loss(
                    self.perceptual(reconstruction), self.perceptual(images)
                )
            elif name == "entropy":
                affinity = self.model.quantizer.affinity(output.latents)
                terms[name] = losses.entropy_loss(
                    tf.reshape(affinity, [-1, affinity.shape[-1]]),  # [B*N,K]
                    self.experiment.losses.entropy_temperature,
                    mean_over_replicas,
                )
        return terms

    def gradients_of(
        self, batch: dict[str, Tensor]
    ) -> tuple[tuple[list[Tensor], list[Tensor]], dict[str, Tensor], QuantizerOutput]:
        """Gradients of both networks for one replica's batch; changes nothing.

        Args:
            batch: dict with "image" [B,H,W,3] float32 in [-1,1].

        Returns:
            ((tokenizer gradients, discriminator gradients), logs, `QuantizerOutput`); the second
            gradients are an empty list without an adversarial term.
        """
        images = batch["image"]
        with tf.GradientTape() as tape:
            output = self.model.encode(images, training=True)
            codes = self.model.quantizer.pass_codes(output)
            reconstruction, mean, log_scale = self.model.decode_distribution(codes, training=True)
            logs = self._loss_terms(images, output, reconstruction, mean, log_scale)
            total = tf.add_n([self.loss_weights[name] * term for name, term in logs.items()])
            loss, discriminator_gradients = total, []
            if self.adversarial:
                with tape.stop_recording():  # the tape must not differentiate the gradients inside
                    direction, discriminator_gradients, discriminator_logs = self._judge(
                        images, reconstruction
                    )
                config = self.experiment.discriminator
                weight = self.experiment.losses.adversarial * ramp(
                    self.step, self.adversarial_start, config.ramp_steps
                )
                loss = total + weight * tf.reduce_sum(direction * reconstruction)
                total += weight * discriminator_logs["adversarial"]
                logs |= {**discriminator_logs, "adversarial_weight": weight}
        gradients = gradients_or_zeros(tape, loss, self.model.trainable_variables)
        clipped = tf.clip_by_value(reconstruction, -1.0, 1.0)
        logs |= {"total": total, "psnr": tf.reduce_mean(losses.psnr(clipped, images))}
        return (gradients, discriminator_gradients), logs, output

    def _judge(self, real: Tensor, fake: Tensor) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """The discriminator's half of a step; zeros before the step at which it takes part.

        Returns:
            (direction, gradients, logs): the adversarial term's gradient by `fake` [B,H,W,3], the
            discriminator's gradients, and `DISCRIMINATOR_LOGS`.
        """
        discriminator = self.discriminator
        assert discriminator is not None
        variables = discriminator.trainable_variables
        config = self.experiment.discriminator

        def compare() -> tuple[Tensor, list[Tensor], list[Tensor]]:
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(fake)
                fake_logits = discriminator(fake)
                real_logits = discriminator(real)
                adversarial = self.generator_loss(fake_logits)
                loss = self.discriminator_loss(real_logits, fake_logits)
            direction = tape.gradient(adversarial, fake)
            gradients = gradients_or_zeros(tape, loss, variables)
            lazy = tf.equal(self.step % config.r1_every, 0)
            penalty, more = tf.cond(lazy, lambda: self._r1(real), absent_r1)
            gradients = [a + b for a, b in zip(gradients, more, strict=True)]
            parts = (adversarial, loss, real_logits, fake_logits, penalty)
            return direction, gradients, [tf.reduce_mean(part) for part in parts]

        def absent_r1() -> tuple[Tensor, list[Tensor]]:
            return tf.zeros([]), [tf.zeros(v.shape) for v in variables]

        def absent() -> tuple[Tensor, list[Tensor], list[Tensor]]:
            logs = [tf.zeros([]) for _ in DISCRIMINATOR_LOGS]
            return tf.zeros_like(fake), [tf.zeros(v.shape) for v in variables], logs

        direction, gradients, logs = tf.cond(self.step >= self.adversarial_start, compare, absent)
        return direction, gradients, dict(zip(DISCRIMINATOR_LOGS, logs, strict=True))

    def _r1(self, real: Tensor) -> tuple[Tensor, list[Tensor]]:
        """R1's penalty (arXiv 1801.04406), and its gradients times `r1_gamma / 2 * r1_every`."""
        config = self.experiment.discriminator
        assert self.discriminator is not None
        variables = self.discriminator.trainable_variables
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(real)
                logits = tf.reduce_sum(self.discriminator(real))
            penalty = losses.r1_penalty(inner.gradient(logits, real))
            scaled = config.r1_gamma / 2 * config.r1_every * penalty
        return penalty, gradients_or_zeros(outer, scaled, variables)

    def apply_gradients(self, gradients: tuple[list[Tensor], list[Tensor]]) -> dict[str, Tensor]:
        """Applies both networks' gradients; returns their norms."""
        config = self.experiment
        logs = {
            "gradient_norm": apply_gradients(
                self.optimizer,
                gradients[0],
                self.model.trainable_variables,
                config.optimizer.clip_norm,
            )
        }
        if self.discriminator is not None:
            logs["discriminator_gradient_norm"] = apply_gradients(
                self.discriminator_optimizer,
                gradients[1],
                self.discriminator.trainable_variables,
                config.discriminator_optimizer.clip_norm,
            )
        return logs

    def after_step(self, step: Tensor, output: QuantizerOutput) -> None:
        """Counts the codes and revives dead ones."""
        self.usage.update_state(output.tokens)
        codebook = tf.convert_to_tensor(self.model.quantizer.codebook)
        self.log_metrics["code_angle"].update_state(mean_angle(codebook, self.first_codes))
        if self.revival:
            self.revival(step, output)

    def train_results(self) -> dict[str, Tensor]:
        """Returns the running means of the logs and the codebook's health since the last reset."""
        return {**super().train_results(), **self.usage.result()}

    def evaluate_batch(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Computes tokens and reconstruction errors, of pixels in [0,1], of the averaged weights.

        Returns:
            dict of "psnr" (dB), "l1", "l2", each [B] float32, and "token" [B,N] int32.
        """
        images = batch["image"]
        tokens = self.ema_model.tokenize(images)
        difference = (self.ema_model.decode_tokens(tokens) - images) / 2
        axes = [1, 2, 3]
        return {
            "psnr": losses.psnr(images - 2 * difference, images),
            "l1": tf.reduce_mean(tf.abs(difference), axes),
            "l2": tf.reduce_mean(tf.square(difference), axes),
            "token": tokens,
        }

    def after_evaluation(self, step: int, results: dict[str, float]) -> int:
        """Notes an evaluation; returns the step from which the discriminator takes part.

        With `discriminator.plateau` this is the step of the first evaluation, from
        `discriminator.start` on, with a smaller gain of PSNR over the previous evaluation. Until
        then it is the last step of the run.
        """
        if self.adversarial_start is None:
            return 0
        start, config = int(self.adversarial_start.numpy()), self.experiment
        before, last, last_step = self._evaluated.numpy()
        if step != last_step:  # a resumed run evaluates its first step again
            before, last = last, results["psnr"]
            self._evaluated.assign([before, last, step])
        waits = config.discriminator.plateau > 0 and start == config.training.steps
        if waits and step >= self.first_start and last - before < config.discriminator.plateau:
            return step
        return start

    def reset_logs(self, whole_epoch: bool) -> None:
        """Starts new means; the codes' counts continue unless `whole_epoch`."""
        super().reset_logs(whole_epoch)
        if whole_epoch:
            self.usage.reset_state()

    def summarize(self, results: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns means over all images, and the codebook's usage by the paper's definition."""
        self.held_out_tokens = results["token"]
        means = {name: float(np.mean(results[name])) for name in ("psnr", "l1", "l2")}
        codes = self.experiment.model.quantizer.codes
        return {**means, **codebook_usage(self.held_out_tokens, codes)}

    def histograms(self) -> dict[str, np.ndarray]:
        """Returns the tokens of the last evaluation."""
        return {"tokens": self.held_out_tokens}

    def checkpoint_items(self) -> dict[str, Any]:
        """Returns the trackables that make up the state of a run, by name."""
        items = {**super().checkpoint_items(), "usage": self.usage.counts.value}
        if self.adversarial:
            items["discriminator"] = self.discriminator
            items["discriminator_optimizer"] = self.discriminator_optimizer
            items["adversarial_start"] = self.adversarial_start
            items["evaluated"] = self._evaluated
        if self.revival:
            items["revival_hits"] = self.revival.hits
        return items
