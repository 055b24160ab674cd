"""A folder of images: the first level of sub-folders names the classes.

Opening reads the header of every file. If the images, reduced to a little more than training needs,
fit into memory, each is decoded once. That also finds every broken file, and training never reads
the disk again.
"""

import itertools
import os
import pathlib
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf
from absl import logging

from vim_tf.annotations import Tensor
from vim_tf.config.sections import DataConfig
from vim_tf.data import (
    decoding,
    hashing,
    image_headers,
    image_limits,
    progress,
    splits,
    transforms,
)
from vim_tf.data.image_formats import EXTENSIONS
from vim_tf.errors import UserError
from vim_tf.fingerprints import FileTable

MEMORY = 256 * 2**20  # bytes of reduced images that are held in memory
CHECKED = 4096  # up to this many files are decoded once at the start, even if they are not held
LOOSE = "."  # the class of images that are in no sub-folder
_THREADS = 16
_CHUNK = 256  # files whose headers a thread reads at a time


@dataclass(frozen=True)
class Folder:
    """The readable images of a folder.

    Attributes:
        root: the folder.
        key: its config key.
        names: paths relative to the root, with forward slashes, sorted.
        headers: [n, 5] int64, the fields of `image_headers.Header`.
        images: [h, w, 3] uint8 arrays, reduced and turned; None if they are not held in memory.
    """

    root: str
    key: str
    names: tuple[str, ...]
    headers: np.ndarray
    images: tuple[np.ndarray, ...] | None = None

    def select(self, members: np.ndarray) -> "Folder":
        """Returns the folder with only the images for which `members`, [n] bool, is true."""
        images = self.images
        if images is not None:
            images = tuple(itertools.compress(images, members))
        names = tuple(itertools.compress(self.names, members))
        return replace(self, names=names, headers=self.headers[members], images=images)

    def table(self) -> FileTable:
        """Returns the `FileTable` of the images."""
        return FileTable.of(self.names, [os.path.join(self.root, name) for name in self.names])

    def classes(self) -> tuple[str, ...]:
        """Returns the sorted names of the classes; () without sub-folders."""
        found = {_class_of(name) for name in self.names}
        return () if found <= {LOOSE} else tuple(sorted(found))

    def labels(self, class_names: Sequence[str]) -> np.ndarray:
        """Returns [n] int32, the index in `class_names` for each image; 0 without class names."""
        number = {name: label for label, name in enumerate(class_names)}
        return np.array([number.get(_class_of(name), 0) for name in self.names], np.int32)


def make_splits(
    config: DataConfig,
) -> tuple[tuple[str, ...], splits.IndexedSplit, splits.IndexedSplit, dict[str, FileTable]]:
    """Returns (class names, training split, validation split, tables of files) of a folder.

    Args:
        config: reads `path`, `validation_path`, `validation_fraction`, `on_error`, `image_size`,
            `convert_profiles` and `augmentation`.

    Raises:
        UserError: no folder, no images, a broken image unless `on_error` is skip, or a
            validation folder with other classes.
    """
    assert config.path is not None  # DataConfig checks it
    folder = open_folder(config.path, "data.path", config)
    class_names, tables = folder.classes(), {"path": folder.table()}
    if config.validation_path is not None:
        held_out = open_folder(config.validation_path, "data.validation_path", config)
        tables["validation_path"] = held_out.table()
        different = set(class_names) ^ set(held_out.classes())
        if different:
            raise UserError(
                f"data.validation_path {config.validation_path} must have the sub-folders of "
                f"data.path {config.path}; only one of the two has images in: "
                f"{', '.join(sorted(different)[:5])}"
            )
    else:
        # Some file systems write an accent as a separate character; the split must not change.
        names = [unicodedata.normalize("NFC", name) for name in folder.names]
        hashes = hashing.hash_names(tf.constant(names)).numpy()
        threshold = hashing.validation_threshold(
            hashes, config.validation_fraction, f"data.path {config.path}"
        )
        folder, held_out = folder.select(hashes >= threshold), folder.select(hashes < threshold)
    train, validation = (_make_split(part, class_names, config) for part in (folder, held_out))
    return class_names, train, validation, tables


