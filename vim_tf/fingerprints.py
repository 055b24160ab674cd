"""Says which images tokens, features and weights were made from, and whether they have changed.

`fingerprint` makes a small dict of a data set. Caches, checkpoints, presets and features keep it.
`difference` compares two of them. `FileTable` is the long form, with one row per file. It is kept
in a separate file. It says which contents are unchanged, so that they need not be read again.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from vim_tf.annotations import StrPath
from vim_tf.errors import UserError
from vim_tf.files import is_in_bucket, open_regular, write_atomically
from vim_tf.formats import json_object
from vim_tf.messages import shorten

IMAGES_FILE = "images.npz"  # the tables, next to the files that were made from the images
CONTENT_BYTES = 16  # of a file's SHA-256; enough that no two files of a data set share them
MOST_FOLDERS = 4_096  # a fingerprint with more lists none
_PART = 2**20  # bytes read at once
_THREADS = 4
_COUNT = {"type": "integer", "minimum": 0}
_HASH = {"type": ["string", "null"], "maxLength": 64}
_FOLDER = {"type": "array", "prefixItems": [_COUNT, _HASH, _HASH], "minItems": 3, "maxItems": 3}
# The JSON Schema of the result of `fingerprint`.
SCHEMA = json_object(
    class_names={"type": "array", "items": {"type": "string"}},
    train=_COUNT,
    validation=_COUNT,
    files={
        "type": "object",
        "additionalProperties": json_object(
            count=_COUNT,
            names=_HASH,
            contents=_HASH,
            folders={"type": "object", "additionalProperties": _FOLDER},
        ),
    },
)

# The JSON Schema of the result of `MadeFrom.describe`.
MADE_FROM_SCHEMA = json_object(images=SCHEMA, tokens={"type": ["string", "null"]})


class FileTable:
    """The files of a data set, one row each, in the order of the data set.

    Attributes:
        names: relative paths with forward slashes.
        paths: where the files are now.
        sizes: [n] int64, bytes.
        mtimes: [n] int64, nanoseconds; when a file was last written.
        contents: [n, CONTENT_BYTES] uint8, the start of each file's SHA-256.
        known: [n] bool, whether the contents of the file are known.
    """

    def __init__(
        self,
        names: Iterable[str],
        paths: Iterable[StrPath],
        sizes: Sequence[int] | np.ndarray,
        mtimes: Sequence[int] | np.ndarray,
    ) -> None:
        self.names, self.paths = tuple(names), tuple(paths)
        self.sizes, self.mtimes = np.asarray(sizes, np.int64), np.asarray(mtimes, np.int64)
        self.contents = np.zeros((len(self.names), CONTENT_BYTES), np.uint8)
        self.known = np.zeros(len(self.names), bool)
        # (Number of known contents, the result of `summary` at that time).
        self._summary: tuple[int, dict[str, Any]] | None = None

    @classmethod
    def of(cls, names: Iterable[str], paths: Sequence[StrPath]) -> FileTable:
        """Returns the table of files; reads only their sizes and times."""
        stats = [_stat(path) for path in paths]
        return cls(names, paths, [size for size, _ in stats], [mtime for _, mtime in stats])

    def __len__(self) -> int:
        return len(self.names)

    def read_contents(
        self, stopped: Callable[[], bool] | None = None, rows: np.ndarray | None = None
    ) -> None:
        """Reads the files whose contents are not known yet.

        Files in a bucket are left out: reading them twice costs money. A file that cannot be read
        counts as an empty one.

        Args:
            stopped: a function that says whether to stop early; None never does.
            rows: the numbers of the files to read; None reads all.
        """
        wanted = np.arange(len(self)) if rows is None else rows
        unknown = wanted[~self.known[wanted]].tolist()
        unknown = [row for row in unknown if not is_in_bucket(self.paths[row])]

        def read(row: int) -> None:
            if stopped is None or not stopped():
                digest = hash_contents(self.paths[row])
                self.contents[row] = np.frombuffer(digest[:CONTENT_BYTES], np.uint8)
                self.known[row] = True

        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(read, unknown, chunksize=64):
                pass

    def recall(self, kept: FileTable) -> str | None:
        """Takes over the known contents of `kept`; reads files again whose time has changed.

        Args:
            kept: the `FileTable` of the same data set that was kept before.

        Returns:
            The name of the first file whose content or size has changed; None if there is none.
            A file that only one of the two tables has is not looked at.
        """
        if self.names == kept.names:
            ours = theirs = np.arange(len(self))
        else:
            place = {name: row for row, name in enumerate(kept.names)}
            pairs = [(row, place[name]) for row, name in enumerate(self.names) if name in place]
            ours, theirs = np.reshape(np.array(pairs, int), (-1, 2)).T
        resized = self.sizes[ours] != kept.sizes[theirs]
        if resized.any():
            return self.names[ours[np.argmax(resized)]]
        same = (self.mtimes[ours] == kept.mtimes[theirs]) & kept.known[theirs]
        self.contents[ours[same]] = kept.contents[theirs[same]]
        self.known[ours[same]] = True
        touched = ~same & kept.known[theirs]
        again = self.select(ours[touched])
        again.read_contents()
        self.contents[ours[touched]], self.known[ours[touched]] = again.contents, again.known
        changed = again.known & (again.contents != kept.contents[theirs[touched]]).any(1)
        return again.names[np.argmax(changed)] if changed.any() else None

    def select(self, rows: np.ndarray) -> FileTable:
        """Returns a table of some rows, without their contents."""
        names = [self.names[row] for row in rows]
        paths = [self.paths[row] for row in rows]
        return FileTable(names, paths, self.sizes[rows], self.mtimes[rows])

    def summary(self) -> dict[str, Any]:
        """Returns the table's part of a fingerprint."""
        known = int(self.known.sum())
        if self._summary is None or self._summary[0] != known:
            self._summary = known, self._summarize()
        return self._summary[1]

    def _summarize(self) -> dict[str, Any]:
        folders, start = {}, 0
        tops = (name.split("/", 1)[0] if "/" in name else "." for name in self.names)
        for top, run in itertools.groupby(tops):
            stop = start + sum(1 for _ in run)
            folders[f"{top}/"] = (stop - start, *self._hashes(start, stop, 12))
            start = stop
        if len(folders) > MOST_FOLDERS:
            folders = {}
        names, contents = self._hashes(0, len(self), 64)
        return {
            "count": len(self),
            "names": names,
            "contents": contents,
            "folders": {name: list(found) for name, found in folders.items()},
        }

    def _hashes(self, start: int, stop: int, digits: int) -> tuple[str, str | None]:
        """Hash of names and sizes, and hash of contents (None if a content is not known)."""
        digest = hashlib.sha256("\0".join(self.names[start:stop]).encode(errors="surrogateescape"))
        digest.update(self.sizes[start:stop].tobytes())
        contents = None
        if self.known[start:stop].all():
            contents = hashlib.sha256(self.contents[start:stop].tobytes()).hexdigest()[:digits]
        return digest.hexdigest()[:digits], contents


