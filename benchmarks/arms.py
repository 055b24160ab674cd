"""Measures a training step of several settings in turn, next to the operations that it needs.

    python benchmarks/arms.py --config configs/emoji/vit_vqgan.yaml \
        --arm plain model.refinement_channels=0 --arm refined model.refinement_channels=32

An arm is a name and overrides of the config. The steps of all arms alternate in one process, so
that a slow moment of the machine slows all of them alike. The number of steps of equal compute is
the inverse of the ratio. Images are noise, and VGG16 has random weights. R1 has its share of the
mean. Operations are those of `costs.step_time`.
"""

import argparse
from unittest import mock

import contest
import numpy as np
import tensorflow as tf

from vim_tf import command_line
from vim_tf.config.loader import load_config
from vim_tf.costs.step_time import count_vit_vqgan_step
from vim_tf.models.perceptual import PerceptualFeatures
from vim_tf.trainers import reconstruction_trainer, trainer
from vim_tf.trainers.vit_vqgan_trainer import ViTVQGANTrainer


def main(arguments=None):
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    parser.add_argument(
        "--arm", nargs="+", action="append", required=True, metavar="NAME KEY=VALUE"
    )
    parser.add_argument("--repeats", type=int, default=16, help="steps of each arm")
    parser.add_argument(
        "--force-xla", action="store_true", help="obey training.jit_compile on a CPU, too"
    )
    arguments = parser.parse_args(arguments)
    command_line.check_positive(vars(arguments), "repeats")
    arms = [
        make_arm(arguments.config, name, overrides, arguments.force_xla)
        for name, *overrides in arguments.arm
    ]
    contest.run(arms, arguments.repeats)
    print("| arm | ms per step | mean | ratio | GFLOP per step | ratio |")
    print("|---|---:|---:|---:|---:|---:|")
    first = arms[0]
    for arm in arms:
        # The mean has R1's share; the median is that of a step without it.
        mean, base = np.mean(arm.seconds), np.mean(first.seconds)
        print(
            f"| {arm.name} | {1000 * arm.time:.0f} | {1000 * mean:.0f} | {mean / base:.2f} | "
            f"{arm.operations / 1e9:.1f} | {arm.operations / first.operations:.2f} |"
        )
    print(f"\n{contest.warning(arms)}", end="")


def make_arm(config, name, overrides, force_xla):
    """The contestant of an arm."""
    experiment = load_config([config], overrides)
    with (
        mock.patch.object(
            reconstruction_trainer, "PerceptualFeatures", lambda network: PerceptualFeatures(None)
        ),
        mock.patch.object(trainer, "has_accelerator", lambda: force_xla),
    ):
        trained = ViTVQGANTrainer(experiment)
    trained.compile()
    batch = experiment.data.batch_size
    images = np.random.default_rng(0).uniform(-1, 1, (batch, *experiment.data.image_size, 3))
    step, images = tf.function(trained.train_step), tf.constant(images, tf.float32)

    def call():
        step({"image": images})
        trained.step.numpy()

    _, operations = count_vit_vqgan_step(experiment, 1)
    return contest.Contestant(name, call, batch * sum(operations.values()), batch)


if __name__ == "__main__":
    command_line.run(main)
