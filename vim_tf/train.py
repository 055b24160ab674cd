"""Runs the training of a config: `python -m vim_tf.train --config configs/emoji/vit_vqgan.yaml`.

Running the same command again resumes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vim_tf import command_line, stopping
from vim_tf.config import loader
from vim_tf.config.experiments import Experiment, LinearProbeExperiment
from vim_tf.distribution import cluster
from vim_tf.errors import UserError
from vim_tf.runs.continuation import open_runs
from vim_tf.runs.run import find_tokenizer_config
from vim_tf.stages import registry


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command_line.Parser(
        prog="python -m vim_tf.train",
        description="Train the image tokenizer, VIM, a classifier or a linear probe. The same "
        "command again resumes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="config keys:\n" + loader.config_help(),
    )
    parser.add_argument(
        "--config", action="append", required=True, metavar="YAML", help="keys of later files win"
    )
    command_line.add_overrides(
        parser, "override single keys, for example --set data.batch_size=64 seed=1"
    )
    parser.add_argument(
        "--workdir", help="the run's folder; runs/<name of the config> if not given"
    )
    parser.add_argument(
        "--continue-as",
        metavar="FOLDER",
        help="go on from the last checkpoint of --workdir in this new folder, with a config that "
        "may differ; --workdir stays as it is",
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="the same as --set training.deterministic=true: two runs are equal bit for bit",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--print-config", action="store_true", help="print the resolved config and stop"
    )
    mode.add_argument(
        "--list-classes",
        action="store_true",
        help="open the data, print the names of its classes, one a line, and stop; nothing is "
        "printed for images without labels",
    )
    mode.add_argument(
        "--describe",
        action="store_true",
        help="run one synthetic batch and print shape, parameters and time of each part",
    )
    mode.add_argument(
        "--dry-run",
        action="store_true",
        help="try everything once in a temporary folder: data, memory table, a step, a save, "
        "a load, a sample",
    )
    hardware = parser.add_argument_group(
        "other hardware", "with --dry-run: predict memory and time of a step; nothing is run"
    )
    hardware.add_argument("--flops", type=float, help="FLOP/s of one device, such as 312e12")
    hardware.add_argument(
        "--bandwidth", type=float, help="bytes per second of its memory, such as 2e12"
    )
    hardware.add_argument("--devices", type=int, default=1, help="number of devices (default 1)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; raises UserError for a user's mistake."""
    parsed = parse_arguments(arguments)
    if parsed.print_config or parsed.describe or parsed.dry_run:
        stopping.starts_again()
    if parsed.deterministic:
        parsed.set = [*parsed.set, "training.deterministic=true"]
    experiment = loader.load_config(parsed.config, parsed.set)
    if parsed.print_config:
        sys.stdout.write(loader.to_yaml(experiment))
        return
    if parsed.flops is not None or parsed.bandwidth is not None:
        _predict(experiment, parsed)
        return
    if isinstance(experiment, LinearProbeExperiment):
        _probe(experiment, parsed)
        return
    if parsed.list_classes:
        from vim_tf.data.images import make_image_dataset

        data = make_image_dataset(experiment.data, experiment.seed)
        sys.stdout.write("".join(f"{name}\n" for name in data.class_names))
        return
    if parsed.describe:
        from vim_tf.stages.describe import describe

        describe(experiment)
        return
    if parsed.dry_run:
        from vim_tf.stages.dry_run import dry_run

        dry_run(experiment)
        return
    workdir = parsed.workdir or _default_workdir(parsed.config[-1])
    cluster.announce(experiment.training.strategy)
    run, _ = open_runs(experiment, workdir, parsed.continue_as)
    run.check(experiment)
    from vim_tf.stages.training import run_training

    results = run_training(experiment, workdir, continue_as=parsed.continue_as)
    if results:  # empty on a worker that is not the chief
        summary = ", ".join(f"{name} {value:.4g}" for name, value in results.items())
        sys.stdout.write(f"done: {summary}\nimages: {run.image_dir}\npreset: {run.preset_dir}\n")


def _predict(experiment: Experiment, arguments: argparse.Namespace) -> None:
    from vim_tf.costs.step_time import predict

    if not arguments.dry_run or None in (arguments.flops, arguments.bandwidth):
        raise UserError("--dry-run, --flops and --bandwidth go together, to predict a training")
    count_step = registry.kind_of(experiment).count_step
    if count_step is None:
        raise UserError(f"steps of experiment {experiment.experiment} cannot be predicted")
    assert not isinstance(experiment, LinearProbeExperiment)  # kind_of refused it
    hardware = arguments.flops, arguments.bandwidth, arguments.devices
    found = predict(experiment, count_step, *hardware, find_tokenizer_config(experiment))
    sys.stdout.write(f"{found.format()}\n")


def _probe(experiment: LinearProbeExperiment, arguments: argparse.Namespace) -> None:
    """Fits a probe as `python -m vim_tf.probe --config` does: without steps."""
    for name in ("list_classes", "describe", "dry_run"):
        if getattr(arguments, name):
            raise UserError(
                f"--{name.replace('_', '-')} is for trainings, and experiment linear_probe is "
                "none; leave it out"
            )
    cluster.announce(experiment.strategy)
    from vim_tf.linear_probe.run import fit_probe

    out = arguments.workdir or _default_workdir(arguments.config[-1])
    result = fit_probe(experiment, out, command=["python", "-m", "vim_tf.train", *sys.argv[1:]])
    sys.stdout.write(str(result) if result else "")


def _default_workdir(config: str) -> Path:
    path = Path(config)
    return Path("runs") / (f"{path.parent.name}_{path.stem}" if path.parent.name else path.stem)


if __name__ == "__main__":
    command_line.run(main)
