"""Files that are whole or not there, and their hashes."""

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from etils import epath

_PART = 2**24  # bytes read at once


def is_in_bucket(path):
    """Whether a path is a URL such as gs://bucket/run; nothing there can be renamed or locked."""
    return "://" in os.fspath(path)


def write_atomically(path, data):
    """Writes bytes or text so that the file is either the old one or the whole new one.

    Several processes may write the same file at once; one of theirs is there in the end.
    """
    if is_in_bucket(path):  # objects are always so
        bucket_path = epath.Path(path)
        write = bucket_path.write_bytes if isinstance(data, bytes) else bucket_path.write_text
        write(data)
        return
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
    )
    try:
        with open(descriptor, "wb") as file:
            file.write(data if isinstance(data, bytes) else data.encode())
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's files are for their owner alone
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def hash_file(path):
    """Returns the SHA-256 of a file's bytes as a hexadecimal string."""
    return measure_file(path)[1]


def measure_file(path):
    """Returns (bytes, SHA-256 as a hexadecimal string) of a file, on a disk or in a bucket."""
    digest, size = hashlib.sha256(), 0
    with epath.Path(path).open("rb") as file:
        while part := file.read(_PART):
            digest.update(part)
            size += len(part)
    return size, digest.hexdigest()


def is_regular_file(path):
    """Whether a path leads to a file that ends, and to no pipe or device."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
