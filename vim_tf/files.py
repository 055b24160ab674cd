"""Writes files atomically, moves them out of the way, and hashes them."""

import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import IO

from etils import epath

from vim_tf.annotations import StrPath
from vim_tf.errors import UserError

_PART = 2**24  # bytes read at once


def is_in_bucket(path: StrPath) -> bool:
    """Whether a path is a URL such as gs://bucket/run; files there cannot be renamed or locked."""
    return "://" in os.fspath(path)


def open_regular(path: StrPath) -> IO[bytes]:
    """Opens a file for reading, on a disk or in a bucket.

    Raises:
        FileNotFoundError: there is no such file; also if a part of its path is no folder.
        UserError: it is a folder, a pipe or a device, or it may not be read.
    """
    if is_in_bucket(path):
        return epath.Path(path).open("rb")
    try:
        # O_NONBLOCK: opening a pipe would otherwise wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(*error.args, os.fspath(path)) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path} is no regular file")
    return open(descriptor, "rb")


def append_line(path: StrPath, line: str) -> None:
    """Adds a line to a text file; a last line that was cut short stays a separate line."""
    if is_in_bucket(path):  # files there cannot be appended to
        bucket_path = epath.Path(path)
        before = bucket_path.read_text() if bucket_path.exists() else ""
        bucket_path.write_text(f"{before}{line}\n")
        return
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # a process was killed while it wrote
                line = f"\n{line}"
        file.write(f"{line}\n".encode())


def write_atomically(path: StrPath, data: bytes | str) -> None:
    """Writes bytes or text: at any time the file is either the old one or the whole new one.

    Several processes may write the same file at once; the file of one of them remains.
    """
    if is_in_bucket(path):  # an object is always written as a whole
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
        os.chmod(temporary, 0o666 & ~_umask())  # only the owner may read a file of mkstemp
        os.replace(temporary, path)
    except BaseException:  # also when the process is asked to stop
        Path(temporary).unlink(missing_ok=True)
        raise


def cache_folder(name: str) -> Path:
    """Returns vim_tf/<name> in the user's cache folder: $XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")  # a relative path is to be ignored, by its standard
    return Path(base if os.path.isabs(base) else "~/.cache").expanduser() / "vim_tf" / name


def nearest_existing(path: StrPath) -> Path:
    """Returns a path, or the first folder above it that exists."""
    path = Path(path)
    return next(found for found in (path, *path.absolute().parents) if found.exists())


def is_regular(path: StrPath) -> bool:
    """Whether a path is a file: no folder, no pipe, and no link."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def set_aside(path: StrPath) -> Path:
    """Renames what lies where a file belongs to the first free `<name>.aside-<n>`; returns this."""
    path, number = Path(path), 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.aside-{number}")):
        number += 1
    os.rename(path, aside)
    return aside


def remove(path: StrPath) -> None:
    """Removes a file, a link or a whole folder, if there is one."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def hash_file(path: StrPath) -> str:
    """Returns the SHA-256 of a file's bytes as a hexadecimal string."""
    return measure_file(path)[1]


def measure_file(path: StrPath) -> tuple[int, str]:
    """Returns (bytes, SHA-256 as a hexadecimal string) of a file; see `open_regular`."""
    digest, size = hashlib.sha256(), 0
    with open_regular(path) as file:
        while part := file.read(_PART):
            digest.update(part)
            size += len(part)
    return size, digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
