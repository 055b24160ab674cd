"""Draws images of a run for people: `python -m vim_tf.views --run runs/x --out folder/`.

codes.png: the codes as images; attention.png: where the transformers attend; neighbours.png and
neighbours.json: a VIM's samples next to their nearest training images. See docs/views.md.
"""

import argparse
import sys
from collections.abc import Sequence

from vim_tf import command_line
from vim_tf.annotations import StrPath
from vim_tf.config import checks
from vim_tf.errors import UserError
from vim_tf.runs.run import find_run
from vim_tf.stages import registry

FILES = {
    "codes": ("codes.png",),
    "attention": ("attention.png",),
    "neighbours": ("neighbours.png", "neighbours.json"),
}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command_line.Parser(
        prog="python -m vim_tf.views",
        description="Draw what a run has learnt: its codes, where it attends, and whether its "
        "samples are copies.",
    )
    parser.add_argument(
        "--run", required=True, help="folder of a run of either stage, or its preset_best"
    )
    command_line.add_decoder(parser)
    parser.add_argument("--out", required=True, help="folder for the PNG files")
    parser.add_argument(
        "--views", help=f"one or more of {','.join(FILES)} (default: all that the run has)"
    )
    parser.add_argument(
        "--split",
        choices=("validation", "train"),
        default="validation",
        help="images for codes and attention (default validation)",
    )
    parser.add_argument("--n", type=int, default=64, help="samples for neighbours (default 64)")
    parser.add_argument("--batch-size", type=int, default=64, help="images at once (default 64)")
    command_line.add_sampling(parser)
    command_line.add_overrides(parser, command_line.MOVED_IMAGES)
    command_line.add_other_images(parser)
    return parser.parse_args(arguments)


def choose_views(folder: StrPath, text: str | None) -> Sequence[str]:
    """Returns the views in the text of `--views`; UserError for one that the run does not have."""
    kind = registry.kind_of(find_run(folder)[0].load_experiment())
    name = kind.experiment.experiment
    if not kind.views:
        raise UserError(f"{folder} is a run of experiment {name}, which has no views")
    if text is None:
        return kind.views
    views = checks.choose("--views", command_line.split_names(text), tuple(FILES))
    for view in views:
        if view not in kind.views:
            raise UserError(
                f"--views has {view}, but {folder} is a run of {name}; its views are "
                f"{', '.join(kind.views)}"
            )
    return views


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; raises UserError for a user's mistake."""
    parsed = parse_arguments(arguments)
    command_line.check_positive(vars(parsed), "n", "batch_size")
    views = choose_views(parsed.run, parsed.views)
    names = [name for view in views for name in FILES[view]]
    paths = command_line.check_new_files(parsed.out, names)

    from vim_tf.drawing import grids
    from vim_tf.drawing.attention import view_attention
    from vim_tf.drawing.codes import view_codes
    from vim_tf.drawing.neighbours import view_neighbours
    from vim_tf.evaluation.protocol import write_result
    from vim_tf.runs.trained_run import open_run

    run = open_run(parsed.run, parsed.set, parsed.other_images, parsed.decoder)
    # Sampling comes first, because it refuses settings that are out of range.
    if "neighbours" in views:
        settings = command_line.sampling_settings(parsed)
        image, report = view_neighbours(run, parsed.n, parsed.seed, parsed.batch_size, settings)
        grids.write_png(paths["neighbours.png"], image)
        write_result(paths["neighbours.json"], report)
    if "attention" in views:
        grids.write_png(paths["attention.png"], view_attention(run, parsed.split))
    if "codes" in views:
        image = view_codes(run, parsed.split, parsed.seed, parsed.batch_size)
        grids.write_png(paths["codes.png"], image)
    sys.stdout.write("\n".join(str(paths[name]) for name in names) + "\n")


if __name__ == "__main__":
    command_line.run(main)
