"""`experiment: vit_vqgan`: the image tokenizer."""

import functools

from vim_tf.costs import operations
from vim_tf.costs.memory import estimate_vit_vqgan
from vim_tf.costs.parameters import count_vgg16
from vim_tf.data.transforms import to_uint8
from vim_tf.drawing import grids
from vim_tf.models.discriminator import Discriminator
from vim_tf.models.patches import patchify
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.runs.load import load
from vim_tf.stages.stage import Stage, zoom_of
from vim_tf.trainers.vit_vqgan_trainer import ViTVQGANTrainer

SHOWN_IMAGES = 32


class ViTVQGANStage(Stage):
    """Trains a `ViTVQGAN`; its images are reconstructions beside what they were made from."""

    shown = ("total", "psnr", "l2", "discriminator", "adversarial", "usage", "perplexity")
    panels = (
        ("loss", True, [("train", "total"), ("train", "l2")]),
        ("PSNR (dB)", False, [("train", "psnr"), ("evaluation", "psnr")]),
        ("share of codes used", False, [("train", "usage"), ("evaluation", "usage")]),
        ("perplexity of the codes", False, [("train", "perplexity"), ("evaluation", "perplexity")]),
    )

    @classmethod
    def estimate_memory(cls, experiment, sources, replicas):
        """Of the tokenizer and the networks of its losses."""
        return estimate_vit_vqgan(experiment, replicas)

    @classmethod
    def describe(cls, experiment, images, table):
        """Patches, features, codes, tokens and the reconstruction; and the discriminator."""
        model = ViTVQGAN(experiment.model, experiment.data.image_size)
        networks = {"ViTVQGAN": model}
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
        if experiment.losses.adversarial:
            discriminator = Discriminator(experiment.discriminator, experiment.data.image_size)
            discriminator.build()
            networks["Discriminator"] = discriminator
            table.call(
                "Discriminator(images)",
                discriminator,
                images,
                parameters=discriminator.count_params(),
                operations=operations.count_discriminator_operations(
                    experiment.discriminator, experiment.data.image_size
                ),
            )
        for name, network in networks.items():
            table.say(f"{name}: {network.count_params():,} parameters")
        if experiment.losses.perceptual:
            table.say(
                f"PerceptualFeatures (VGG16): {count_vgg16():,} parameters, frozen; not run here"
            )

    def make_trainer(self):
        """Returns a `ViTVQGANTrainer`."""
        return ViTVQGANTrainer(self.experiment)

    @functools.cached_property
    def shown_images(self):
        """The first held-out images, the same at each evaluation: [n,H,W,3] in [-1,1]."""
        return next(iter(self.data.evaluation(batch_size=SHOWN_IMAGES)))["image"]

    def draw_images(self):
        """Held-out images and their reconstructions."""
        images = self.shown_images
        reconstructions = to_uint8(self.trainer.ema_model(images))
        grid = grids.reconstruction_grid(to_uint8(images), reconstructions, zoom=zoom_of(images))
        return {"reconstructions": grid}

    def try_preset(self, run, report):
        """Reconstructs an image."""
        model = report.time("vim_tf.load of it", lambda: load(run.path))
        images = next(iter(self.data.evaluation(batch_size=1)))["image"]
        return report.time("a reconstruction made", lambda: to_uint8(model(images)))[0]
