"""The half of a training step that both trainings of a decoder share: the terms of pixels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vim_tf import losses
from vim_tf.annotations import Tensor
from vim_tf.config.experiments import PixelExperiment
from vim_tf.config.sections import ViTVQGANConfig
from vim_tf.costs.parameters import VGG16_MIN_SIDE
from vim_tf.models.perceptual import PerceptualFeatures
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.trainers.adversary import LOGS, WORSE, Adversary
from vim_tf.trainers.gradients import apply_gradients, squared_norm
from vim_tf.trainers.trainer import Trainer

PIXEL_TERMS = ("l2", "logit_laplace", "perceptual")
# Gradients of tokenizer and discriminator, and the squared norms of each term's gradient by the
# decoder's output.
Gradients = tuple[list[Tensor], list[Tensor], dict[str, Tensor]]


class ReconstructionTrainer(Trainer):
    """Trains a decoder, and perhaps the rest of its tokenizer, together with a discriminator.

    Each term of pixels gives its gradient by the decoder's output. A subclass passes their weighted
    sum back through what it trains. So the pull of each term is known where all of them meet, and
    that of the adversarial term can be bounded.

    Args:
        experiment: the configuration.
        config: the config of the `ViTVQGAN`.
        make_model: makes it.
        code_weights: {name of a term of codes: its weight}.
        more_logs: names of further logs.
    """

    experiment: PixelExperiment
    model: ViTVQGAN
    ema_model: ViTVQGAN
    adversary: Adversary | None  # None without an adversarial term
    perceptual: PerceptualFeatures | None  # None without a perceptual term
    judged_by = ("reconstruction_loss", -1)

    def __init__(
        self,
        experiment: PixelExperiment,
        config: ViTVQGANConfig,
        make_model: Callable[[], ViTVQGAN],
        code_weights: Mapping[str, float] | None = None,
        more_logs: Sequence[str] = (),
    ) -> None:
        weights = experiment.losses
        every = {
            **(code_weights or {}),
            "l2": weights.l2,
            "logit_laplace": weights.logit_laplace,
            "perceptual": weights.perceptual,
        }
        self.loss_weights = {name: weight for name, weight in every.items() if weight}
        self.pixel_terms = [name for name in PIXEL_TERMS if name in self.loss_weights]
        names = ["total", *self.loss_weights, "psnr", "gradient_norm", *more_logs]
        names += [f"{name}_gradient" for name in self.pixel_terms]
        if weights.adversarial:
            names += [*LOGS, "adversarial_weight", "adversarial_gradient"]
            names += ["discriminator_gradient_norm"]
            self.rare_every = experiment.discriminator.r1_every
        convolutions = weights.adversarial, weights.perceptual, config.refinement_channels
        self.convolves = any(convolutions)
        tests = ("reconstruction_loss", "psnr", "l1", "l2")
        super().__init__(experiment, make_model, names, tests)
        self.adversary = self.perceptual = None
        if weights.adversarial:
            self.adversary = Adversary(experiment)
        if "perceptual" in self.loss_weights:
            self.perceptual = PerceptualFeatures(weights.perceptual_network)
            height, width = experiment.data.image_size
            if min(height, width) < VGG16_MIN_SIDE:
                self.remarks.append(
                    f"data.image_size is {height} x {width}; the perceptual network sees these "
                    f"images enlarged to {VGG16_MIN_SIDE} pixels"
                )

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
        if self.adversary is not None:
            self.adversary.compile(self.experiment, discriminator_optimizer)

    def _weighted_sum(self, terms: dict[str, Tensor]) -> Tensor:
        return sum((self.loss_weights[name] * term for name, term in terms.items()), tf.zeros([]))

    def _pixel_terms(
        self,
        images: Tensor,
        reconstruction: Tensor,
        mean: Tensor | None,
        log_scale: Tensor | None,
    ) -> dict[str, Tensor]:
        """The unweighted terms of pixels that have a weight, by name: [B] each."""
        terms = {}
        for name in self.pixel_terms:
            if name == "l2":
                terms[name] = losses.l2_loss(reconstruction, images)
            elif name == "logit_laplace":
                terms[name] = losses.logit_laplace_loss(mean, log_scale, images)
            else:
                assert self.perceptual is not None
                features = self.perceptual(reconstruction), self.perceptual(images)
                terms[name] = losses.perceptual_loss(*features)
        return terms

    def _judge_pixels(
        self, images: Tensor, decoded: Tensor
    ) -> tuple[Tensor, list[Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """All terms of the decoder's output [B,H,W,channels], and the discriminator's half.

        Returns:
            (pull, discriminator's gradients, squares, logs): the gradient by `decoded` of the
            weighted terms; see `Gradients`; the logs, of which "total" is the weighted sum.
        """
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(decoded)
            reconstruction, mean, log_scale = self.model.distribution_of(decoded)
            terms = self._pixel_terms(images, reconstruction, mean, log_scale)
            terms = {name: tf.reduce_mean(term) for name, term in terms.items()}
            weighted = {name: self.loss_weights[name] * term for name, term in terms.items()}
        pulls = {name: tape.gradient(term, decoded) for name, term in weighted.items()}
        pull, total = tf.add_n([*pulls.values()]), tf.add_n([*weighted.values()])
        squares = {name: squared_norm(gradient) for name, gradient in pulls.items()}
        clipped = tf.clip_by_value(reconstruction, -1.0, 1.0)
        logs = {**terms, "psnr": tf.reduce_mean(losses.psnr(clipped, images))}
        gradients = []
        if self.adversary is not None:
            direction, gradients, more = self.adversary.judge(images, reconstruction, self.step)
            direction = tape.gradient(reconstruction, decoded, output_gradients=direction)
            weight = self.adversary.weight(self.step)
            squares |= {"others": squared_norm(pull), "unweighted": squared_norm(direction)}
            squares["adversarial"] = weight**2 * squares["unweighted"]
            pull += weight * direction
            total += weight * more["adversarial"]
            logs |= {**more, "adversarial_weight": weight}
        return pull, gradients, squares, {**logs, "total": total}

    def apply_gradients(self, gradients: Gradients) -> dict[str, Tensor]:
        """Applies both networks' gradients; returns their norms, as logs.

        Those of the terms are roots of means over images: of the norm of a term's gradient by the
        decoder's output, for the loss of that image alone.
        """
        config = self.experiment
        of_model, of_discriminator, squares = gradients
        context = tf.distribute.get_replica_context()
        squares = context.all_reduce(tf.distribute.ReduceOp.MEAN, squares)
        logs = {
            "gradient_norm": apply_gradients(
                self.optimizer,
                of_model,
                self.model.trainable_variables,
                config.optimizer.clip_norm,
            )
        }
        if self.adversary is not None:
            logs["discriminator_gradient_norm"] = apply_gradients(
                self.adversary.optimizer,
                of_discriminator,
                self.adversary.network.trainable_variables,
                config.discriminator_optimizer.clip_norm,
            )
            self.adversary.note_squares(squares.pop("others"), squares.pop("unweighted"))
        return logs | {f"{name}_gradient": tf.sqrt(square) for name, square in squares.items()}

    def evaluate_batch(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Computes tokens and reconstruction errors, of pixels in [0,1], of the averaged weights.

        Returns:
            dict of "psnr" (dB), "l1", "l2", "reconstruction_loss" (the weighted terms of pixels),
            each [B] float32, and "token" [B,N] int32.
        """
        images, model = batch["image"], self.ema_model
        tokens = model.tokenize(images)
        decoded = model.decode_distribution(model.quantizer.lookup(tokens))
        terms = self._pixel_terms(images, *decoded)
        clipped = tf.clip_by_value(decoded[0], -1.0, 1.0)
        return {
            "reconstruction_loss": self._weighted_sum(terms),
            "psnr": losses.psnr(clipped, images),
            "l1": tf.reduce_mean(tf.abs(clipped - images) / 2, [1, 2, 3]),
            "l2": losses.l2_loss(clipped, images),
            "token": tokens,
        }

    def is_better(self, results: dict[str, float], best: float | None) -> bool:
        """Returns whether an evaluation is to be kept; always, once the adversarial term is on.

        Samples of a discriminator's sharpness cost squared error, so no number here ranks them.
        """
        adversary = self.adversary
        if adversary is not None and bool(adversary.takes_part(self.step)):
            return True
        return super().is_better(results, best)

    def is_counted(self, name: str, step: Tensor) -> Tensor | None:
        """Returns whether a log of a step is part of its mean: R1's only where it is computed."""
        if self.adversary is None or name not in (*LOGS, "adversarial_weight"):
            return None
        of = self.adversary.takes_r1 if name == "r1" else self.adversary.takes_part
        return of(step)

    @property
    def decisions(self) -> dict[str, tf.Variable]:
        """The start of the discriminator and the number of halvings of its weight."""
        if self.adversary is None:
            return {}
        return {"start": self.adversary.start, "halvings": self.adversary.halvings}

    def optimizer_starts(self) -> dict[str, int | tf.Variable]:
        """Adds the discriminator's optimizer."""
        starts = super().optimizer_starts()
        if self.adversary is not None:
            starts["discriminator_optimizer"] = self.adversary.start
        return starts

    def after_evaluation(self, step: int, results: dict[str, float]) -> dict[str, int]:
        """Notes an evaluation; see `Adversary.after_evaluation`."""
        if self.adversary is None:
            return {}
        start, halvings = self.adversary.after_evaluation(step, results["psnr"])
        return {"start": start, "halvings": halvings}

    def start_new_parts(self, step: int) -> list[str]:
        """Lets a discriminator that the run did not have take part from its step on."""
        if self.adversary is None or not self.adversary.start_new(step):
            return []
        return [self.describe_decision("start", int(self.adversary.start.numpy()))]

    def describe_decision(self, name: str, number: int) -> str:
        """Returns the line about a decision."""
        if name == "start":
            return f"the discriminator takes part from step {number} on"
        weight = self.experiment.losses.adversarial / 2**number
        return (
            f"reconstruction is more than {WORSE:g} dB worse than at its best, with the "
            f"adversarial term: its weight is halved, to {weight:.3g}; in another run lower "
            "losses.adversarial, or let it start later (discriminator.start)"
        )

    def learning_rates(self) -> dict[str, Tensor]:
        """Also that of the discriminator, which is 0 before it takes part."""
        rates = super().learning_rates()
        if self.adversary is not None:
            rates["discriminator_learning_rate"] = self.adversary.optimizer.learning_rate
        return rates

    def summarize(self, results: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns means over all images."""
        return {name: float(np.mean(results[name])) for name in self.test_metrics}

    def checkpoint_items(self) -> dict[str, Any]:
        """Returns the trackables that make up the state of a run, by name."""
        more = {} if self.adversary is None else self.adversary.checkpoint_items()
        return {**super().checkpoint_items(), **more}
