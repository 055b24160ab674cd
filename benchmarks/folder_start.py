"""Measures how long opening a folder of large PNG files takes, with and without the cache.

    python benchmarks/folder_start.py

The files have the detail of photographs and are written for this, into a temporary folder, where
the cache is too. With images of 64 px the reduced images fit into memory, and the cache holds
their pixels. With 256 px they do not fit, and the cache holds only whether each can be decoded.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from vim_tf import command_line
from vim_tf.config.sections import DataConfig
from vim_tf.data.images import make_image_dataset

SIZE = (900, 1200)  # height, width


def main(arguments=None):
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256])
    arguments = parser.parse_args(arguments)
    command_line.check_positive(vars(arguments), "images")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        size = write_images(Path(folder) / "images", arguments.images)
        rows = []
        for side in arguments.sizes:
            seconds = [
                open_folder(f"{folder}/images", side, cache) for cache in (False, True, True)
            ]
            rows.append((side, *seconds))
    print(
        f"{arguments.images:,} PNG files of {SIZE[1]} x {SIZE[0]} pixels, {size / 1e6:.1f} MB "
        "each; seconds\n\n"
        "| `data.image_size` | without the cache | writing it | reading it |\n|---|---:|---:|---:|"
    )
    for side, *seconds in rows:
        print(f"| {side} | {' | '.join(f'{value:.1f}' for value in seconds)} |")


def write_images(folder, count):
    """Writes PNG files; returns their mean size in bytes."""
    folder.mkdir()
    random = np.random.default_rng(0)
    bases = []
    for _ in range(8):
        pixels = np.full((*SIZE, 3), 128.0)
        for side in (4, 16, 64, 200):  # about the same energy in each octave, as in photographs
            coarse = random.normal(0, 60 * side**-0.4, (side, side, 3)) + 128
            resized = Image.fromarray(np.uint8(coarse.clip(0, 255))).resize(SIZE[::-1])
            pixels += np.float64(resized) - 128
        pixels += random.normal(0, 2, pixels.shape)  # the noise of a camera
        bases.append(np.uint8(pixels.clip(0, 255)))
    for number in range(count):
        shift = random.integers(0, SIZE[0], 2)
        pixels = np.roll(bases[number % len(bases)], shift, (0, 1))
        Image.fromarray(pixels).save(folder / f"{number:05}.png", compress_level=1)
    return np.mean([path.stat().st_size for path in folder.iterdir()])


def open_folder(path, side, cache):
    """Returns the seconds that opening the folder takes."""
    config = DataConfig(source="folder", path=path, image_size=(side, side), cache=cache)
    started = time.perf_counter()
    make_image_dataset(config, seed=0)
    return time.perf_counter() - started


if __name__ == "__main__":
    command_line.run(main)
