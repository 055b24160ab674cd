"""Generates pictures: `python -m vim_tf.generate --run runs/x --labels 3,7 --n 16 --out x.png`."""

import argparse
import sys

import numpy as np

from vim_tf import command_line
from vim_tf.errors import UserError


def parse_arguments(arguments=None):
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vim_tf.generate",
        description="Generate pictures with a trained VIM and write them as one PNG grid.",
    )
    parser.add_argument("--run", required=True, help="folder of a VIM run or preset")
    parser.add_argument("--out", required=True, help="the PNG file")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--labels", help="classes by number or name, separated by commas; unconditional if absent"
    )
    which.add_argument("--per-class", type=int, metavar="N", help="one row of N for every class")
    parser.add_argument("--n", type=int, default=16, help="number of pictures (default 16)")
    command_line.add_sampling(parser)
    parser.add_argument(
        "--litert",
        metavar="FILE",
        help="sample by LiteRT, faster for few pictures on a CPU: generator_*.tflite of an export",
    )
    command_line.add_rejection(parser)
    parser.add_argument("--batch-size", type=int, default=64)
    command_line.add_strategy(parser)
    parser.add_argument("--zoom", type=int, default=2, help="size of a pixel (default 2)")
    return parser.parse_args(arguments)


def main(arguments=None):
    """The command line; raises UserError for a user's mistake."""
    arguments = parse_arguments(arguments)
    command_line.check_positive(vars(arguments), "n", "batch_size", "zoom", "per_class")
    command_line.check_replicas(vars(arguments))
    command_line.check_rejection(vars(arguments))
    if arguments.litert is not None and arguments.strategy != "one_device":
        raise UserError(
            f"--litert uses all cores by itself, --strategy {arguments.strategy} cannot share it; "
            "leave one of them out"
        )
    out = command_line.check_new_file(arguments.out, ".png")

    from vim_tf.distribution.strategies import make_strategy
    from vim_tf.drawing import grids

    with make_strategy(arguments.strategy, arguments.cpu_replicas).scope():
        images, names = _generate(arguments)
    if arguments.per_class:
        rows = images.reshape(len(names), arguments.per_class, *images.shape[1:])
        picture = grids.labelled_rows(rows, names, arguments.zoom)
    else:
        columns = int(np.ceil(np.sqrt(len(images))))
        picture = grids.image_grid(images, columns, arguments.zoom)
    grids.write_png(out, picture)
    sys.stdout.write(f"{len(images)} pictures: {out}\n")


def _generate(arguments):
    """Returns the pictures, uint8 [n,H,W,3], and the names of the classes."""
    from vim_tf.generation.image_generator import ImageGenerator

    generator = ImageGenerator.load(arguments.run)
    if arguments.litert is not None:
        generator = generator.with_litert(arguments.litert)
    names = generator.class_names
    if arguments.per_class:
        if not names:
            raise UserError(f"{arguments.run} was trained without labels; leave --per-class out")
        labels = np.repeat(np.arange(len(names)), arguments.per_class)
    elif arguments.labels is not None:
        given = [generator.label_number(label.strip()) for label in arguments.labels.split(",")]
        labels = np.resize(given, arguments.n)  # the classes in turn
    else:
        labels = None
    settings = command_line.sampling_settings(arguments)
    settings |= {"seed": arguments.seed, "batch_size": arguments.batch_size}
    sample = _sample if arguments.reject is None else _sample_and_reject
    return sample(generator, labels, arguments, settings), names


def _sample(generator, labels, arguments, settings):
    from tqdm import tqdm

    total = arguments.n if labels is None else len(labels)
    with tqdm(total=total, unit="img", disable=None) as bar:
        return generator.generate(
            labels, n=total, callback=lambda done, total: bar.update(done - bar.n), **settings
        )


def _sample_and_reject(generator, labels, arguments, settings):
    from vim_tf.evaluation.keras_classifier import open_classifier
    from vim_tf.generation.rejection import accept

    if labels is None:
        raise UserError(
            "--reject keeps samples by the probability of their class; give --labels or --per-class"
        )
    classifier = open_classifier(arguments.reject, "--reject")
    accepted = accept(generator, classifier, labels, arguments.acceptance, **settings)
    sys.stdout.write(f"{accepted}\n")
    return generator.decode(accepted.tokens)


if __name__ == "__main__":
    command_line.run(main)