# Fingerprints -----------------------------------------------------------------------------------


def fingerprint(
    class_names: Iterable[str], train: int, validation: int, tables: Mapping[str, FileTable]
) -> dict[str, Any]:
    """Returns the fingerprint of a data set, a dict for JSON; `SCHEMA` describes it.

    Args:
        class_names: the names of the classes, in the order of their numbers.
        train: number of training images.
        validation: number of validation images.
        tables: {config key: `FileTable`} of the files that the images come from.
    """
    return {
        "class_names": list(class_names),
        "train": train,
        "validation": validation,
        "files": {key: table.summary() for key, table in tables.items()},
    }


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Compares two fingerprints.

    Contents are compared if both fingerprints know them.

    Returns:
        The differences, in words that follow "made from other images: "; None if there is none.
    """
    counts = []
    for what, before, after in (
        ("classes", len(then["class_names"]), len(now["class_names"])),
        ("training images", then["train"], now["train"]),
        ("validation images", then["validation"], now["validation"]),
    ):
        if before != after:
            counts.append(f"{before:,} {what} then, {after:,} now")
    first = _first_class(then["class_names"], now["class_names"]) or _first_folder(then, now)
    if first is None and not counts:
        return None
    if not counts:
        counts = ["as many images then as now"]
    return "; ".join([*counts, *([f"first difference {shorten(first)}"] if first else [])])


def made_from_other_images(path: StrPath, found: str, advice: str) -> UserError:
    """Returns the UserError for a file made from other images; `found` is of `difference`."""
    return UserError(f"{path} was made from other images: {found}; {advice}")


def _first_class(then: Sequence[str], now: Sequence[str]) -> str | None:
    """The first class that differs, in words."""
    for before, after in itertools.zip_longest(then, now):
        if before != after:
            if len(then) == len(now):
                return f"{before}/ then, {after}/ now"
            return f"{before if after is None or before not in now else after}/"
    return None


def _first_folder(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first folder whose names, sizes or contents differ, in words."""
    for key in sorted({*then["files"], *now["files"]}):
        before, after = then["files"].get(key), now["files"].get(key)
        if before is None or after is None:
            return f"data.{key}"
        names = before["names"] != after["names"]
        contents = None not in (before["contents"], after["contents"])
        if not names and not (contents and before["contents"] != after["contents"]):
            continue
        for folder in sorted({*before["folders"], *after["folders"]}):
            ours, theirs = after["folders"].get(folder), before["folders"].get(folder)
            if ours is None or theirs is None or ours[:2] != theirs[:2]:
                return folder
            if None not in (ours[2], theirs[2]) and ours[2] != theirs[2]:
                return f"{folder}, by its contents"
        return f"in the {'names' if names else 'contents'} of data.{key}"
    return None


