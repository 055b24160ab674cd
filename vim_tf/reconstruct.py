"""Reconstructs your own images: `python -m vim_tf.reconstruct --run R a.jpg b.png --out x.png`.

Each image is decoded, resized and cropped as in the evaluation during the training, tokenized, and
decoded from its tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vim_tf import command_line
from vim_tf.errors import UserError
from vim_tf.formats import WRITTEN_BY
from vim_tf.messages import shorten

if TYPE_CHECKING:
    from vim_tf.models.vit_vqgan import ViTVQGAN

COLUMNS = 8
SIDE = 128  # pixels, about, of an image in the grid
RESULT_FILE = "reconstruct.json"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command_line.Parser(
        prog="python -m vim_tf.reconstruct",
        description="Turn images into tokens and back with a trained tokenizer. Prints the PSNR of "
        "each image.",
    )
    parser.add_argument("--run", required=True, help="folder of a run or preset of either stage")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="image files, or folders of them"
    )
    parser.add_argument(
        "--out",
        required=True,
        help="a .png file, with originals above their reconstructions; or a folder, for single "
        "images in originals/ and reconstructions/",
    )
    parser.add_argument("--batch-size", type=int, default=16, help="images at once (default 16)")
    parser.add_argument(
        "--zoom",
        type=int,
        help="enlarge images by this factor (default: to about 128 pixels in a grid, and 1 in a "
        "folder)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; raises UserError for a user's mistake."""
    parsed = parse_arguments(arguments)
    command_line.check_positive(vars(parsed), "batch_size", "zoom")
    out, is_folder = command_line.check_png_or_folder(parsed.out)
    for path in map(Path, parsed.images):
        if not path.exists():
            raise UserError(f"{shorten(str(path))} does not exist; give image files or folders")

    from vim_tf.data.sources.folder import find_images
    from vim_tf.drawing import grids
    from vim_tf.evaluation.image_sources import FolderImages

    names = []
    for path in map(Path, parsed.images):
        inside = find_images(str(path), "IMAGE") if path.is_dir() else None
        names += [str(path)] if inside is None else [str(path / name) for name in inside]
    model = _open_tokenizer(parsed.run)
    zoom = parsed.zoom or (1 if is_folder else grids.zoom_to(SIDE, model.image_size))
    shown = (1, 1) if is_folder else (2 * len(names), min(len(names), COLUMNS))
    advice = "lower --zoom or the number of images, or give a folder as --out"
    grids.check_grid_size(*shown, model.image_size, zoom, advice)
    source = FolderImages("", "IMAGE", model.image_size, names)
    originals, reconstructions, psnr = _reconstruct(model, source, parsed.batch_size)
    facts = {
        "written_by": WRITTEN_BY,
        "run": str(parsed.run),
        "models": model.hashes(),
        "images": [
            {"file": name, "psnr": round(float(value), 3)}
            for name, value in zip(names, psnr, strict=True)
        ],
    }
    if is_folder:
        _write_folder(out, names, (originals, reconstructions), zoom, facts)
    else:
        grid = grids.reconstruction_grid(originals, reconstructions, COLUMNS, zoom)
        grids.write_png(out, grid, facts)
    lines = [f"{shorten(name)}: {value:.2f} dB" for name, value in zip(names, psnr, strict=True)]
    mean = f"mean PSNR of {len(names)} images: {np.mean(psnr):.2f} dB"
    sys.stdout.write("\n".join([*lines, *([mean] if len(names) > 1 else []), str(out)]) + "\n")


def _open_tokenizer(run: str) -> ViTVQGAN:
    """Returns the tokenizer of a run or preset of either stage; UserError if there is none."""
    from vim_tf.models.vim import VIM
    from vim_tf.models.vit_vqgan import ViTVQGAN
    from vim_tf.runs.load import load, load_tokenizer_of

    model = load(run)
    if isinstance(model, VIM):
        return load_tokenizer_of(model, run)[0]
    if not isinstance(model, ViTVQGAN):
        raise UserError(
            f"{run} holds a {type(model).__name__}, which reconstructs nothing; give a run of "
            "experiment vit_vqgan or vim"
        )
    return model


def _reconstruct(
    model: ViTVQGAN, source: Any, batch_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (originals, reconstructions, both uint8 [n,H,W,3], PSNR in dB [n])."""
    from vim_tf import losses
    from vim_tf.data.progress import progress_bar
    from vim_tf.data.transforms import normalize, to_uint8

    found = []
    with progress_bar(source.count, "images", "reconstructions") as bar:
        for originals in source.batches(batch_size):
            images = normalize(originals)
            reconstructions = model.decode_tokens(model.tokenize(images))
            psnr = np.asarray(losses.psnr(reconstructions, images))
            found.append((originals, to_uint8(reconstructions), psnr))
            bar.update(len(originals))
    originals, reconstructions, psnr = map(np.concatenate, zip(*found, strict=True))
    return originals, reconstructions, psnr


def _write_folder(
    out: Path,
    names: Sequence[str],
    pairs: tuple[np.ndarray, np.ndarray],
    zoom: int,
    facts: dict[str, Any],
) -> None:
    from vim_tf.drawing import grids
    from vim_tf.files import write_atomically

    digits = len(str(len(names) - 1))
    for kind, images in zip(("originals", "reconstructions"), pairs, strict=True):
        (out / kind).mkdir(parents=True)
        for i, (name, image) in enumerate(zip(names, images, strict=True)):
            own = {**facts, "images": [facts["images"][i]]} if kind != "originals" else None
            file = out / kind / f"{i:0{digits}}_{Path(name).stem}.png"
            grids.write_png(file, grids.enlarge(image, zoom), own)
    write_atomically(out / RESULT_FILE, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    command_line.run(main)
