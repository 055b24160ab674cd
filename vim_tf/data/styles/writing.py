"""Writes the data set: TFRecord files of each split, styles.json and LICENSES.txt."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from vim_tf import formats
from vim_tf.data.styles.npm import Package
from vim_tf.data.styles.sets import DrawingSet
from vim_tf.data.styles.table import LABELS, SPLITS, Row, Table

ABOUT, LICENCES = "styles.json", "LICENSES.txt"
RECORDS_PER_FILE = 10_000
_COUNTS = {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}}
_COUNTS_BY_CLASS = {"type": "object", "additionalProperties": _COUNTS}
_TEXTS = {"type": "array", "items": {"type": "string"}}
# The JSON Schema of styles.json.
SCHEMA = formats.json_object(
    size={"type": "integer", "minimum": 1},
    packages={"type": "object", "additionalProperties": {"type": "string"}},
    sets={"type": "array", "items": {"type": "object"}},
    classes=formats.json_object(**dict.fromkeys(LABELS, _TEXTS)),
    concepts={"type": "integer"},
    merged_concepts={"type": "integer"},
    images=formats.json_object(**dict.fromkeys(SPLITS, {"type": "integer", "minimum": 0})),
    files=formats.json_object(**dict.fromkeys(SPLITS, {"type": "integer", "minimum": 0})),
    images_by_style=_COUNTS_BY_CLASS,
    images_by_group=_COUNTS_BY_CLASS,
    failures=_TEXTS,
)


def write(
    folder: Path,
    table: Table,
    size: int,
    drawing_sets: Sequence[DrawingSet],
    packages: Iterable[Package],
) -> dict[str, Any]:
    """Writes the data set into an empty folder; the same arguments give the same bytes.

    Args:
        folder: an existing folder.
        table: the images.
        size: their height and width.
        drawing_sets: the sets that they are from.
        packages: the packages that these are from.

    Returns:
        The content of styles.json, which `SCHEMA` describes.
    """
    packages = sorted(packages, key=lambda package: package.name)
    classes = {key: table.class_names(key) for key in LABELS}
    files = {
        split: _write_split(
            folder, split, [row for row in table.rows if row.split == split], classes
        )
        for split in SPLITS
    }
    about = {
        "size": size,
        "packages": {package.name: package.version for package in packages},
        "sets": [_describe(drawn, table) for drawn in drawing_sets],
        "classes": classes,
        "concepts": len({row.meaning.concept for row in table.rows}),
        "merged_concepts": table.merged,
        "images": {split: _count(table.rows, split) for split in SPLITS},
        "files": files,
        "images_by_style": _count_by_class(table.rows, "style"),
        "images_by_group": _count_by_class(table.rows, "group"),
        "failures": table.failures,
    }
    (folder / ABOUT).write_text(formats.to_json("styles", about))
    (folder / LICENCES).write_text(_credits(drawing_sets, packages))
    return about


def file_names(split: str, files: int) -> list[str]:
    """Returns the names of the TFRecord files of a split."""
    return [f"{split}-{number:05d}-of-{files:05d}.tfrecord" for number in range(files)]


def _write_split(
    folder: Path, split: str, rows: Sequence[Row], classes: Mapping[str, Sequence[str]]
) -> int:
    """Writes rows in the order of a hash, so that each file has every class; returns the files."""
    rows = sorted(rows, key=lambda row: hashlib.sha256(_file_name(row).encode()).digest())
    numbers = {key: {name: place for place, name in enumerate(classes[key])} for key in LABELS}
    files = math.ceil(len(rows) / RECORDS_PER_FILE)
    for number, name in enumerate(file_names(split, files)):
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for row in rows[number * len(rows) // files : (number + 1) * len(rows) // files]:
                writer.write(_example(row, numbers))
    return files


def _example(row: Row, numbers: Mapping[str, Mapping[str, int]]) -> bytes:
    meaning = row.meaning
    texts = {
        "image/filename": [_file_name(row)],
        "concept": [meaning.concept],
        "family": [row.family],
        "style": [row.style],
        "name": [meaning.name],
        "keywords": meaning.keywords,
        "licence": [row.licence],
    }
    if meaning.code:
        texts["code"] = [meaning.code]
    labels = {"style/label": numbers["style"][row.style]}
    if numbers["group"]:
        texts["group"] = texts["image/class/text"] = [meaning.group]
        labels["image/class/label"] = numbers["group"][meaning.group]
        labels["group_and_style/label"] = numbers["group_and_style"][row.label("group_and_style")]
    features = {"image/encoded": _texts([row.png])}
    features |= {key: _texts([text.encode() for text in values]) for key, values in texts.items()}
    for key, label in labels.items():
        features[key] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def _texts(values: Sequence[bytes]) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def _file_name(row: Row) -> str:
    return f"{row.style}/{row.meaning.name}-{row.meaning.code}.png"


def _describe(drawn: DrawingSet, table: Table) -> dict[str, Any]:
    return {
        "style": drawn.style,
        "family": drawn.family,
        "title": drawn.title,
        "author": drawn.author,
        "licence": drawn.licence,
        "images": sum(row.style == drawn.style for row in table.rows),
        "left_out": {key: count for key, count in sorted(table.left_out[drawn.style].items())},
    }


def _count(rows: Iterable[Row], split: str) -> int:
    return sum(row.split == split for row in rows)


def _count_by_class(rows: Iterable[Row], key: str) -> dict[str, dict[str, int]]:
    """{class: {split: images}}."""
    counts = Counter((row.label(key), row.split) for row in rows)
    names = sorted({name for name, _ in counts if name})
    return {name: {split: counts[name, split] for split in SPLITS} for name in names}


def _credits(drawing_sets: Sequence[DrawingSet], packages: Sequence[Package]) -> str:
    lines = [
        "The images of this folder were rendered from these sets, and not changed otherwise.",
        "",
    ]
    for drawn in drawing_sets:
        lines += [
            f"{drawn.style}: {drawn.title}, by {drawn.author} ({drawn.author_url})",
            f"    licence {drawn.licence}: {drawn.licence_url}",
        ]
    for package in packages:
        lines += ["", f"From the npm package {package.name} {package.version}."]
        for name, data in package.read(_is_licence).items():
            lines += ["", f"{package.name}, {name}:", "", data.decode(errors="replace").strip()]
    return "\n".join(lines) + "\n"


def _is_licence(name: str) -> bool:
    stem = name.rpartition("/")[2].lower().partition(".")[0]
    return name.count("/") <= 1 and stem in ("license", "licence", "copying", "notice")
