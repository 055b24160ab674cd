"""Keeps the decoded images of a folder between runs, in the user's cache folder.

A file holds the images of one folder, one size and one way of decoding; its name is a hash of all
that the pixels depend on. Several processes may write and read at once: a file is written
atomically. Nothing here stops a run: whatever is wrong with the cache costs only the time to decode
again.

The file: SHA-256 of the rest (32 bytes); one byte for each image, 1 if it can be decoded; the
pixels of these images, uint8 [h, w, 3], one after the other.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import re
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vim_tf import versions
from vim_tf.annotations import StrPath
from vim_tf.config.sections import DataConfig
from vim_tf.data import progress
from vim_tf.files import cache_folder, write_atomically
from vim_tf.messages import shorten

RULE = 1  # raise it when decoding, reducing or turning images changes, or this file's format
MOST_BYTES = 2**31  # of all files; those that were not used for the longest time are removed
WORTH = 2.0  # seconds; images that are decoded faster are not kept
_DECODERS = ("tensorflow", "pillow", "pillow-heif", "pillow-avif-plugin")
# They do not change the pixels of an image, or only by the arguments of `name_of`.
_WITHOUT_EFFECT = (
    *("source", "path", "name", "split", "label", "validation_split", "validation_path"),
    *("validation_fraction", "batch_size", "on_error", "min_side", "max_aspect", "augmentation"),
    "cache",
)
_HASH = 32  # bytes
_DAY = 86_400  # seconds


def folder() -> Path:
    """Returns the folder of the cache: vim_tf/images in $XDG_CACHE_HOME or ~/.cache."""
    return cache_folder("images")


def recall_or_make(
    names: Sequence[str],
    paths: Sequence[StrPath],
    numbers: Sequence[np.ndarray],
    sizes: np.ndarray,
    config: DataConfig,
    make: Callable[[], list[np.ndarray]],
) -> list[np.ndarray]:
    """Returns images from the cache, or makes them and keeps them there if that took long.

    Args:
        names: the images' names.
        paths: where they are.
        numbers: further arrays that the pixels depend on, such as sizes and orientations.
        sizes: [n, 2] integers, height and width of each image that `make` returns.
        config: the section `data` of a config; `cache` says whether the cache is used.
        make: decodes the images: returns uint8 [h, w, 3] arrays, empty for images that cannot be
            decoded.
    """
    name = name_of(names, paths, (*numbers, sizes), config) if config.cache else None
    images = load(name, sizes) if name else None
    if images is None:
        started = time.monotonic()
        images = make()
        if name and time.monotonic() - started > WORTH:
            save(name, images)
    return images


def name_of(
    names: Sequence[str],
    paths: Sequence[StrPath],
    numbers: Sequence[np.ndarray],
    config: DataConfig,
) -> str | None:
    """Returns the name of the file for some images.

    Args:
        names: the images' names.
        paths: where they are.
        numbers: further arrays that the pixels depend on, such as sizes and orientations.
        config: all keys count except those of `_WITHOUT_EFFECT`.

    Returns:
        The name; None if a file has gone.
    """
    keys = dataclasses.asdict(config)
    about = {
        "rule": RULE,
        "vim_tf": versions.VERSION,
        "decoders": {name: _version(name) for name in _DECODERS},
        "config": {key: keys[key] for key in sorted(keys.keys() - set(_WITHOUT_EFFECT))},
    }
    digest = hashlib.sha256(json.dumps(about).encode())
    digest.update("\0".join(names).encode(errors="surrogateescape"))
    try:
        stats = [os.stat(path) for path in paths]
    except OSError:
        return None
    # The time of the last change of any kind, ctime, cannot be set by a program.
    rows = [(found.st_size, found.st_mtime_ns, found.st_ctime_ns) for found in stats]
    for array in (np.array(rows, np.int64), *numbers):
        digest.update(
            f"{array.shape} {array.dtype}".encode() + np.ascontiguousarray(array).tobytes()
        )
    return f"{digest.hexdigest()}.images"


def load(name: str, sizes: np.ndarray) -> list[np.ndarray] | None:
    """Reads a file of the cache.

    Args:
        name: the result of `name_of`.
        sizes: [n, 2] integers, height and width of each image.

    Returns:
        uint8 [h, w, 3] arrays, [0, 0, 3] for images that cannot be decoded; None if there is no
        such file or it is damaged.
    """
    path = folder() / name
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no regular file")
        with open(path, "rb") as file:
            checksum, flags = file.read(_HASH), file.read(len(sizes))
            readable = np.frombuffer(flags, np.uint8).astype(bool)
            if len(readable) != len(sizes):
                raise ValueError("it is cut short")
            counts = 3 * np.prod(sizes, 1, dtype=np.int64) * readable
            if found.st_size != _HASH + len(sizes) + counts.sum():
                raise ValueError("it has another length")
            pixels = file.read()
        digest = hashlib.sha256(flags)
        digest.update(pixels)
        if digest.digest() != checksum:
            raise ValueError("its checksum is wrong")
        os.utime(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        progress.say(f"data: {shorten(str(path))} is not used: {reason}; images are decoded again")
        return None
    place = shorten(str(path.parent))
    progress.say(f"data: the result of decoding {len(sizes):,} images is read from {place}")
    ends = np.cumsum(counts)
    flat = np.frombuffer(pixels, np.uint8)
    return [
        flat[end - count : end].reshape(*size, 3) if count else np.zeros([0, 0, 3], np.uint8)
        for end, count, size in zip(ends, counts, sizes.tolist(), strict=True)
    ]


def save(name: str, images: Sequence[np.ndarray]) -> None:
    """Writes a file of the cache, after removing old ones.

    Args:
        name: the result of `name_of`.
        images: uint8 [h, w, 3] arrays of the sizes that `load` is called with, empty for images
            that cannot be decoded.
    """
    flags = bytes(int(image.size > 0) for image in images)
    data = b"".join([flags, *(np.ascontiguousarray(image).data for image in images if image.size)])
    place = folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
        _make_room(place, len(data))
        write_atomically(place / name, hashlib.sha256(data).digest() + data)
    except OSError as error:
        progress.say(
            f"data: decoded images cannot be kept in {shorten(str(place))}: {error.strerror}; the "
            "next start decodes them again"
        )
        return
    progress.say(
        f"data: the result of decoding {len(images):,} images is kept in {shorten(str(place))} for "
        f"the next start, {len(data) / 1e6:,.1f} MB; data.cache: false turns this off"
    )


def _make_room(place: Path, size: int) -> None:
    """Removes files until `size` more bytes fit; and what killed processes left."""
    files, now = [], time.time()
    with os.scandir(place) as entries:
        for entry in entries:
            found = entry.stat(follow_symlinks=False)
            if re.fullmatch(r"[0-9a-f]{64}\.images", entry.name):
                files.append((found.st_mtime, found.st_size, entry.path))
            elif re.fullmatch(r"\.[0-9a-f]{64}\.images\..*\.tmp", entry.name):
                if now - found.st_mtime > _DAY:
                    Path(entry.path).unlink(missing_ok=True)
    total, removed = sum(old for _, old, _ in files) + size, 0
    for _, old, path in sorted(files):
        if total <= MOST_BYTES:
            break
        Path(path).unlink(missing_ok=True)
        total, removed = total - old, removed + 1
    if removed:
        progress.say(
            f"data: {shorten(str(place))} holds at most {MOST_BYTES / 1e9:.1f} GB of decoded "
            f"images, so its oldest files are removed ({removed:,})"
        )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
