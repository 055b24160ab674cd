"""One training step of the tokenizer (section 3.3 of https://arxiv.org/abs/2110.04627)."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vim_tf import losses
from vim_tf.annotations import Tensor
from vim_tf.config.experiments import ViTVQGANExperiment
from vim_tf.costs.parameters import VGG16_MIN_SIDE
from vim_tf.metrics.codebook import codebook_usage
from vim_tf.models.perceptual import PerceptualFeatures
from vim_tf.models.quantizer import QuantizerOutput
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.trainers.adversary import LOGS, WORSE, Adversary
from vim_tf.trainers.codebook_health import CodebookRevival, CodebookUsage, mean_angle
from vim_tf.trainers.gradients import (
    apply_gradients,
    gradients_or_zeros,
    mean_over_replicas,
    squared_norm,
)
from vim_tf.trainers.trainer import Trainer

# Terms of codes and latents, and terms of the decoder's output.
CODE_TERMS = ("codebook", "commitment", "entropy")
PIXEL_TERMS = ("l2", "logit_laplace", "perceptual")
# Gradients of tokenizer and discriminator, and the squared norms of each term's gradient by the
# decoder's output.
Gradients = tuple[list[Tensor], list[Tensor], dict[str, Tensor]]


class ViTVQGANTrainer(Trainer):
    """Trains tokenizer and discriminator together, from one forward pass of each.

    Each term of pixels first gives its gradient by the decoder's output. Their weighted sum then
    passes through the tokenizer, together with the gradients of the terms of codes. So the pull of
    each term is known where all of them meet, and that of the adversarial term can be bounded.

    Args:
        experiment: the configuration.
    """

    experiment: ViTVQGANExperiment
    model: ViTVQGAN
    ema_model: ViTVQGAN
    adversary: Adversary | None  # None without an adversarial term
    perceptual: PerceptualFeatures | None  # None without a perceptual term
    revival: CodebookRevival | None  # None without revivals
    judged_by = ("reconstruction_loss", -1)
    epoch_logs = ("usage", "perplexity", "dead_codes")

    def __init__(self, experiment: ViTVQGANExperiment) -> None:
        weights = experiment.losses
        every = {
            "codebook": weights.codebook_mean,
            "commitment": weights.commitment_mean,
            "entropy": weights.entropy,
            "l2": weights.l2,
            "logit_laplace": weights.logit_laplace,
            "perceptual": weights.perceptual,
        }
        self.loss_weights = {name: weight for name, weight in every.items() if weight}
        self.pixel_terms = [name for name in PIXEL_TERMS if name in self.loss_weights]
        names = ["total", *self.loss_weights, "psnr", "gradient_norm", "code_angle"]
        names += [f"{name}_gradient" for name in self.pixel_terms]
        if weights.adversarial:
            names += [*LOGS, "adversarial_weight", "adversarial_gradient"]
            names += ["discriminator_gradient_norm"]
        convolutions = weights.adversarial, weights.perceptual, experiment.model.refinement_channels
        self.convolves = any(convolutions)
        if weights.adversarial:
            self.rare_every = experiment.discriminator.r1_every
        make_model = lambda: ViTVQGAN(experiment.model, experiment.data.image_size)  # noqa: E731
        tests = ("reconstruction_loss", "psnr", "l1", "l2")
        super().__init__(experiment, make_model, names, tests)
        self.usage = CodebookUsage(experiment.model.quantizer.codes)
        quantizer = self.model.quantizer
        self.first_codes = tf.math.l2_normalize(quantizer.initial_codebook(), -1)
        self.adversary = self.perceptual = self.revival = None
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
        if self.adversary is not None:
            self.adversary.compile(config, discriminator_optimizer)
        if config.model.quantizer.revive_every:
            self.revival = CodebookRevival(
                self.model.quantizer,
                self.ema_model.quantizer.codebook,
                self.optimizer,
                config.seed,
            )

    def gradients_of(
        self, batch: dict[str, Tensor]
    ) -> tuple[Gradients, dict[str, Tensor], QuantizerOutput]:
        """Gradients of both networks for one replica's batch; changes nothing.

        Args:
            batch: dict with "image" [B,H,W,3] float32 in [-1,1].

        Returns:
            (gradients, logs, `QuantizerOutput`): see `Gradients`; those of the discriminator are an
            empty list without an adversarial term.
        """
        images = batch["image"]
        with tf.GradientTape() as tape:
            output = self.model.encode(images, training=True)
            codes = self.model.quantizer.pass_codes(output)
            decoded = self.model.decoder_output(codes, training=True)
            terms = self._code_terms(output)
            loss = self._weighted_sum(terms)
            with tape.stop_recording():  # the tape must not differentiate the gradients inside
                pull, discriminator_gradients, squares, logs = self._judge_pixels(images, decoded)
            surrogate = loss + tf.reduce_sum(pull * decoded)
        gradients = gradients_or_zeros(tape, surrogate, self.model.trainable_variables)
        logs |= {**terms, "total": loss + logs["total"]}
        return (gradients, discriminator_gradients, squares), logs, output

    def _weighted_sum(self, terms: dict[str, Tensor]) -> Tensor:
        return sum((self.loss_weights[name] * term for name, term in terms.items()), tf.zeros([]))

    def _code_terms(self, output: QuantizerOutput) -> dict[str, Tensor]:
        """The unweighted terms of codes and latents that have a weight, by name."""
        terms = {}
        for name in CODE_TERMS:
            if name not in self.loss_weights:
                continue
            if name == "codebook":
                terms[name] = losses.codebook_loss(output.latents, output.codes)
            elif name == "commitment":
                terms[name] = losses.commitment_loss(output.latents, output.codes)
            else:
                affinity = self.model.quantizer.affinity(output.latents)
                terms[name] = losses.entropy_loss(
                    tf.reshape(affinity, [-1, affinity.shape[-1]]),  # [B*N,K]
                    self.experiment.losses.entropy_temperature,
                    mean_over_replicas,
                )
        return terms

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

    def reset_logs(self, whole_epoch: bool) -> None:
        """Starts new means; the codes' counts continue unless `whole_epoch`."""
        super().reset_logs(whole_epoch)
        if whole_epoch:
            self.usage.reset_state()

    def summarize(self, results: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns means over all images, and the codebook's usage by the paper's definition."""
        self.held_out_tokens = results["token"]
        means = {name: float(np.mean(results[name])) for name in self.test_metrics}
        codes = self.experiment.model.quantizer.codes
        return {**means, **codebook_usage(self.held_out_tokens, codes)}

    def histograms(self) -> dict[str, np.ndarray]:
        """Returns the tokens of the last evaluation."""
        return {"tokens": self.held_out_tokens}

    def checkpoint_items(self) -> dict[str, Any]:
        """Returns the trackables that make up the state of a run, by name."""
        items = {**super().checkpoint_items(), "usage": self.usage.counts.value}
        if self.adversary is not None:
            items |= self.adversary.checkpoint_items()
        if self.revival:
            items["revival_hits"] = self.revival.hits
        return items
