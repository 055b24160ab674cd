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
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--zoom", type=int, default=2, help="size of a pixel (default 2)")
    return parser.parse_args(arguments)


def main(arguments=None):
    """The command line; raises UserError for a user's mistake."""
    arguments = parse_arguments(arguments)
    command_line.check_positive(arguments, "n", "batch_size", "zoom", "per_class")
    out = command_line.check_new_file(arguments.out, ".png")

    from tqdm import tqdm

    from vim_tf import pictures
    from vim_tf.generator import ImageGenerator

    generator = ImageGenerator.load(arguments.run)
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
    total = arguments.n if labels is None else len(labels)
    with tqdm(total=total, unit="img", disable=None) as bar:
        images = generator.generate(
            labels,
            n=total,
            seed=arguments.seed,
            batch_size=arguments.batch_size,
            callback=lambda done, total: bar.update(done - bar.n),
            **command_line.sampling_settings(arguments),
        )
    if arguments.per_class:
        rows = images.reshape(len(names), arguments.per_class, *images.shape[1:])
        picture = pictures.labelled_rows(rows, names, arguments.zoom)
    else:
        columns = int(np.ceil(np.sqrt(total)))
        picture = pictures.image_grid(images, columns, arguments.zoom)
    pictures.write_png(out, picture)
    sys.stdout.write(f"{total} pictures: {out}\n")


if __name__ == "__main__":
    command_line.run(main)
