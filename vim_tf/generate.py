"""Generates images: `python -m vim_tf.generate --run runs/x --labels 3,7 --n 16 --out x.png`."""

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from vim_tf import command_line
from vim_tf.errors import UserError


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vim_tf.generate",
        description="Generate images with a trained VIM and write them as one PNG grid.",
    )
    parser.add_argument("--run", required=True, help="folder of a VIM run or preset")
    parser.add_argument("--out", required=True, help="the PNG file")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--labels", help="classes by number or name, separated by commas; unconditional if absent"
    )
    which.add_argument(
        "--per-class", type=int, metavar="N", help="one row of N images for every class"
    )
    parser.add_argument("--n", type=int, default=16, help="number of images (default 16)")
    command_line.add_sampling(parser)
    parser.add_argument(
        "--litert",
        metavar="FILE",
        help="sample with LiteRT, faster for few images on a CPU: generator_*.tflite of an export",
    )
    command_line.add_rejection(parser)
    parser.add_argument("--batch-size", type=int, default=64)
    command_line.add_strategy(parser)
    parser.add_argument(
        "--zoom", type=int, default=2, help="enlarge images by this factor (default 2)"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; raises UserError for a user's mistake."""
    parsed = parse_arguments(arguments)
    command_line.check_positive(vars(parsed), "n", "batch_size", "zoom", "per_class")
    command_line.check_replicas(vars(parsed))
    command_line.check_rejection(vars(parsed))
    if parsed.litert is not None and parsed.strategy != "one_device":
        raise UserError(
            f"--litert uses all cores itself, so --strategy {parsed.strategy} cannot share it; "
            "leave one of them out"
        )
    out = command_line.check_new_file(parsed.out, ".png")

    from vim_tf.distribution.strategies import make_strategy
    from vim_tf.drawing import grids

    with make_strategy(parsed.strategy, parsed.cpu_replicas).scope():
        images, names = _generate(parsed)
    if parsed.per_class:
        rows = images.reshape(len(names), parsed.per_class, *images.shape[1:])
        image = grids.labelled_rows(rows, names, parsed.zoom)
    else:
        columns = int(np.ceil(np.sqrt(len(images))))
        image = grids.image_grid(images, columns, parsed.zoom)
    grids.write_png(out, image)
    sys.stdout.write(f"{len(images)} images: {out}\n")


def _generate(arguments: argparse.Namespace) -> tuple[np.ndarray, Sequence[str]]:
    """Returns the images, uint8 [n,H,W,3], and the names of the classes."""
    from tqdm import tqdm

    from vim_tf.evaluation.keras_classifier import open_classifier
    from vim_tf.generation.image_generator import ImageGenerator, generate_images
    from vim_tf.generation.labels import split_labels

    generator = ImageGenerator.load(arguments.run)
    names, labels, n = generator.class_names, None, arguments.n
    if arguments.per_class:
        if not names:
            raise UserError(f"{arguments.run} was trained without labels; leave --per-class out")
        labels = np.repeat(np.arange(len(names)), arguments.per_class)
        n = len(labels)
    elif arguments.labels is not None:
        labels = split_labels(arguments.labels)
    classifier = None
    if arguments.reject is not None:
        if labels is None:
            raise UserError(
                "--reject keeps samples by the probability of their class; give --labels or "
                "--per-class"
            )
        classifier = open_classifier(arguments.reject, "reject")
    with tqdm(total=n, unit="img", disable=True if classifier else None) as bar:
        images = generate_images(
            generator,
            labels,
            n=n,
            seed=arguments.seed,
            litert=arguments.litert,
            classifier=classifier,
            acceptance=arguments.acceptance,
            batch_size=arguments.batch_size,
            callback=lambda done, total: bar.update(done - bar.n),
            **command_line.sampling_settings(arguments),
        )
    return images, names


if __name__ == "__main__":
    command_line.run(main)
