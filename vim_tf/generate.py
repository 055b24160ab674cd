"""Generates images: `python -m vim_tf.generate --run runs/x --labels 3,7 --n 16 --out x.png`."""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vim_tf import command_line
from vim_tf.errors import UserError
from vim_tf.formats import WRITTEN_BY

if TYPE_CHECKING:
    from vim_tf.generation.image_generator import ImageGenerator


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command_line.Parser(
        prog="python -m vim_tf.generate",
        description="Generate images with a trained VIM and write them as one PNG grid, or as "
        "single PNG files into a folder.",
    )
    parser.add_argument("--run", required=True, help="folder of a VIM run or preset")
    command_line.add_decoder(parser)
    parser.add_argument(
        "--out", required=True, help="a .png file for a grid, or a folder for single images"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--labels",
        help="classes by name or number, in turn, separated by commas; a name with a comma in "
        "double quotes; without labels if absent",
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
        "--zoom",
        type=int,
        help="enlarge images by this factor (default 2 in a grid, 1 in a folder)",
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
    out, is_folder = command_line.check_png_or_folder(parsed.out)

    from vim_tf.distribution.strategies import make_strategy
    from vim_tf.generation.image_generator import ImageGenerator

    with make_strategy(parsed.strategy, parsed.cpu_replicas).scope():
        generator = ImageGenerator.load(parsed.run, parsed.decoder)
        labels, n = _choose_labels(generator, parsed)
        write = _write_folder if is_folder else _write_grid
        write(out, generator, labels, n, parsed)
    sys.stdout.write(f"{n} images: {out}\n")


def _choose_labels(
    generator: ImageGenerator, arguments: argparse.Namespace
) -> tuple[list[int] | None, int]:
    """Returns (the number of the class of each image, or None; the number of images)."""
    from vim_tf.generation.labels import label_number, split_labels

    names = generator.class_names
    if arguments.per_class:
        if not names:
            raise UserError(f"{arguments.run} was trained without labels; leave --per-class out")
        labels = np.repeat(np.arange(len(names)), arguments.per_class).tolist()
        return labels, len(labels)
    if arguments.labels is not None:
        given = [label_number(label, names) for label in split_labels(arguments.labels)]
        return [given[i % len(given)] for i in range(arguments.n)], arguments.n
    if arguments.reject is not None:
        raise UserError(
            "--reject keeps samples by the probability of their class; give --labels or --per-class"
        )
    return None, arguments.n


def _generate(
    generator: ImageGenerator, labels: list[int] | None, n: int, arguments: argparse.Namespace
) -> Iterator[np.ndarray]:
    """Yields the images in batches, uint8 [B,H,W,3], with a bar."""
    from vim_tf.data.progress import progress_bar
    from vim_tf.evaluation.keras_classifier import open_classifier
    from vim_tf.generation.image_generator import generate_images

    settings = {"seed": arguments.seed, "batch_size": arguments.batch_size}
    settings |= command_line.sampling_settings(arguments)
    if arguments.reject is not None:  # it keeps the best of all
        classifier = open_classifier(arguments.reject, "reject")
        chosen = {"classifier": classifier, "acceptance": arguments.acceptance}
        chosen |= {"litert": arguments.litert}
        yield generate_images(generator, labels, n=n, **chosen, **settings)
        return
    if arguments.litert is not None:
        generator = generator.with_litert(arguments.litert)
    with progress_bar(n, "images", "samples") as bar:
        for images in generator.generate_batches(labels, n, **settings):
            yield images
            bar.update(len(images))


def _settings(generator: ImageGenerator, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns what an image was made with: run, weights, seed and settings."""
    settings = {
        "written_by": WRITTEN_BY,
        "run": str(arguments.run),
        "models": generator.hashes(),
        "seed": arguments.seed,
        **command_line.sampling_settings(arguments),
    }
    for name in ("decoder", "litert", "reject", "acceptance"):
        if getattr(arguments, name) is not None:
            settings[name] = getattr(arguments, name)
    return settings


def _write_grid(
    out: Path,
    generator: ImageGenerator,
    labels: list[int] | None,
    n: int,
    arguments: argparse.Namespace,
) -> None:
    from vim_tf.drawing import grids

    columns, zoom = arguments.per_class or math.ceil(math.sqrt(n)), arguments.zoom or 2
    advice = "lower --zoom or the number of images, or give a folder as --out"
    grids.check_grid_size(n, columns, generator.tokenizer.image_size, zoom, advice)
    images = np.concatenate(list(_generate(generator, labels, n, arguments)))
    if arguments.per_class:
        names = generator.class_names
        rows = images.reshape(len(names), arguments.per_class, *images.shape[1:])
        image = grids.labelled_rows(rows, names, zoom)
    else:
        image = grids.image_grid(images, columns, zoom)
    facts = _settings(generator, arguments) | {"n": n, "labels": labels}
    if labels is not None:
        facts["class_names"] = {label: generator.class_names[label] for label in sorted({*labels})}
    grids.write_png(out, image, facts)


def _write_folder(
    out: Path,
    generator: ImageGenerator,
    labels: list[int] | None,
    n: int,
    arguments: argparse.Namespace,
) -> None:
    from vim_tf.drawing import grids
    from vim_tf.drawing.sample_files import write_samples

    zoom = arguments.zoom or 1
    grids.check_grid_size(1, 1, generator.tokenizer.image_size, zoom, "lower --zoom")
    batches = _generate(generator, labels, n, arguments)
    first = next(batches)  # a wrong setting is refused before the folder is made
    out.mkdir(parents=True, exist_ok=True)
    settings = _settings(generator, arguments)
    all_batches = itertools.chain([first], batches)
    write_samples(out, all_batches, labels, generator.class_names, n, settings, zoom)


if __name__ == "__main__":
    command_line.run(main)
