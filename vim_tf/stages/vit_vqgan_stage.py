"""`experiment: vit_vqgan`: the image tokenizer."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from vim_tf.annotations import Tensor
from vim_tf.config.experiments import PixelExperiment, ViTVQGANExperiment
from vim_tf.costs import operations
from vim_tf.costs.memory import MemoryEstimate, estimate_vit_vqgan
from vim_tf.costs.parameters import count_vgg16
from vim_tf.data.images import ImageData
from vim_tf.data.transforms import normalize, to_uint8
from vim_tf.drawing import grids
from vim_tf.drawing.spread_images import spread_images
from vim_tf.models.discriminator import Discriminator
from vim_tf.models.patches import patchify
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.runs.load import load
from vim_tf.runs.run import Run
from vim_tf.stages.stage import Stage, zoom_of
from vim_tf.trainers.vit_vqgan_trainer import ViTVQGANTrainer

if TYPE_CHECKING:
    import numpy as np

    from vim_tf.stages.describe import Table
    from vim_tf.stages.dry_run import Report

SHOWN_IMAGES = 32


class ViTVQGANStage(Stage):
    """Trains a `ViTVQGAN`; it draws reconstructions below their originals."""

    experiment: ViTVQGANExperiment
    trainer: ViTVQGANTrainer
    shown = ("total", "psnr", "l2", "discriminator", "adversarial", "usage", "perplexity")
    panels = (
        ("loss", True, [("train", "total"), ("train", "l2")]),
        ("PSNR (dB)", False, [("train", "psnr"), ("evaluation", "psnr")]),
        ("share of codes used", False, [("train", "usage"), ("evaluation", "usage")]),
        ("perplexity of the codes", False, [("train", "perplexity"), ("evaluation", "perplexity")]),
        (
            "discriminator",
            False,
            [("train", name) for name in ("discriminator", "real_logit", "fake_logit")],
        ),
        (
            "gradients at the decoder's output",
            True,
            [
                ("train", f"{name}_gradient")
                for name in ("l2", "logit_laplace", "perceptual", "adversarial")
            ],
        ),
    )

    @classmethod
    def for_dry_run(
        cls, experiment: ViTVQGANExperiment, say: Callable[[str], None]
    ) -> ViTVQGANExperiment:
        """Lets the discriminator take part from the first step, so that it is tried too."""
        config = experiment.discriminator
        if not experiment.losses.adversarial or (config.start == 0 and config.plateau == 0):
            return experiment
        say("the discriminator takes part from the first step in this dry run")
        config = dataclasses.replace(config, start=0, plateau=0)
        return dataclasses.replace(experiment, discriminator=config)

    @classmethod
    def estimate_memory(
        cls, experiment: ViTVQGANExperiment, sources: tuple[None, ImageData], replicas: int
    ) -> MemoryEstimate:
        """Estimates the memory of the tokenizer and of the networks of its losses."""
        return estimate_vit_vqgan(experiment, replicas)

    @classmethod
    def describe(cls, experiment: ViTVQGANExperiment, images: Tensor, table: Table) -> None:
        """Shows patches, features, codes, tokens, the reconstruction and the discriminator."""
        model = ViTVQGAN(experiment.model, experiment.data.image_size)
        patch_size = experiment.model.patch_size
        sizes = experiment.model, experiment.data.image_size
        table.start()
        table.show("images", images)
        table.call("patchify(images)", lambda x: patchify(x, patch_size), images)
        features = table.call(
            "ViTEncoder(images)",
            model.encoder,
            images,
            parameters=model.encoder.count_params(),
            operations=operations.count_encoder_operations(*sizes),
        )
        output = table.call(
            "VectorQuantizer(features)",
            model.quantizer,
            features,
            parameters=model.quantizer.count_params(),
            operations=operations.count_quantizer_operations(*sizes),
            fields=("latents", "codes", "tokens"),
        )
        table.call(
            "ViTVQGAN.decode(codes)",
            model.decode,
            output.codes,
            parameters=model.decoder.count_params(),
            operations=operations.count_decoder_operations(*sizes),
        )
        table.call("ViTVQGAN.decode_tokens(tokens)", model.decode_tokens, output.tokens)
        table.say(f"ViTVQGAN: {model.count_params():,} parameters")
        cls.describe_losses(experiment, images, table)

    @staticmethod
    def describe_losses(experiment: PixelExperiment, images: Tensor, table: Table) -> None:
        """Shows the networks that only losses use."""
        if experiment.losses.adversarial:
            discriminator = Discriminator(experiment.discriminator, experiment.data.image_size)
            discriminator.build()
            table.call(
                "Discriminator(images)",
                discriminator,
                images,
                parameters=discriminator.count_params(),
                operations=operations.count_discriminator_operations(
                    experiment.discriminator, experiment.data.image_size
                ),
            )
            table.say(f"Discriminator: {discriminator.count_params():,} parameters")
        if experiment.losses.perceptual:
            table.say(
                f"PerceptualFeatures (VGG16): {count_vgg16():,} parameters, frozen; not run here"
            )

    def make_trainer(self) -> ViTVQGANTrainer:
        """Returns a `ViTVQGANTrainer`."""
        return ViTVQGANTrainer(self.experiment)

    @functools.cached_property
    def shown_images(self) -> Tensor:
        """Some held-out images, the same at each evaluation: [n,H,W,3] in [-1,1].

        At even distances, since the first ones are all of the first classes.
        """
        return normalize(spread_images(self.data, "validation", SHOWN_IMAGES)[0])

    def draw_images(self) -> dict[str, np.ndarray]:
        """Held-out images and their reconstructions."""
        images = self.shown_images
        reconstructions = to_uint8(self.trainer.ema_model(images))
        grid = grids.reconstruction_grid(to_uint8(images), reconstructions, zoom=zoom_of(images))
        return {"reconstructions": grid}

    def try_preset(self, run: Run, report: Report) -> np.ndarray:
        """Reconstructs an image."""
        model = report.time("vim_tf.load of it", lambda: load(run.path))
        images = next(iter(self.data.evaluation(batch_size=1)))["image"]
        return report.time("a reconstruction made", lambda: to_uint8(model(images)))[0]
