"""Reads arrays from .npz files of strangers: every size is checked before the array is read."""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
from collections.abc import Iterator
from typing import IO

import numpy as np

from vim_tf.annotations import StrPath
from vim_tf.errors import UserError
from vim_tf.messages import reason_of, shorten

MOST_TEXT = 1_000  # characters


@contextlib.contextmanager
def open_npz(path: StrPath, name: StrPath, needs: str) -> Iterator[NpzFile]:
    """Opens an .npz, and turns every error about it into one line.

    Args:
        path: the file.
        name: the name of the file in errors.
        needs: a sentence about the file that is needed, for errors.

    Yields:
        An `NpzFile`.

    Raises:
        UserError: no regular file, no .npz, or a damaged one; also while the file is read.
    """
    if not os.path.isfile(path):
        raise UserError(f"{name} does not exist, or is no regular file; {needs}")
    try:
        with zipfile.ZipFile(path) as archive:
            yield NpzFile(archive)
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds for a damaged file
        raise UserError(
            f"{name} is no .npz that can be read ({reason_of(error)}); {needs}"
        ) from None


class NpzFile:
    """An open .npz; a wrong file raises ValueError or the errors of zipfile.

    Args:
        archive: a `zipfile.ZipFile`.

    Attributes:
        names: the names of its arrays, a set.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        members = [name for name in archive.namelist() if name.endswith(".npy")]
        self.names = {name.removesuffix(".npy") for name in members}
        if len(self.names) < len(members):
            raise ValueError("it holds several arrays of one name")

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        """Returns (shape, dtype) of an array of numbers or text; checks its number of bytes."""
        with self.open(name) as (_, shape, dtype):
            return shape, dtype

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype]]:
        """Yields (the array as a file at its first byte, its shape, its dtype)."""
        member = self._archive.getinfo(f"{name}.npy")
        with self._archive.open(member) as file:
            modern = np.lib.format.read_magic(file) >= (2, 0)
            header = np.lib.format
            read = header.read_array_header_2_0 if modern else header.read_array_header_1_0
            shape, fortran, dtype = read(file)
            if dtype.kind not in "biufU":
                raise ValueError(
                    f"{name} holds neither numbers nor text, but {shorten(str(dtype))}"
                )
            if fortran and len(shape) > 2:
                raise ValueError(f"{name} is not in C order")
            size = file.tell() + math.prod(shape) * dtype.itemsize
            if min(shape, default=0) < 0 or size != member.file_size:
                raise ValueError(
                    f"{name} has the shape {shorten(str(list(shape)))} and {member.file_size:,} "
                    "bytes, which do not fit"
                )
            yield file, shape, dtype

    def read(self, name: str) -> np.ndarray:
        """Returns an array; check its size with `header` first."""
        self.header(name)
        with self._archive.open(f"{name}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    def read_text(self, name: str) -> str | None:
        """Returns one short text, or None if there is no array of this name."""
        if name not in self.names:
            return None
        shape, dtype = self.header(name)
        if shape or dtype.kind != "U" or dtype.itemsize > 4 * MOST_TEXT:
            raise ValueError(f"{name} is no short text")
        return str(self.read(name))

    def read_integer(self, name: str) -> int | None:
        """Returns one integer, or None if there is no array of this name."""
        if name not in self.names:
            return None
        shape, dtype = self.header(name)
        if shape or dtype.kind not in "iu":
            raise ValueError(f"{name} is no integer")
        return int(self.read(name))
