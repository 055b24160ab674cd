"""Rebuilds the built-in emoji images from the npm package emoji-datasource-google.

    npm pack emoji-datasource-google@16.0.0
    python -m vim_tf.data.build_emoji emoji-datasource-google-16.0.0.tgz

Reads the archive or the folder it unpacks to, and writes `emoji-00000-of-0000N.tfrecord` into
`sources/emoji` or `--out`. The same archive always gives the same images in the same order.
"""

import hashlib
import io
import json
import pathlib
import sys
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from PIL import Image

from vim_tf import command_line
from vim_tf.annotations import StrPath
from vim_tf.data.class_names import natural_order
from vim_tf.data.styles import concepts, npm
from vim_tf.errors import UserError

SIDE = 32
FILES = 3
_IMAGES = "img/google/64/"


def read_package(path: StrPath) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Returns the package's `emoji.json` and its 64-pixel images.

    Args:
        path: the .tgz archive, or the folder it was unpacked into.

    Returns:
        (entries, images): the parsed list of emoji; file name -> PNG bytes.

    Raises:
        UserError: the path is not this package.
    """
    path = pathlib.Path(path)
    contents: dict[str, bytes] = {}
    if path.is_dir() or (path.is_file() and tarfile.is_tarfile(path)):
        contents = npm.read_files(
            path, lambda name: name == "emoji.json" or name.startswith(_IMAGES)
        )
    images = {
        name.removeprefix(_IMAGES): data
        for name, data in contents.items()
        if name.startswith(_IMAGES)
    }
    if "emoji.json" not in contents or not images:
        raise UserError(
            f"{path} holds no emoji.json and {_IMAGES}*.png; give the archive of the npm "
            "package emoji-datasource-google, or the folder it unpacks to"
        )
    return json.loads(contents["emoji.json"]), images


def shrink(png: bytes) -> Image.Image:
    """Returns the image of `png`, of any mode, on white, at half its size, as RGB."""
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    image = Image.alpha_composite(white, image).convert("RGB")
    # An exact average of whole pixels: no ringing around shapes on the white background.
    return image.reduce((image.width // SIDE, image.height // SIDE))


def make_rows(
    entries: Sequence[Mapping[str, Any]], images: Mapping[str, bytes]
) -> list[dict[str, Any]]:
    """Returns one dict of image, class, code and base for each emoji, in a fixed order.

    Skin-tone variants share their emoji's base. Emoji with equal pixels (a few flags and families)
    also share a base, so that no image can be on both sides of a split by base.
    """
    rows = []
    for entry in sorted(entries, key=lambda entry: entry["unified"]):
        variants = entry.get("skin_variations", {})
        for variant in [entry, *(variants[tone] for tone in sorted(variants))]:
            if variant["image"] not in images:
                continue
            image = shrink(images[variant["image"]])
            rows.append(
                {
                    "image": image,
                    "class": entry["category"],
                    "code": variant["unified"],
                    "base": entry["unified"],
                }
            )
    pixels = [row["image"].tobytes() for row in rows]
    bases = concepts.merge_equal([row["base"] for row in rows], pixels)
    return [{**row, "base": base} for row, base in zip(rows, bases, strict=True)]


def write_records(
    rows: Sequence[Mapping[str, Any]], folder: StrPath, files: int = FILES
) -> list[pathlib.Path]:
    """Writes `rows` into `files` TFRecord files of `folder`; returns their paths.

    Rows are sorted by a hash of their code, so that each file has every class.
    """
    classes = natural_order({row["class"] for row in rows})
    rows = sorted(rows, key=lambda row: hashlib.sha256(row["code"].encode()).digest())
    paths = []
    for number in range(files):
        path = pathlib.Path(folder) / f"emoji-{number:05d}-of-{files:05d}.tfrecord"
        paths.append(path)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for row in rows[number * len(rows) // files : (number + 1) * len(rows) // files]:
                png = io.BytesIO()
                row["image"].save(png, "PNG", optimize=True)
                writer.write(_example(png.getvalue(), classes.index(row["class"]), row))
    return paths


def _example(png: bytes, label: int, row: Mapping[str, Any]) -> bytes:
    def text(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = {
        "image/encoded": text(png),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "image/class/text": text(row["class"].encode()),
        "image/filename": text(row["code"].encode()),
        "emoji/base": text(row["base"].encode()),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = command_line.Parser(
        prog="python -m vim_tf.data.build_emoji",
        description="Rebuilds the built-in emoji images.",
    )
    parser.add_argument("package", help="emoji-datasource-google-16.0.0.tgz, or its folder")
    parser.add_argument(
        "--out",
        default=pathlib.Path(__file__).parent / "sources" / "emoji",
        help="folder for the records",
    )
    options = parser.parse_args(arguments)
    entries, images = read_package(options.package)
    rows = make_rows(entries, images)
    pathlib.Path(options.out).mkdir(parents=True, exist_ok=True)
    for path in write_records(rows, options.out):
        sys.stdout.write(f"{path}: {path.stat().st_size:,} bytes\n")
    bases = len({row["base"] for row in rows})
    sys.stdout.write(f"{len(rows):,} images of {bases:,} emoji\n")


if __name__ == "__main__":
    command_line.run(main)
