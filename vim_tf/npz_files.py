"""Arrays in .npz files that may come from a stranger: every size is known before it is read."""

import contextlib
import math
import os
import zipfile

import numpy as np

from vim_tf.errors import UserError
from vim_tf.messages import reason_of, shorten

MOST_TEXT = 1_000  # characters


@contextlib.contextmanager
def open_npz(path, name, needs):
    """Opens an .npz, and turns whatever is wrong with it into one line.

    Args:
        path: the file.
        name: what errors call it.
        needs: what it must be, for errors.

    Yields:
        An `NpzFile`.

    Raises:
        UserError: no regular file, no .npz, or a damaged one, found here or while it is read.
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
    """An open .npz; what is wrong with it raises ValueError, or what zipfile raises.

    Args:
        archive: a `zipfile.ZipFile`.

    Attributes:
        names: set of the names of its arrays.
    """

    def __init__(self, archive):
        self._archive = archive
        members = [name for name in archive.namelist() if name.endswith(".npy")]
        self.names = {name.removesuffix(".npy") for name in members}
        if len(self.names) < len(members):
            raise ValueError("it holds several arrays of one name")

    def header(self, name):
        """Returns (shape, dtype) of an array of numbers or text, whose bytes are all there."""
        with self.open(name) as (_, shape, dtype):
            return shape, dtype

    @contextlib.contextmanager
    def open(self, name):
        """Gives (the array as a file at its first byte, its shape, its dtype)."""
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

    def read(self, name):
        """Returns an array; look at its `header` before, which says how large it is."""
        self.header(name)
        with self._archive.open(f"{name}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    def read_text(self, name):
        """Returns one short text, or None if there is no array of the name."""
        if name not in self.names:
            return None
        shape, dtype = self.header(name)
        if shape or dtype.kind != "U" or dtype.itemsize > 4 * MOST_TEXT:
            raise ValueError(f"{name} is no short text")
        return str(self.read(name))

    def read_integer(self, name):
        """Returns one integer, or None if there is no array of the name."""
        if name not in self.names:
            return None
        shape, dtype = self.header(name)
        if shape or dtype.kind not in "iu":
            raise ValueError(f"{name} is no integer")
        return int(self.read(name))
