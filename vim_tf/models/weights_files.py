"""HDF5 files of weights that may come from a stranger: what is checked before they are loaded.

Such a file can lead to other files of this machine, or state sizes that it does not hold. Text of
variable length can be damaged so that the HDF5 library never ends, so it is never read here.
"""

import contextlib
import io
import math
import mmap
import os
import struct
from collections.abc import Iterator

import h5py

from vim_tf.annotations import StrPath
from vim_tf.errors import UserError
from vim_tf.messages import shorten

MOST_LINKS = 100_000  # groups and datasets of a file
MOST_DEPTH = 64  # groups within groups
MOST_FREE_BLOCKS = 1_000_000  # of all heaps of names
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_WIDTHS = {0: 13, 1: 13, 2: 9, 3: 9}  # version -> place of the bytes of an address and of a length
_HEAP = b"HEAP" + bytes(4)  # a heap of the names of a group
_LAST = 1  # stands after the last free block, instead of the place of a next one


def count_elements(path: StrPath | io.BytesIO, name: str | None = None) -> int:
    """Returns the number of values of all datasets; arguments and errors as in `read_shapes`."""
    return sum(map(math.prod, read_shapes(path, name).values()))


def read_shapes(path: StrPath | io.BytesIO, name: str | None = None) -> dict[str, tuple[int, ...]]:
    """Checks that a file has plain numbers only, all of them in itself, and returns their shapes.

    Args:
        path: an HDF5 file, or an `io.BytesIO` of its bytes.
        name: of the file in errors; None takes the path.

    Returns:
        {path within the file: shape} of all datasets.

    Raises:
        UserError: soft or external links, external storage, virtual datasets, values that are no
            numbers, more values than the file has bytes for, or no HDF5 file that can be read.
    """
    if name is None:
        name = "the file" if isinstance(path, io.BytesIO) else os.fspath(path)
    if isinstance(path, io.BytesIO):
        size = path.getbuffer().nbytes
    elif os.path.isfile(path):
        size = os.path.getsize(path)
    else:
        raise UserError(f"{name} is no regular file; give an HDF5 file of weights")
    try:
        with _bytes_of(path) as data:
            _check_heaps(data, name)
        with h5py.File(path, "r") as file:
            return _check(file, name, size)
    except UserError:
        raise
    except Exception as error:  # h5py raises many kinds for a damaged file
        reason = shorten(str(error) or type(error).__name__)
        raise UserError(f"{name} is no HDF5 file that can be read ({reason})") from None


@contextlib.contextmanager
def _bytes_of(path: StrPath | io.BytesIO) -> Iterator[bytes | mmap.mmap]:
    if isinstance(path, io.BytesIO):
        yield path.getvalue()
        return
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        yield data


def _check_heaps(data: bytes | mmap.mmap, name: str) -> None:
    """Refuses a list of free blocks without an end; HDF5 would follow it and fill the memory."""
    start = _WIDTHS.get(data[8]) if data[:8] == _SIGNATURE and len(data) > 14 else None
    if start is None or data[start : start + 2] != b"\x08\x08":
        raise UserError(
            f"{name} is no HDF5 file that can be read (it does not begin as those of h5py do)"
        )
    steps, place = 0, data.find(_HEAP)
    while place >= 0:
        header = data[place + 8 : place + 32].ljust(24, b"\0")
        size, block, segment = struct.unpack("<QQQ", header)
        while block != _LAST and block + 16 <= size and segment + block + 16 <= len(data):
            (block,) = struct.unpack_from("<Q", data, segment + block)
            steps += 1
            if steps > MOST_FREE_BLOCKS:
                raise UserError(
                    f"{name} is damaged: the names of its groups have free blocks without an end"
                )
        place = data.find(_HEAP, place + 1)


def _check(file, name, size):
    shapes, values, links = {}, 0, 0
    waiting = [("", file, 0)]
    while waiting:
        parent, group, depth = waiting.pop()
        links += len(group)
        if links > MOST_LINKS or depth > MOST_DEPTH:
            raise UserError(
                f"{name} has more than {MOST_LINKS:,} entries, or groups nested more than "
                f"{MOST_DEPTH} deep; no file of weights has"
            )
        for key in group:
            place = f"{parent}/{key}"
            kind = group.get(key, getclass=True, getlink=True)
            if kind is not h5py.HardLink:
                raise _refusal(name, place, f"a {kind.__name__}")
            entry = group[key]
            if isinstance(entry, h5py.Group):
                waiting.append((place, entry, depth + 1))
            else:
                values += _count_bytes(entry, name, place)
                shapes[place[1:]] = entry.shape
                if values > size:
                    raise _refusal(
                        name, place, f"more values than its {size:,} bytes hold, or compressed ones"
                    )
    return shapes


def _count_bytes(dataset, name, place):
    if not isinstance(dataset, h5py.Dataset):
        raise _refusal(name, place, f"a {type(dataset).__name__}")
    if dataset.is_virtual:
        raise _refusal(name, place, "a virtual dataset")
    if dataset.external:
        raise _refusal(name, place, "a dataset in another file")
    if dataset.shape is None or dataset.dtype.kind not in "biuf":
        raise _refusal(name, place, f"values of the type {dataset.dtype}")
    if "dtype" in dataset.attrs:  # Keras would read this text
        raise _refusal(name, place, "a dtype that HDF5 defines itself, as weights in bfloat16 have")
    return math.prod(dataset.shape) * dataset.dtype.itemsize


def _refusal(name, place, what):
    return UserError(
        f"{name} has {shorten(what)} at {shorten(place)}; a file of weights must hold all its "
        "numbers itself, uncompressed: save the weights again from the model"
    )
