"""Exports a run: `python -m vim_tf.export --run runs/x --to out --formats saved_model,tflite,tfjs`.

Each format is compared with Keras on real images before it is published.
"""

import argparse
import sys
from collections.abc import Sequence

from vim_tf import command_line
from vim_tf.config import checks
from vim_tf.data import image_limits
from vim_tf.errors import UserError
from vim_tf.export.release import FOLDERS, check_target

EXIT_NOT_EQUAL = 1  # an export that is not what Keras computes


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command_line.Parser(
        prog="python -m vim_tf.export",
        description="Export a trained run as a SavedModel for TF Serving, for LiteRT and for the "
        "browser. Every export gets a new version number; nothing is overwritten.",
    )
    parser.add_argument(
        "--run", required=True, help="folder of a run of either stage, or its preset_best"
    )
    command_line.add_decoder(parser)
    parser.add_argument(
        "--to", required=True, metavar="DIR", help="a new folder, or the folder of earlier exports"
    )
    parser.add_argument(
        "--formats",
        default="saved_model",
        help=f"one or more of {','.join(FOLDERS)} (default saved_model)",
    )
    command_line.add_overrides(parser, command_line.MOVED_IMAGES)
    parser.add_argument(
        "--embed-block",
        type=int,
        help="block of VIM that embed takes (default: the one that vim_tf.probe chose, or 5/12 of "
        "all)",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        help="most pixels of an encoded image, at most 100 million; larger images are refused "
        "(default: 64 times the pixels of the model's images, at least 33.6 million and at most "
        "100 million)",
    )
    parser.add_argument(
        "--node-modules",
        default="node_modules",
        metavar="DIR",
        help="folder where npm installed @tensorflow/tfjs; only for tfjs (default node_modules)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; raises UserError for a user's mistake."""
    given = parse_arguments(arguments)
    formats = checks.choose("--formats", command_line.split_names(given.formats), list(FOLDERS))
    command_line.check_positive(vars(given), "max_pixels")
    if given.max_pixels is not None and given.max_pixels > image_limits.MOST:
        raise UserError(
            f"--max-pixels is {given.max_pixels}; it must be at most {image_limits.MOST:,}"
        )
    check_target(given.to)

    from vim_tf.export.export_run import NotEqualError, export_model

    try:
        result = export_model(
            given.run,
            given.to,
            decoder=given.decoder,
            formats=formats,
            embed_block=given.embed_block,
            max_pixels=given.max_pixels,
            node_modules=given.node_modules,
            overrides=given.set,
        )
    except NotEqualError as error:
        for failure in error.failures:
            sys.stderr.write(f"error: {failure}\n")
        sys.stderr.write(f"nothing was exported; report: {error.report_dir}\n")
        sys.exit(EXIT_NOT_EQUAL)
    sys.stdout.write(f"{result}\n")


if __name__ == "__main__":
    command_line.run(main)
