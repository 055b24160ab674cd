"""What labels, tokens, features and weights were made from, and whether it is still the same.

`fingerprint` makes a small dict of a data set. Caches, checkpoints, presets and features keep it.
`difference` compares two of them. `FileTable` is the long form, with a row a file. It is kept in a
separate file, and says which contents are known to be unchanged without reading them again.
"""

import hashlib
import io
import itertools
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from etils import epath

from vim_tf.errors import UserError
from vim_tf.files import is_in_bucket, write_atomically
from vim_tf.formats import json_object
from vim_tf.messages import shorten

IMAGES_FILE = "images.npz"  # the tables, in the folder of what was made from the images
CONTENT_BYTES = 16  # of a file's SHA-256; enough that no two files of a data set share them
MOST_FOLDERS = 4_096  # that a fingerprint lists one by one
_PART = 2**20  # bytes read at once
_THREADS = 4
_COUNT = {"type": "integer", "minimum": 0}
_HASH = {"type": ["string", "null"], "maxLength": 64}
_FOLDER = {"type": "array", "prefixItems": [_COUNT, _HASH, _HASH], "minItems": 3, "maxItems": 3}
# The JSON Schema of `fingerprint`'s answer.
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

# That of `MadeFrom.describe`'s.
MADE_FROM_SCHEMA = json_object(images=SCHEMA, tokenizer={"type": ["string", "null"]})


class FileTable:
    """The files of a data set: a row each, in the order in which the data set takes them.

    Attributes:
        names: relative paths with forward slashes.
        paths: where the files are now.
        sizes: [n] int64, bytes.
        mtimes: [n] int64, nanoseconds; when a file was last written.
        contents: [n, CONTENT_BYTES] uint8, the start of each file's SHA-256.
        known: [n] bool, whose contents are known.
    """

    def __init__(self, names, paths, sizes, mtimes):
        self.names, self.paths = tuple(names), tuple(paths)
        self.sizes, self.mtimes = np.asarray(sizes, np.int64), np.asarray(mtimes, np.int64)
        self.contents = np.zeros((len(self.names), CONTENT_BYTES), np.uint8)
        self.known = np.zeros(len(self.names), bool)
        self._summary = None  # (number of known contents, what `summary` answered then)

    @classmethod
    def of(cls, names, paths):
        """Returns the table of files, of which only size and time are read."""
        stats = [_stat(path) for path in paths]
        return cls(names, paths, [size for size, _ in stats], [mtime for _, mtime in stats])

    def __len__(self):
        return len(self.names)

    def read_contents(self, stopped=None):
        """Reads the files whose contents are not known yet.

        Files in a bucket are left out: reading them twice costs money. A file that cannot be read
        counts as one of no content.

        Args:
            stopped: a function that says whether to stop early; None never does.
        """
        rows = [row for row in np.flatnonzero(~self.known) if not is_in_bucket(self.paths[row])]

        def read(row):
            if stopped is None or not stopped():
                digest = hash_contents(self.paths[row])
                self.contents[row] = np.frombuffer(digest[:CONTENT_BYTES], np.uint8)
                self.known[row] = True

        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(read, rows, chunksize=64):
                pass

    def recall(self, kept):
        """Takes over what is known of the contents, and reads files with another time again.

        Args:
            kept: the `FileTable` of the same data set that was kept before.

        Returns:
            The name of the first file whose content or size is another one; None if there is none.
            Files that only one of the two has are not looked at.
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

    def select(self, rows):
        """Returns a table of some rows, whose contents are not known."""
        names = [self.names[row] for row in rows]
        paths = [self.paths[row] for row in rows]
        return FileTable(names, paths, self.sizes[rows], self.mtimes[rows])

    def summary(self):
        """Returns the table's part of a fingerprint."""
        known = int(self.known.sum())
        if self._summary is None or self._summary[0] != known:
            self._summary = known, self._summarize()
        return self._summary[1]

    def _summarize(self):
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

    def _hashes(self, start, stop, digits):
        """Hashes of names with sizes, and of contents (None if one is not known)."""
        digest = hashlib.sha256("\0".join(self.names[start:stop]).encode(errors="surrogateescape"))
        digest.update(self.sizes[start:stop].tobytes())
        contents = None
        if self.known[start:stop].all():
            contents = hashlib.sha256(self.contents[start:stop].tobytes()).hexdigest()[:digits]
        return digest.hexdigest()[:digits], contents


# Fingerprints -----------------------------------------------------------------------------------


def fingerprint(class_names, train, validation, tables):
    """Returns the fingerprint of a data set, a dict for JSON; `SCHEMA` describes it.

    Args:
        class_names: name of class i at place i.
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


def difference(then, now):
    """Compares two fingerprints.

    Contents are compared where both know them.

    Returns:
        What differs, in words that follow "made from other images: "; None if nothing does.
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


def made_from_other_images(path, found, advice):
    """Returns the UserError for something made from other images; `found` says what differs."""
    return UserError(f"{path} was made from other images: {found}; {advice}")


def _first_class(then, now):
    for before, after in itertools.zip_longest(then, now):
        if before != after:
            if len(then) == len(now):
                return f"{before}/ then, {after}/ now"
            return f"{before if after is None or before not in now else after}/"
    return None


def _first_folder(then, now):
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


def hash_contents(path):
    """Returns the SHA-256 of a file's bytes; that of nothing for a file that cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            while part := file.read(_PART):
                digest.update(part)
    except OSError:
        return hashlib.sha256().digest()
    return digest.digest()


def save(folder, tables):
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


def load(folder):
    """Reads what `save` wrote; the tables do not know where the files are.

    Returns:
        {config key: `FileTable`}; {} if there is no such file, or if it is damaged.
    """
    try:
        file = io.BytesIO((epath.Path(folder) / IMAGES_FILE).read_bytes())
        with zipfile.ZipFile(file) as archive:
            # Nothing is compressed, so that no more is read than lies there.
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                return {}
        with np.load(file) as arrays:
            keys = {name.rpartition(".")[0] for name in arrays}
            return {key: _load_table(arrays, key) for key in sorted(keys)}
    except Exception:  # zipfile and NumPy raise whatever comes up on damaged archives
        return {}


def _load_table(arrays, key):
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


def common_folder(paths):
    """Returns (the folder that holds all paths, their names relative to it)."""
    prefix = os.path.commonprefix([str(path) for path in paths])
    folder = prefix[: prefix.rfind("/") + 1]
    return folder, [str(path)[len(folder) :] for path in paths]


def _stat(path):
    """(Bytes, nanoseconds of the last change) of a file."""
    if is_in_bucket(path):
        found = epath.Path(path).stat()
        return found.length, int(found.mtime) * 10**9
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns
