"""A folder of images: the first level of sub-folders names the classes.

Opening reads the header of every file. If the images, reduced to a little more than training needs,
fit into memory, each is decoded once. That also finds every broken file, and training never reads
the disk again.
"""

import itertools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from vim_tf.annotations import StrPath, Tensor
from vim_tf.config.sections import DataConfig
from vim_tf.data import (
    class_names,
    copies,
    decoded_cache,
    decoding,
    held_out,
    image_headers,
    image_limits,
    left_out,
    progress,
    splits,
    transforms,
)
from vim_tf.data.image_formats import EXTENSIONS
from vim_tf.data.left_out import LeftOut
from vim_tf.data.sources import folder_listing
from vim_tf.errors import UserError
from vim_tf.fingerprints import FileTable
from vim_tf.messages import shorten

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

    def paths(self) -> list[str]:
        """Returns the path of each image."""
        return [os.path.join(self.root, name) for name in self.names]

    def table(self) -> FileTable:
        """Returns the `FileTable` of the images."""
        return FileTable.of(self.names, self.paths())

    def classes(self) -> tuple[str, ...]:
        """Returns the names of the classes, in natural order; () without sub-folders."""
        found = {_class_of(name) for name in self.names}
        return () if found <= {LOOSE} else class_names.natural_order(found)

    def labels(self, names: Sequence[str]) -> np.ndarray:
        """Returns [n] int32, the index in `names` of each image's class; 0 without classes."""
        number = {name: label for label, name in enumerate(names)}
        return np.array([number.get(_class_of(name), 0) for name in self.names], np.int32)


def make_splits(config: DataConfig) -> splits.Opened:
    """Opens a folder, and prints what is left out, and which images are copies.

    Args:
        config: reads `path`, `validation_path`, `validation_fraction`, `on_error`, `min_side`,
            `max_aspect`, `cache`, `convert_profiles`, `image_size` and `augmentation`.

    Raises:
        UserError: no folder, no images, a broken image unless `on_error` is skip, or a
            validation folder with other classes.
    """
    assert config.path is not None  # DataConfig checks it
    omitted = LeftOut()
    folder = open_folder(config.path, "data.path", config, omitted)
    names, tables, validation = folder.classes(), {"path": folder.table()}, None
    if config.validation_path is not None:
        validation = open_folder(config.validation_path, "data.validation_path", config, omitted)
        tables["validation_path"] = validation.table()
    for part in (folder, validation):
        if part is not None:
            omitted.add_lost_folders(part.root, part.names)
    progress.say(omitted.line())
    first = copies.find_first(list(tables.values()))
    classes = folder.labels(names)
    if validation is not None:
        different = set(names) ^ set(validation.classes())
        if different:
            raise UserError(
                f"data.validation_path {shorten(str(config.validation_path))} must have the "
                f"sub-folders of data.path {shorten(config.path)}; only one of the two has images "
                f"in: {class_names.name_some(sorted(different))}"
            )
        progress.say(copies.describe(first[: len(folder.names)], classes))
        count = int((first[len(folder.names) :] < len(folder.names)).sum())
        if count:
            progress.say(
                f"data: {count:,} of {len(validation.names):,} images of data.validation_path are "
                "copies of training images; figures on them say nothing about new images"
            )
    else:
        line = copies.describe(first, classes)
        progress.say(line and f"{line}; copies stay on one side of the split")
        members, held = held_out.split(
            folder.names,
            classes,
            config.validation_fraction,
            f"data.path {shorten(config.path)}",
            first,
        )
        folder, validation = folder.select(members), folder.select(held)
    if names:
        progress.say(
            class_names.describe_thin(names, folder.labels(names), validation.labels(names))
        )
    train, validation = (_make_split(part, names, config) for part in (folder, validation))
    return splits.Opened(names, train, validation, tables, omitted)


def find_images(root: StrPath, key: str) -> tuple[str, ...]:
    """Returns the sorted paths of image files, see `folder_listing.list_images`.

    Prints what is left out.

    Args:
        root: a folder.
        key: its config key or argument, for errors.

    Raises:
        UserError: there is no such folder, it has no images, or a sub-folder cannot be read.
    """
    omitted = LeftOut()
    names = folder_listing.list_images(root, key, EXTENSIONS, "stop", omitted)
    progress.say(omitted.line())
    return names


def open_folder(path: str, key: str, config: DataConfig, omitted: LeftOut | None = None) -> Folder:
    """Returns the `Folder` at `path`; broken files are refused or left out.

    Args:
        path: the folder.
        key: its config key, for errors.
        config: the section `data` of a config.
        omitted: gets everything that is left out.

    Raises:
        UserError: there is no folder, no readable image, or a broken one and `on_error` is stop.
    """
    root = os.path.expanduser(path)
    omitted = LeftOut() if omitted is None else omitted
    names = folder_listing.list_images(root, key, EXTENSIONS, config.on_error, omitted)
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
    folder = _without(Folder(root, key, names, table), broken, config, omitted)
    folder = _without_extremes(folder, config, omitted)
    profiles = image_headers.describe_profiles(folder.headers[:, 4], folder.names)
    progress.say(profiles and f"data: {profiles}")
    sizes = _reduced_sizes(folder, config)
    held = 3 * int(np.prod(sizes, 1).sum()) <= MEMORY
    if not held and len(folder.names) > CHECKED:
        return folder
    reasons: dict[str, str] = {}

    def decode() -> list[np.ndarray]:
        images, found = _decode_all(folder, sizes, held, config)
        reasons.update(zip(folder.names, found, strict=True))
        return images

    images = decoded_cache.recall_or_make(
        folder.names,
        folder.paths(),
        (folder.headers, sizes),
        sizes if held else np.ones_like(sizes),
        config,
        decode,
    )
    failed = np.array([image.size == 0 for image in images])
    part = folder.select(failed)
    if failed.any() and not reasons:  # the cache does not keep them
        reasons.update(
            zip(part.names, _decode_all(part, sizes[failed], held, config)[1], strict=True)
        )
    broken = {name: reasons[name] for name in part.names}
    folder = replace(folder, images=tuple(images) if held else None)
    return _without(folder, broken, config, omitted)


def _without(
    folder: Folder, broken: Mapping[str, str], config: DataConfig, omitted: LeftOut
) -> Folder:
    if not broken:
        return folder
    first, why = next(iter(broken.items()))
    first, why = shorten(os.path.join(folder.root, first)), shorten(why)
    count = f"{len(broken):,} of {len(folder.names):,} files cannot be read"
    if config.on_error == "stop":
        raise UserError(
            f"image {first} cannot be read: {why} ({count}); remove it, or set data.on_error: skip"
        )
    if len(broken) == len(folder.names):
        root = shorten(folder.root)
        raise UserError(f"{folder.key} is {root}: {count}, the first, {first}: {why}")
    for name, why in broken.items():
        omitted.add(left_out.BROKEN, os.path.join(folder.root, name), why)
    return folder.select(np.array([name not in broken for name in folder.names]))


def _without_extremes(folder: Folder, config: DataConfig, omitted: LeftOut) -> Folder:
    """Leaves out images that are too small or too long to be images of something."""
    short, long = (function(folder.headers[:, :2], axis=1) for function in (np.min, np.max))
    small = short < config.min_side
    too_long = ~small & (long > config.max_aspect * short)
    for rows, kind in ((small, left_out.SMALL), (too_long, left_out.LONG)):
        for row in np.flatnonzero(rows):
            height, width = folder.headers[row, :2]
            path = os.path.join(folder.root, folder.names[row])
            omitted.add(kind, path, f"it has {width} x {height} pixels")
    usable = ~(small | too_long)
    if not usable.any():
        raise UserError(
            f"{folder.key} is {shorten(folder.root)}: none of its {len(usable):,} images is within "
            f"data.min_side {config.min_side} and data.max_aspect {config.max_aspect:g}; "
            f"change these keys, or give other images"
        )
    return folder if usable.all() else folder.select(usable)


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
    decode = _make_decode(folder, config)
    paths = tf.constant([os.fsencode(path) for path in folder.paths()])
    all_sizes = tf.constant(sizes)
    max_pixels = image_limits.pixel_limit(config.image_size)

    def reduce(index: Tensor, data: Tensor) -> Tensor:
        image = decode(index, data)
        if not held:
            return image[:1, :1]
        image = tf.image.resize(image, all_sizes[index], "bicubic", antialias=True)
        return tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), tf.uint8)

    def check(index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        data = tf.io.read_file(paths[index])
        damage = decoding.find_damage(data, max_pixels)
        none = tf.zeros([0, 0, 3], tf.uint8)
        return index, damage, tf.cond(damage == "", lambda: reduce(index, data), lambda: none)

    count = len(folder.names)
    dataset = tf.data.Dataset.range(count).map(check, tf.data.AUTOTUNE).ignore_errors()
    images = [np.zeros([0, 0, 3], np.uint8)] * count
    damage = ["damaged or cut short"] * count
    for index, words, image in progress.report(
        dataset.as_numpy_iterator(), count, "images decoded"
    ):
        images[index], damage[index] = image, words.decode()
    return images, damage


def _make_split(folder: Folder, names: Sequence[str], config: DataConfig) -> splits.IndexedSplit:
    labels = folder.labels(names)
    if folder.images is None:
        paths = tf.constant([os.fsencode(path) for path in folder.paths()])
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
    """Returns index -> (image, label), which reads and decodes the file."""
    paths = tf.constant([os.fsencode(path) for path in folder.paths()])
    labels, decode = tf.constant(labels), _make_decode(folder, config)

    def load(index: Tensor) -> tuple[Tensor, Tensor]:
        return decode(index, tf.io.read_file(paths[index])), labels[index]

    return load


def _make_decode(folder: Folder, config: DataConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns (index, content of the file) -> image, which decodes a JPEG at a reduced size."""
    shrink = folder.headers[:, 0] / _reduced_sizes(folder, config)[:, 0]
    reductions = np.select([shrink >= ratio for ratio in (8, 4, 2)], (8, 4, 2), 1)
    reductions = tf.constant(reductions, tf.int32)
    orientations = tf.constant(folder.headers[:, 2], tf.int32)
    decoders = tf.constant(folder.headers[:, 3], tf.int32)
    max_pixels = image_limits.pixel_limit(config.image_size)

    # Branches that no file needs are left out of the graph.
    all_plain = (folder.headers[:, 3] == image_headers.PLAIN).all()
    some_reduced = (shrink >= 2).any()

    def decode(index: Tensor, data: Tensor) -> Tensor:
        reduction = reductions[index] if some_reduced else 1
        if all_plain:
            image = decoding.decode_image(data, reduction, max_pixels)
        else:
            convert = config.convert_profiles
            image = decoding.decode_as(decoders[index], data, max_pixels, reduction, convert)
        return decoding.orient(image, orientations[index])

    return decode


def _class_of(name: str) -> str:
    return class_names.clean(name.split("/")[0]) if "/" in name else LOOSE
