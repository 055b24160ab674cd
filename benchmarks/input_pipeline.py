"""Measures the images and tokens per second that the input pipeline can give to a training.

    python benchmarks/input_pipeline.py

The images are JPEGs of 500 x 400, written for this. They become random crops of 256 px, as in
training, in a new order each epoch. For comparison, the same files are also only decoded. Tokens,
1,024 per image, come from a token cache.
"""

import argparse
import tempfile
from pathlib import Path

import contest
import numpy as np
import tensorflow as tf
from PIL import Image

from vim_tf import command_line
from vim_tf.config.sections import DataConfig
from vim_tf.data.images import make_image_dataset
from vim_tf.data.token_cache import TokenCache
from vim_tf.data.token_cache_writer import write_token_cache
from vim_tf.fingerprints import fingerprint

SIZE, TOKENS, CODES = (400, 500), 1024, 8192  # height, width
BATCH = 64


def main(arguments=None):
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batches", type=int, default=8, help=f"of {BATCH}, a call")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args(arguments)
    command_line.check_positive(vars(arguments), "repeats", "images", "batches")
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        size = write_images(images, arguments.images)
        data = make_image_dataset(
            DataConfig(source="folder", path=str(images), image_size=(256, 256), batch_size=BATCH),
            seed=0,
        )
        sources = {
            "JPEG to a random crop of 256 px": data.train(),
            "the same decoded only": decode_only(images),
            f"{TOKENS} tokens from a cache": make_cache(Path(folder) / "cache").train(0, BATCH),
        }
        items = arguments.batches * BATCH
        timed = [
            contest.Contestant(name, reader(dataset, arguments.batches), items=items)
            for name, dataset in sources.items()
        ]
        crops, decoded, _ = timed
        contest.run(timed, arguments.repeats)
    print(
        f"TensorFlow {tf.__version__}, JPEGs of {size / 1024:.0f} KiB, median of "
        f"{arguments.repeats}\n\n| work | img/s |\n|---|---:|"
    )
    for one in timed:
        print(f"| {one.name} | {one.items_rate:,.0f} |")
    print(f"\ncrops take {crops.time / decoded.time:.2f} times as long as decoding alone")
    print(contest.warning(timed), end="")


def write_images(folder, count):
    """Writes JPEGs with the detail of photographs; returns their mean size in bytes."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = np.full((*SIZE, 3), 128.0)
        for side in (4, 16, 64, 200):  # about the same energy in each octave, as in photographs
            coarse = random.normal(0, 60 * side**-0.4, (side, side, 3)).astype("float32")
            pixels += tf.image.resize(coarse, SIZE, "bicubic").numpy()
        image = Image.fromarray(np.clip(pixels, 0, 255).astype("uint8"))
        image.save(folder / f"{number:05}.jpg", quality=90)
    return np.mean([path.stat().st_size for path in folder.iterdir()])


def decode_only(folder):
    """Endless batches of the number of values in each image."""
    files = tf.data.Dataset.list_files(f"{folder}/*.jpg").repeat()

    def decode(path):
        return tf.size(tf.io.decode_jpeg(tf.io.read_file(path), 3, dct_method="INTEGER_ACCURATE"))

    return files.map(decode, tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE)


def make_cache(folder):
    """Makes a token cache of noise."""
    random = np.random.default_rng(0)

    def make(images):
        return [[(random.integers(0, CODES, (images, TOKENS)), np.zeros(images, "int32"))]]

    header = {
        "token_hash": "",
        "decoder_hash": "",
        "images": fingerprint((), 2048, 2, {}),
        "options": {},
        "grid": [32, 32],
        "codes": CODES,
        "class_names": [],
    }
    splits = {"train": make(2048), "validation": make(2)}
    write_token_cache(folder, splits, header)
    return TokenCache.open(folder, "")


def reader(dataset, batches):
    """A function that reads `batches` batches from the start. Between calls nothing is read."""

    def read():
        for _ in dataset.take(batches):
            pass

    return read


if __name__ == "__main__":
    command_line.run(main)
