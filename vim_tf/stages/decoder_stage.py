"""`experiment: decoder`: the decoder of an image tokenizer whose tokens stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from vim_tf.annotations import Tensor
from vim_tf.config.experiments import DecoderExperiment
from vim_tf.costs import operations
from vim_tf.costs.memory import MemoryEstimate, estimate_decoder
from vim_tf.data.images import ImageData, make_image_dataset
from vim_tf.errors import UserError
from vim_tf.models.seeded_dropout import row_keys, step_keys
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.stages.stage import open_tokenizer
from vim_tf.stages.vit_vqgan_stage import ViTVQGANStage
from vim_tf.trainers.decoder_trainer import DecoderTrainer
from vim_tf.trainers.perturbation import TokenPerturbation, check_nearest

if TYPE_CHECKING:
    from vim_tf.stages.describe import Table


class DecoderStage(ViTVQGANStage):
    """Trains the decoder of a `ViTVQGAN`; it draws reconstructions below their originals.

    Its preset is the whole tokenizer with the new decoder.
    """

    experiment: DecoderExperiment
    tokenizer: ViTVQGAN
    trainer: DecoderTrainer
    shown = ("total", "psnr", "l2", "discriminator", "adversarial")
    panels = tuple(panel for panel in ViTVQGANStage.panels if "codes" not in panel[0])

    @classmethod
    def open_sources(
        cls, experiment: DecoderExperiment, strategy: tf.distribute.Strategy | None
    ) -> tuple[ViTVQGAN, ImageData]:
        """Opens the tokenizer and the images; UserError if they and the config do not fit."""
        tokenizer = open_tokenizer(experiment)
        weight, output = experiment.losses.logit_laplace, tokenizer.config.output
        if weight and output != "logit_laplace":
            raise UserError(
                f"losses.logit_laplace is {weight}, and the output of the tokenizer "
                f"{experiment.tokenizer.run} is {output}; set losses.logit_laplace: 0"
            )
        check_nearest(experiment.perturbation, tokenizer.config.quantizer.codes)
        return tokenizer, make_image_dataset(experiment.data, experiment.seed)

    @classmethod
    def estimate_memory(
        cls,
        experiment: DecoderExperiment,
        sources: tuple[ViTVQGAN, ImageData],
        replicas: int,
    ) -> MemoryEstimate:
        """Estimates the memory of the decoder, the frozen parts, and the networks of the losses."""
        return estimate_decoder(experiment, sources[0].config, replicas)

    @classmethod
    def describe(cls, experiment: DecoderExperiment, images: Tensor, table: Table) -> None:
        """Shows the frozen tokens, the perturbed tokens and what the decoder makes of them."""
        model = open_tokenizer(experiment)
        sizes = model.config, model.image_size
        perturbation = TokenPerturbation(model.quantizer, experiment.perturbation)

        def perturb(tokens: Tensor) -> Tensor:
            with row_keys(step_keys(experiment.seed, 0, tf.range(len(images)))):
                return perturbation(tokens)

        table.start()
        table.show("images", images)
        tokens = table.call(
            "ViTVQGAN.tokenize(images), frozen",
            model.tokenize,
            images,
            parameters=model.encoder.count_params() + model.quantizer.count_params(),
            operations=operations.count_encoder_operations(*sizes),
        )
        tokens = table.call("TokenPerturbation(tokens)", perturb, tokens)
        table.call(
            "ViTVQGAN.decode_tokens(tokens)",
            model.decode_tokens,
            tokens,
            parameters=model.decoder.count_params(),
            operations=operations.count_decoder_operations(*sizes),
        )
        cls.describe_losses(experiment, images, table)

    def make_trainer(self) -> DecoderTrainer:
        """Returns a `DecoderTrainer`."""
        return DecoderTrainer(self.experiment, self.tokenizer)

    def about(self) -> dict[str, Any]:
        """Returns the part of a preset's metadata that describes the training."""
        return {**super().about(), "token_hash": self.tokenizer.token_hash()}