def find_images(root: str, key: str) -> tuple[str, ...]:
    """Returns the sorted paths of image files relative to `root`, with forward slashes.

    Follows links to folders; leaves out hidden files and folders.

    Args:
        root: a folder.
        key: its config key, for errors.

    Raises:
        UserError: there is no such folder, or it has no images.
    """
    if not os.path.isdir(root):
        kind = "is a file" if os.path.exists(root) else "does not exist"
        raise UserError(f"{key} is {root}, which {kind}; give a folder of images")
    found, seen = [], set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder that was already read
            folders.clear()
            continue
        seen.add(real)
        inside = pathlib.Path(folder).relative_to(root).as_posix()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                found.append(name if inside == "." else f"{inside}/{name}")
    if not found:
        raise UserError(
            f"{key} is {root}, and no images are in it; files ending in "
            f"{', '.join(EXTENSIONS)} are read"
        )
    return tuple(sorted(found))


def open_folder(path: str, key: str, config: DataConfig) -> Folder:
    """Returns the `Folder` at `path`; broken files are refused or left out.

    Args:
        path: the folder.
        key: its config key, for errors.
        config: the section `data` of a config.

    Raises:
        UserError: there is no folder, no readable image, or a broken one and `on_error` is stop.
    """
    root = os.path.expanduser(path)
    names = find_images(root, key)
    paths = [os.path.join(root, name) for name in names]
    max_pixels = image_limits.pixel_limit(config.image_size)
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]

    def read(chunk: list[str]) -> list[image_headers.Header | str]:
        convert = config.convert_profiles
        return image_headers.read_headers(chunk, max_pixels, convert_profiles=convert)

    with ThreadPoolExecutor(_THREADS) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about unusual metadata
        results = progress.report(
            itertools.chain.from_iterable(pool.map(read, chunks)),
            len(paths),
            "images checked",
        )
        found = list(results)
    broken = {name: why for name, why in zip(names, found, strict=True) if isinstance(why, str)}
    good = np.array([name not in broken for name in names])
    rows = [header for header in found if not isinstance(header, str)]
    table = np.zeros((len(names), len(image_headers.Header._fields)), np.int64)
    table[good] = np.reshape(rows, (-1, table.shape[1]))
    folder = _without(Folder(root, key, names, table), broken, config)
    about_profiles = image_headers.describe_profiles(folder.headers[:, 4], folder.names)
    if about_profiles:
        logging.warning("%s: %s", root, about_profiles)
    sizes = _reduced_sizes(folder, config)
    held = 3 * int(np.prod(sizes, 1).sum()) <= MEMORY
    if not held and len(folder.names) > CHECKED:
        return folder
    images, damage = _decode_all(folder, sizes, held, config)
    broken = {name: why for name, why in zip(folder.names, damage, strict=True) if why}
    folder = replace(folder, images=tuple(images) if held else None)
    return _without(folder, broken, config)


def _without(folder: Folder, broken: Mapping[str, str], config: DataConfig) -> Folder:
    if not broken:
        return folder
    first, why = next(iter(broken.items()))
    count = f"{len(broken):,} of {len(folder.names):,} files cannot be read"
    if config.on_error == "stop":
        raise UserError(
            f"image {os.path.join(folder.root, first)} cannot be read: {why} ({count}); "
            "remove it, or set data.on_error: skip"
        )
    if len(broken) == len(folder.names):
        raise UserError(f"{folder.key} is {folder.root}: {count}, the first, {first}: {why}")
    logging.warning("%s: %s and are left out; the first, %s: %s", folder.root, count, first, why)
    return folder.select(np.array([name not in broken for name in folder.names]))


def _reduced_sizes(folder: Folder, config: DataConfig) -> np.ndarray:
    """Returns sizes [n, 2]: twice that of evaluation, more if crops need it, at most full size."""
    spare = max(2.0, 1 / transforms.smallest_window(config.augmentation))
    scale = (np.array(config.image_size) / folder.headers[:, :2]).max(1) * spare  # [n]
    scale = np.minimum(scale, 1.0)[:, np.newaxis]
    return np.maximum(np.ceil(folder.headers[:, :2] * scale), 1).astype(np.int32)


