"""Trains a miniature of each config of stage 1, and checks that its recipe holds.

    make recipes DATA=data/styles PERCEPTUAL=vgg16.h5
    (python tests/recipe_runs.py --data data/styles --perceptual vgg16.h5 [CONFIG ...])

A miniature has the losses, the optimizers, the shape of the schedules and the quantizer of its
config; but a narrow model, images of 32 pixels from `data.source: styles`, and some hundred steps.
Its recipe holds if more than 10% of the codes are used, PSNR rises, and the loss of the
discriminator ends between 5% and 98% of that of guessing.
"""

import argparse
import dataclasses
import hashlib
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from vim_tf.config.experiments import ViTVQGANExperiment
from vim_tf.config.loader import load_config
from vim_tf.config.loss_sections import PerceptualNetworkConfig
from vim_tf.config.sections import DataConfig, TransformerConfig
from vim_tf.runs.run import Run
from vim_tf.stages.training import run_training
from vim_tf.training_loop.training_warnings import UNDECIDED

ROOT = Path(__file__).parents[1]
NARROW = TransformerConfig(blocks=2, heads=4, dim=128, mlp_dim=384)
EVALUATIONS = 3
MIN_USAGE, MIN_SHARE, MAX_SHARE = 0.1, 0.05, 0.98


def stage_1_configs():
    """The paths of all configs of the tokenizer."""
    found = sorted((ROOT / "configs").glob("*/*.yaml"))
    return [path for path in found if isinstance(load_config([path]), ViTVQGANExperiment)]


def make_miniature(experiment, data, perceptual, steps, batch_size=32):
    """Returns the miniature of an experiment.

    Args:
        experiment: the `ViTVQGANExperiment`.
        data: folder of styles at 32 pixels.
        perceptual: file of VGG16 weights.
        steps: its length; warm-ups and the start of the discriminator keep their share of it.
        batch_size: images of a batch.
    """
    share = steps / experiment.training.steps

    def shorten(optimizer):
        return dataclasses.replace(
            optimizer,
            warmup_steps=round(share * optimizer.warmup_steps),
            decay_start=round(share * optimizer.decay_start),
        )

    network = PerceptualNetworkConfig()
    if experiment.losses.perceptual:
        network = PerceptualNetworkConfig(
            str(perceptual), hashlib.sha256(Path(perceptual).read_bytes()).hexdigest()
        )
    discriminator = experiment.discriminator
    start = discriminator.start
    return dataclasses.replace(
        experiment,
        data=DataConfig(
            source="styles",
            path=str(data),
            image_size=(32, 32),
            batch_size=batch_size,
            augmentation=experiment.data.augmentation,
        ),
        model=dataclasses.replace(experiment.model, patch_size=4, encoder=NARROW, decoder=NARROW),
        losses=dataclasses.replace(experiment.losses, perceptual_network=network),
        optimizer=shorten(experiment.optimizer),
        discriminator=dataclasses.replace(
            discriminator,
            start=start if start < 1 else round(share * start),
            ramp_steps=round(share * discriminator.ramp_steps),
        ),
        discriminator_optimizer=shorten(experiment.discriminator_optimizer),
        training=dataclasses.replace(
            experiment.training,
            steps=steps,
            strategy="one_device",
            jit_compile=False,
            precision="float32",
            gradient_accumulation_steps=1,
            ema_decay=0.95,  # of some hundred steps instead of thousands
            log_every=max(steps // 20, 1),
            evaluate_every=steps // EVALUATIONS,
            evaluate_batches=16,
            checkpoint_every=steps,
        ),
    )


def train(experiment, workdir):
    """Trains it; returns its figures {name: number}."""
    started = time.monotonic()
    run_training(experiment, workdir)
    records = Run(workdir).read_metrics()
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    figures = {
        "usage": evaluations[-1]["usage"],
        "first_psnr": evaluations[0]["psnr"],
        "last_psnr": evaluations[-1]["psnr"],
        "seconds": time.monotonic() - started,
    }
    losses = [record["discriminator"] for record in records if "discriminator" in record]
    if losses:
        guess = UNDECIDED[experiment.discriminator.loss]
        figures["discriminator"] = float(np.mean(losses[-len(losses) // 4 :])) / guess
    return figures


def find_problems(figures):
    """The conditions that the figures do not meet, as texts."""
    problems = []
    if figures["usage"] <= MIN_USAGE:
        problems.append(f"{figures['usage']:.1%} of the codes are used")
    if figures["last_psnr"] <= figures["first_psnr"]:
        problems.append("PSNR does not rise")
    share = figures.get("discriminator")
    if share is not None and not MIN_SHARE < share < MAX_SHARE:
        problems.append(f"the discriminator's loss is {share:.1%} of that of guessing")
    return problems


def main():
    """Prints a Markdown table; exits with 1 if a recipe does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="*", type=Path, help="by default all of stage 1")
    parser.add_argument("--data", required=True, help="a folder of vim_tf.data.build_styles")
    parser.add_argument("--perceptual", required=True, help="a file of VGG16 weights without top")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--workdir", type=Path, help="keeps the runs here")
    arguments = parser.parse_args()
    print("| config | codes used | PSNR, first to last | discriminator | seconds | |")
    print("|---|---|---|---|---|---|")
    failed = False
    for path in arguments.configs or stage_1_configs():
        name = "/".join(path.with_suffix("").parts[-2:])
        experiment = make_miniature(
            load_config([path]), arguments.data, arguments.perceptual, arguments.steps
        )
        with tempfile.TemporaryDirectory() as folder:
            figures = train(experiment, (arguments.workdir or Path(folder)) / name)
        problems = find_problems(figures)
        failed = failed or bool(problems)
        share = figures.get("discriminator")
        print(
            f"| {name} | {figures['usage']:.1%} | {figures['first_psnr']:.1f} to "
            f"{figures['last_psnr']:.1f} dB | {'none' if share is None else f'{share:.0%}'} | "
            f"{figures['seconds']:.0f} | {'; '.join(problems) or 'holds'} |",
            flush=True,
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
