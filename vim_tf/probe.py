"""Probes a VIM's features: `python -m vim_tf.probe --run runs/x --blocks all`."""

import argparse
import sys
from collections.abc import Sequence

from vim_tf import command_line
from vim_tf.config import loader
from vim_tf.config.experiments import LinearProbeExperiment
from vim_tf.config.sections import Strategy
from vim_tf.distribution import cluster
from vim_tf.errors import UserError


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command_line.Parser(
        prog="python -m vim_tf.probe",
        description="Fit a linear classifier on the features of every block of a trained VIM, "
        "choose the block on a part of the training images, and test it once.",
    )
    parser.add_argument("--run", help="folder of a VIM run, or its preset_best")
    parser.add_argument("--blocks", help="all (default), or numbers: 0,6,12; 0 is the embeddings")
    parser.add_argument("--head", help="logistic_regression (default) or sgd, for much data")
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="YAML",
        help="a config of experiment linear_probe",
    )
    command_line.add_overrides(
        parser, "override keys of the experiment, or of the run's data if the images have moved: "
        "--set data.path=..."
    )  # fmt: skip
    command_line.add_other_images(parser)
    command_line.add_strategy(parser, Strategy)
    parser.add_argument("--out", metavar="DIR", help="folder for the result (default <run>/probe)")
    parser.set_defaults(strategy=None, cpu_replicas=None)  # None: the config decides
    parsed = parser.parse_args(arguments)
    parsed.command_line = sys.argv[1:] if arguments is None else list(arguments)
    return parsed


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; raises UserError for a user's mistake."""
    options = parse_arguments(arguments)
    moved = [text for text in options.set if text.startswith("data.")]
    overrides = [text for text in options.set if text not in moved]
    for key in ("run", "blocks", "head", "strategy", "cpu_replicas"):
        if getattr(options, key) is not None:
            overrides.append(f"{key}={getattr(options, key)}")
    experiment = loader.load_config(options.config, ["experiment=linear_probe", *overrides])
    if not isinstance(experiment, LinearProbeExperiment):
        raise UserError(
            f"experiment is {experiment.experiment}; vim_tf.probe runs linear_probe alone: leave "
            "out --set experiment, or run vim_tf.train"
        )
    if experiment.run is None:
        raise UserError("--run is missing; name the folder of a trained VIM")

    cluster.announce(experiment.strategy)
    from vim_tf.linear_probe.run import fit_probe

    command = ["python", "-m", "vim_tf.probe", *options.command_line]
    result = fit_probe(experiment, options.out, moved, command, options.other_images)
    sys.stdout.write(str(result) if result else "")


if __name__ == "__main__":
    command_line.run(main)