def _decode_all(
    folder: Folder, sizes: np.ndarray, held: bool, config: DataConfig
) -> tuple[list[np.ndarray], list[str]]:
    """Decodes every image once; returns (images, what is wrong with each, empty if nothing)."""
    load = _make_load(folder, np.zeros(len(folder.names), np.int32), config)
    paths = tf.constant([os.path.join(folder.root, name) for name in folder.names])
    all_sizes = tf.constant(sizes)
    max_pixels = image_limits.pixel_limit(config.image_size)

    def reduce(index: Tensor) -> Tensor:
        image, _ = load(index)
        if not held:
            return image[:1, :1]
        image = tf.image.resize(image, all_sizes[index], "bicubic", antialias=True)
        return tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), tf.uint8)

    def check(index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        damage = decoding.find_damage(tf.io.read_file(paths[index]), max_pixels)
        none = tf.zeros([0, 0, 3], tf.uint8)
        return index, damage, tf.cond(damage == "", lambda: reduce(index), lambda: none)

    count = len(folder.names)
    dataset = tf.data.Dataset.range(count).map(check, tf.data.AUTOTUNE).ignore_errors()
    images = [np.zeros([0, 0, 3], np.uint8)] * count
    damage = ["damaged or cut short"] * count
    for index, words, image in progress.report(
        dataset.as_numpy_iterator(), count, "images decoded"
    ):
        images[index], damage[index] = image, words.decode()
    return images, damage


def _make_split(
    folder: Folder, class_names: Sequence[str], config: DataConfig
) -> splits.IndexedSplit:
    labels = folder.labels(class_names)
    if folder.images is None:
        paths = tf.constant([os.path.join(folder.root, name) for name in folder.names])
        return splits.IndexedSplit(
            size=len(folder.names),
            load=_make_load(folder, labels, config),
            describe=lambda index: paths[index],
        )
    shapes = np.array([image.shape for image in folder.images])
    if (shapes == shapes[0]).all():
        return splits.make_array_split(tf.constant(np.stack(folder.images)), tf.constant(labels))
    # Images of several sizes are stored one after the other.
    ends = np.cumsum(shapes.prod(1))
    pixels = tf.constant(np.concatenate([image.ravel() for image in folder.images]))
    starts, shapes, labels = (
        tf.constant(ends - shapes.prod(1)),
        tf.constant(shapes),
        tf.constant(labels),
    )

    def load(index: Tensor) -> tuple[Tensor, Tensor]:
        length = tf.reduce_prod(shapes[index])
        image = tf.slice(pixels, [starts[index]], [length])
        image = tf.reshape(image, shapes[index])  # [h * w * 3] -> [h, w, 3]
        return tf.ensure_shape(image, [None, None, 3]), labels[index]

    return splits.IndexedSplit(size=len(folder.names), load=load)


def _make_load(folder: Folder, labels: np.ndarray, config: DataConfig) -> splits.Load:
    """Returns index -> (image, label), which decodes the file, a JPEG at a reduced size."""
    paths = tf.constant([os.path.join(folder.root, name) for name in folder.names])
    shrink = folder.headers[:, 0] / _reduced_sizes(folder, config)[:, 0]
    reductions = np.select([shrink >= ratio for ratio in (8, 4, 2)], (8, 4, 2), 1)
    reductions = tf.constant(reductions, tf.int32)
    orientations = tf.constant(folder.headers[:, 2], tf.int32)
    decoders = tf.constant(folder.headers[:, 3], tf.int32)
    labels = tf.constant(labels)
    max_pixels = image_limits.pixel_limit(config.image_size)

    # Branches that no file needs are left out of the graph.
    all_plain = (folder.headers[:, 3] == image_headers.PLAIN).all()
    some_reduced = (shrink >= 2).any()

    def load(index: Tensor) -> tuple[Tensor, Tensor]:
        data = tf.io.read_file(paths[index])
        reduction = reductions[index] if some_reduced else 1
        if all_plain:
            image = decoding.decode_image(data, reduction, max_pixels)
        else:
            convert = config.convert_profiles
            image = decoding.decode_as(decoders[index], data, max_pixels, reduction, convert)
        return decoding.orient(image, orientations[index]), labels[index]

    return load


def _class_of(name: str) -> str:
    return name.split("/")[0] if "/" in name else LOOSE
