"""Measures a training step of several settings in turn, next to the operations that it needs.

    python benchmarks/arms.py --config configs/emoji/vit_vqgan.yaml --steps 1000 \
        --arm plain model.refinement_channels=0 --arm refined model.refinement_channels=32

An arm is a name and overrides of the config. An arm can have another config, which then follows the
name: `--arm decoder configs/styles/decoder_32.yaml tokenizer.run=runs/x`. The steps of all arms
alternate in one process, so that a slow moment of the machine slows all of them alike. With --steps
the table has the steps of equal compute for so many steps of the first arm, by time and by
operations: an arm's length is fixed from them beforehand. Images are noise, and VGG16 has random
weights. R1 has its share of the mean. Operations are those of `costs.step_time`.
"""

import argparse
from unittest import mock

import contest
import numpy as np
import tensorflow as tf

from vim_tf import command_line
from vim_tf.config.experiments import DecoderExperiment
from vim_tf.config.loader import load_config
from vim_tf.models.perceptual import PerceptualFeatures
from vim_tf.runs.run import find_tokenizer_config
from vim_tf.stages.registry import kind_of
from vim_tf.stages.stage import open_tokenizer
from vim_tf.trainers import reconstruction_trainer, trainer
from vim_tf.trainers.decoder_trainer import DecoderTrainer
from vim_tf.trainers.vit_vqgan_trainer import ViTVQGANTrainer


def main(arguments=None):
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    parser.add_argument(
        "--arm", nargs="+", action="append", required=True, metavar="NAME [YAML] KEY=VALUE"
    )
    parser.add_argument("--repeats", type=int, default=16, help="steps of each arm")
    parser.add_argument("--steps", type=int, help="steps of the first arm's training")
    parser.add_argument(
        "--force-xla", action="store_true", help="obey training.jit_compile on a CPU, too"
    )
    arguments = parser.parse_args(arguments)
    command_line.check_positive(vars(arguments), "repeats", "steps")
    arms = [
        make_arm(arguments.config, name, settings, arguments.force_xla)
        for name, *settings in arguments.arm
    ]
    contest.run(arms, arguments.repeats)
    more = " steps of equal time | steps of equal operations |" if arguments.steps else ""
    print(f"| arm | ms per step | mean | ratio | GFLOP per step | ratio |{more}")
    print("|---|---:|---:|---:|---:|---:|" + "---:|---:|" * bool(arguments.steps))
    first = arms[0]
    for arm in arms:
        # The mean has R1's share; the median is that of a step without it.
        mean = np.mean(arm.seconds)
        ratios = mean / np.mean(first.seconds), arm.operations / first.operations
        row = [
            arm.name,
            f"{1000 * arm.time:.0f}",
            f"{1000 * mean:.0f}",
            f"{ratios[0]:.2f}",
            f"{arm.operations / 1e9:.1f}",
            f"{ratios[1]:.2f}",
        ]
        if arguments.steps:
            row += [f"{arguments.steps / ratio:,.0f}" for ratio in ratios]
        print(f"| {' | '.join(row)} |")
    print(f"\n{contest.warning(arms)}", end="")


def make_arm(config, name, settings, force_xla):
    """The contestant of an arm."""
    if settings and settings[0].endswith(".yaml"):
        config, *settings = settings
    experiment = load_config([config], settings)
    with (
        mock.patch.object(
            reconstruction_trainer, "PerceptualFeatures", lambda network: PerceptualFeatures(None)
        ),
        mock.patch.object(trainer, "has_accelerator", lambda: force_xla),
    ):
        if isinstance(experiment, DecoderExperiment):
            trained = DecoderTrainer(experiment, open_tokenizer(experiment))
        else:
            trained = ViTVQGANTrainer(experiment)
    trained.compile()
    batch = experiment.data.batch_size
    images = np.random.default_rng(0).uniform(-1, 1, (batch, *experiment.data.image_size, 3))
    step, images = tf.function(trained.train_step), tf.constant(images, tf.float32)

    def call():
        step({"image": images})
        trained.step.numpy()

    count_step = kind_of(experiment).count_step
    _, operations = count_step(experiment, 1, find_tokenizer_config(experiment))
    return contest.Contestant(name, call, batch * sum(operations.values()), batch)


if __name__ == "__main__":
    command_line.run(main)
