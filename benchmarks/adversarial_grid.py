"""Trains a tokenizer with weak and strong discriminators, and shows what each costs in PSNR.

    python benchmarks/adversarial_grid.py --config configs/styles/vit_vqgan_32.yaml \
        --workdir runs/grid --set losses.perceptual=0 training.steps=400

One run has no adversarial term. The others have all pairs of the discriminator's rate and of the
weight, each times 0.3, 1 and 3. All have the same seed and the same number of steps. Runs that are
in the folder already are not trained again.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np

from vim_tf import command_line
from vim_tf.config.loader import load_config
from vim_tf.runs.run import Run
from vim_tf.stages.training import run_training
from vim_tf.training_loop.training_warnings import UNDECIDED

FACTORS = (0.3, 1, 3)
LAST = 5  # reports that the discriminator's loss is the mean of


def main(arguments=None):
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--set", nargs="+", default=[], help="overrides of the config")
    arguments = parser.parse_args(arguments)
    base = load_config([arguments.config], arguments.set)
    rate, weight = base.discriminator_optimizer.learning_rate, base.losses.adversarial
    without = only(train(arguments, "none", "losses.adversarial=0"), "evaluation")
    print("| rate | weight | PSNR | against none | worst against none | discriminator | in use |")
    print("|---|---|---|---|---|---|---|")
    print(f"| | 0 | {without[-1]['psnr']:.2f} dB | | | | |", flush=True)
    for faster, stronger in itertools.product(FACTORS, FACTORS):
        records = train(
            arguments,
            f"rate_{faster}_weight_{stronger}",
            f"discriminator_optimizer.learning_rate={faster * rate:g}",
            f"losses.adversarial={stronger * weight:g}",
        )
        evaluated = only(records, "evaluation")
        lost = [
            record["psnr"] - other["psnr"] for record, other in zip(evaluated, without, strict=True)
        ]
        last = only(records, "train")[-LAST:]
        loss = np.mean([record["discriminator"] for record in last])
        used = np.mean([record["adversarial_weight"] for record in last])
        print(
            f"| x {faster} | x {stronger} | {evaluated[-1]['psnr']:.2f} dB | {lost[-1]:+.2f} dB | "
            f"{min(lost):+.2f} dB | {loss / UNDECIDED[base.discriminator.loss]:.0%} of a guess | "
            f"{used:.2g} |",
            flush=True,
        )


def only(records, kind):
    """The records of one kind."""
    return [record for record in records if record["kind"] == kind]


def train(arguments, name, *overrides):
    """The records of a run, which is trained unless it is complete."""
    experiment = load_config([arguments.config], [*arguments.set, *overrides])
    workdir = arguments.workdir / name
    run_training(experiment, workdir)
    return list(Run(workdir).read_metrics())


if __name__ == "__main__":
    command_line.run(main)