# Files ------------------------------------------------------------------------------------------


def hash_contents(path: StrPath) -> bytes:
    """Returns the SHA-256 of a file's bytes; of no bytes if the file cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            while part := file.read(_PART):
                digest.update(part)
    except OSError:
        return hashlib.sha256().digest()
    return digest.digest()


def save(folder: Path | epath.Path, tables: Mapping[str, FileTable]) -> None:
    """Writes the tables of a data set's files into a folder, for `load`.

    Args:
        folder: an existing folder, on a disk or in a bucket.
        tables: {config key: `FileTable`}.
    """
    arrays, file = {}, io.BytesIO()
    for key, table in tables.items():
        names = "\0".join(table.names).encode(errors="surrogateescape")
        arrays[f"{key}.names"] = np.frombuffer(names, np.uint8)
        for part in ("sizes", "mtimes", "contents", "known"):
            arrays[f"{key}.{part}"] = getattr(table, part)
    np.savez(file, **arrays)
    write_atomically(folder / IMAGES_FILE, file.getvalue())


def load(folder: StrPath) -> dict[str, FileTable]:
    """Reads the tables that `save` wrote; they do not know where the files are now.

    Returns:
        {config key: `FileTable`}; {} if there is no such file, or if it is damaged.
    """
    try:
        with open_regular(epath.Path(folder) / IMAGES_FILE) as opened:
            file = io.BytesIO(opened.read())
        with zipfile.ZipFile(file) as archive:
            # Nothing may be compressed: a small file could expand to a huge one.
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                return {}
        with np.load(file) as arrays:
            keys = {name.rpartition(".")[0] for name in arrays}
            return {key: _load_table(arrays, key) for key in sorted(keys)}
    except Exception:  # zipfile and NumPy raise many kinds for a damaged archive
        return {}


def _load_table(arrays: Mapping[str, np.ndarray], key: str) -> FileTable:
    text = arrays[f"{key}.names"].tobytes().decode(errors="surrogateescape")
    names = text.split("\0") if text else []
    sizes, mtimes = arrays[f"{key}.sizes"], arrays[f"{key}.mtimes"]
    table = FileTable(names, names, sizes, mtimes)
    contents, known = arrays[f"{key}.contents"], arrays[f"{key}.known"]
    if table.sizes.shape != table.mtimes.shape or table.sizes.shape != (len(names),):
        raise ValueError(f"{key}: {len(names)} names, {table.sizes.shape} sizes")
    if contents.shape != table.contents.shape or known.shape != table.known.shape:
        raise ValueError(f"{key}: contents of the shape {contents.shape}")
    table.contents, table.known = contents, known.astype(bool)
    return table


def common_folder(paths: Sequence[StrPath]) -> tuple[str, list[str]]:
    """Returns (the folder that holds all paths, their names relative to it)."""
    prefix = os.path.commonprefix([str(path) for path in paths])
    folder = prefix[: prefix.rfind("/") + 1]
    return folder, [str(path)[len(folder) :] for path in paths]


def _stat(path: StrPath) -> tuple[int, int]:
    """(Bytes, nanoseconds of the last change) of a file."""
    if is_in_bucket(path):
        found = epath.Path(path).stat()
        return found.length, int(found.mtime) * 10**9
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns
