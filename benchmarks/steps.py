"""Compares the speed of training steps with that of matrix products, and shows the GAN's cost.

    python benchmarks/steps.py --tokenizer small --batch 4
    python benchmarks/steps.py --stages vim --vim 91M --tokens 256 --batch 8

Weights are fresh and images are noise. A step has everything: gradients, AdamW, moving averages. It
lacks only the perceptual loss, because its weights are a download. Operations are those of the
forward pass times three, and of the transformers only. So the rows with a discriminator show its
cost, not its speed. R1 is part of one step in `discriminator.r1_every`, 16.
"""

import argparse

import contest
import keras
import limits
import numpy as np
import tensorflow as tf
from forward import PATCH_SIZE, SIZES
from sampling import CLASSES, CODES
from sampling import SIZES as VIM_SIZES

from vim_tf import command_line
from vim_tf.config.experiments import VIMExperiment, ViTVQGANExperiment
from vim_tf.config.loss_sections import DiscriminatorConfig, ViTVQGANLossConfig
from vim_tf.config.sections import (
    DataConfig,
    TrainingConfig,
    VIMConfig,
    ViTVQGANConfig,
)
from vim_tf.costs.operations import (
    count_decoder_operations,
    count_encoder_operations,
    count_quantizer_operations,
    count_vim_operations,
)
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.trainers.vim_trainer import VIMTrainer
from vim_tf.trainers.vit_vqgan_trainer import ViTVQGANTrainer

NEVER = 10**9
# The first step always has R1. It compiles and is not counted.
GANS = {
    "autoencoder alone": None,
    "with the discriminator": NEVER,
    "with the discriminator and R1": 1,
}


def main(arguments=None):
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--stages", nargs="+", choices=("vit_vqgan", "vim"), default=["vit_vqgan", "vim"]
    )
    parser.add_argument("--tokenizer", choices=SIZES, default="small")
    parser.add_argument("--vim", choices=VIM_SIZES, default="91M")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=256, help="VIM's tokens per image, a square")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--precision", choices=("float32", "mixed_bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args(arguments)
    command_line.check_positive(vars(arguments), "repeats", "batch", "tokens", "image_size")
    makers = {"vit_vqgan": make_tokenizer_steps, "vim": make_vim_step}
    limit = limits.make_product(2048, arguments.precision)
    matches = [match for stage in arguments.stages for match in makers[stage](arguments)]
    warning = contest.hold(matches, [limit], arguments.repeats)
    print(
        f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {arguments.precision}, batch "
        f"{arguments.batch}, median of {arguments.repeats}; limit, a product of 2048^3: "
        f"{limit.rate / 1e9:,.1f} GFLOP/s\n"
    )
    print(contest.format_table(matches, "img/s", lambda one: one.operations / limit.rate))
    print(f"\n{warning}", end="")


def make_tokenizer_steps(arguments):
    """Yields the rows of stage 1."""
    size, image_size = SIZES[arguments.tokenizer], (arguments.image_size, arguments.image_size)
    config = ViTVQGANConfig(PATCH_SIZE, size, size)
    operations = 3 * sum(
        count(config, image_size)
        for count in (
            count_encoder_operations,
            count_quantizer_operations,
            count_decoder_operations,
        )
    )
    shape = (arguments.batch, *image_size, 3)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")
    for name, r1_every in GANS.items():
        adversarial = 0.0 if r1_every is None else 0.1
        experiment = ViTVQGANExperiment(
            data=DataConfig(image_size=image_size, batch_size=arguments.batch),
            model=config,
            losses=ViTVQGANLossConfig(perceptual=0.0, adversarial=adversarial),
            discriminator=DiscriminatorConfig(r1_every=r1_every or 1),
            training=TrainingConfig(precision=arguments.precision),
        )
        yield make_row(
            f"{arguments.tokenizer} {name}",
            ViTVQGANTrainer(experiment),
            {"image": images},
            arguments.batch * operations,
        )


def make_vim_step(arguments):
    """Yields the row of stage 2."""
    side = round(arguments.tokens**0.5)
    image_size = (side * PATCH_SIZE, side * PATCH_SIZE)
    experiment = VIMExperiment(
        data=DataConfig(image_size=image_size, batch_size=arguments.batch),
        model=VIMConfig(VIM_SIZES[arguments.vim]),
        training=TrainingConfig(precision=arguments.precision),
    )
    tokenizer = ViTVQGAN(ViTVQGANConfig(PATCH_SIZE, SIZES["tiny"], SIZES["tiny"]), image_size)
    random = np.random.default_rng(0)
    batch = {
        "token": random.integers(0, CODES, (arguments.batch, side**2)).astype("int32"),
        "label": random.integers(0, CLASSES, arguments.batch).astype("int32"),
    }
    operations = 3 * count_vim_operations(experiment.model, side**2, CODES)
    yield make_row(
        f"VIM {arguments.vim}, {side**2} tokens",
        VIMTrainer(experiment, tokenizer, CLASSES),
        batch,
        arguments.batch * operations,
    )


def make_row(name, trainer, batch, operations):
    """The row for a trainer's steps."""
    trainer.compile()
    rows = len(batch["label"] if "label" in batch else batch["image"])
    step = tf.function(trainer.train_step)

    def call():
        step(batch)
        trainer.step.numpy()

    return contest.Match(contest.Contestant(name, call, operations, rows))


if __name__ == "__main__":
    command_line.run(main)
