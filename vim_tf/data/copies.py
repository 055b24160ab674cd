"""Finds files with equal contents.

Files of one size are compared by their first and last bytes, and by all bytes only if these are
equal too. So few files are read as a whole.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vim_tf.annotations import StrPath
from vim_tf.data import progress
from vim_tf.fingerprints import CONTENT_BYTES, FileTable

ENDS = 4096  # bytes at the start and at the end that are compared first
_THREADS = 16


def find_first(tables: Sequence[FileTable]) -> np.ndarray:
    """Returns for each file the number of the first file with the same bytes.

    Files are numbered over all tables. The contents that had to be read are kept in the tables.

    Args:
        tables: files on a disk.

    Returns:
        [n] int64; a file without an earlier copy has its own number.
    """
    sizes = np.concatenate([table.sizes for table in tables])
    paths = [path for table in tables for path in table.paths]
    rows = _repeated(sizes[:, np.newaxis], np.flatnonzero(sizes > 0))
    if len(rows):
        with ThreadPoolExecutor(_THREADS) as pool:
            ends = pool.map(lambda row: _hash_ends(paths[row], int(sizes[row])), rows)
            ends = list(progress.report(ends, len(rows), "files of equal sizes compared"))
        ends = np.concatenate([_words(np.stack(ends)), sizes[rows, np.newaxis]], 1)
        rows = rows[_repeated(ends, np.arange(len(rows)))]
    start, contents = 0, np.zeros((len(sizes), CONTENT_BYTES), np.uint8)
    for table in tables:
        own = rows[(rows >= start) & (rows < start + len(table))] - start
        table.read_contents(rows=own)
        contents[start + own] = table.contents[own]
        start += len(table)
    keys = np.concatenate([_words(contents[rows]), sizes[rows, np.newaxis]], 1)
    first = np.arange(len(sizes))
    if len(rows):
        _, places, groups = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        first[rows] = rows[places[groups.ravel()]]
    return first


def describe(first: np.ndarray, labels: np.ndarray) -> str | None:
    """Returns the line that counts copies; None if there are none.

    Args:
        first: the result of `find_first`.
        labels: [n] integers, the class of each file.
    """
    rows = np.flatnonzero(first != np.arange(len(first)))
    if not len(rows):
        return None
    several = f"{len(rows):,} images are copies of others"
    line = "1 image is a copy of another" if len(rows) == 1 else several
    elsewhere = int((labels[rows] != labels[first[rows]]).sum())
    return f"data: {line}" + (f", {elsewhere:,} of them in another class" if elsewhere else "")


def _repeated(keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns those of `rows` whose keys [n, k] occur in another of them."""
    if not len(rows):
        return rows
    _, groups, counts = np.unique(keys[rows], axis=0, return_inverse=True, return_counts=True)
    return rows[counts[groups.ravel()] > 1]


def _words(digests: np.ndarray) -> np.ndarray:
    """[n, 16] uint8 -> [n, 2] int64."""
    return np.ascontiguousarray(digests).view(np.int64)


def _hash_ends(path: StrPath, size: int) -> np.ndarray:
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            digest.update(file.read(ENDS))
            file.seek(max(ENDS, size - ENDS), os.SEEK_SET)
            digest.update(file.read(ENDS))
    except OSError:  # the file has gone; it is a copy of none
        digest.update(os.fsencode(path))
    return np.frombuffer(digest.digest()[:CONTENT_BYTES], np.uint8)
