"""One training step of the tokenizer (section 3.3 of https://arxiv.org/abs/2110.04627)."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vim_tf import losses
from vim_tf.annotations import Tensor
from vim_tf.config.experiments import ViTVQGANExperiment
from vim_tf.metrics.codebook import codebook_usage
from vim_tf.models.quantizer import QuantizerOutput
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.trainers.codebook_health import CodebookRevival, CodebookUsage, mean_angle
from vim_tf.trainers.gradients import gradients_or_zeros, mean_over_replicas
from vim_tf.trainers.reconstruction_trainer import Gradients, ReconstructionTrainer

CODE_TERMS = ("codebook", "commitment", "entropy")


class ViTVQGANTrainer(ReconstructionTrainer):
    """Trains tokenizer and discriminator together, from one forward pass of each.

    The weighted sum of the gradients of all terms of pixels passes through the whole tokenizer,
    together with the gradients of the terms of codes.

    Args:
        experiment: the configuration.
    """

    experiment: ViTVQGANExperiment
    revival: CodebookRevival | None  # None without revivals
    epoch_logs = ("usage", "perplexity", "dead_codes")

    def __init__(self, experiment: ViTVQGANExperiment) -> None:
        weights = experiment.losses
        code_weights = {
            "codebook": weights.codebook_mean,
            "commitment": weights.commitment_mean,
            "entropy": weights.entropy,
        }
        make_model = lambda: ViTVQGAN(experiment.model, experiment.data.image_size)  # noqa: E731
        super().__init__(experiment, experiment.model, make_model, code_weights, ("code_angle",))
        self.usage = CodebookUsage(experiment.model.quantizer.codes)
        quantizer = self.model.quantizer
        self.first_codes = tf.math.l2_normalize(quantizer.initial_codebook(), -1)
        self.revival = None

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
        """As in `ReconstructionTrainer`; the revival of codes knows the optimizer's slots."""
        super().compile(optimizer, discriminator_optimizer, **kwargs)
        config = self.experiment
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

    def reset_logs(self, whole_epoch: bool) -> None:
        """Starts new means; the codes' counts continue unless `whole_epoch`."""
        super().reset_logs(whole_epoch)
        if whole_epoch:
            self.usage.reset_state()

    def histograms(self) -> dict[str, np.ndarray]:
        """Returns the tokens of the last evaluation."""
        return {"tokens": self.held_out_tokens}

    def summarize(self, results: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns means over all images, and the codebook's usage by the paper's definition."""
        self.held_out_tokens = results["token"]
        codes = self.experiment.model.quantizer.codes
        return {**super().summarize(results), **codebook_usage(self.held_out_tokens, codes)}

    def checkpoint_items(self) -> dict[str, Any]:
        """Returns the trackables that make up the state of a run, by name."""
        items = {**super().checkpoint_items(), "usage": self.usage.counts.value}
        if self.revival:
            items["revival_hits"] = self.revival.hits
        return items
