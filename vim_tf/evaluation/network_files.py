"""Network files from untrusted sources: read once, and hashed before they are parsed."""

import hashlib
import os
import stat
from pathlib import Path

from vim_tf.annotations import StrPath
from vim_tf.errors import UserError
from vim_tf.messages import shorten

MOST_BYTES = 2**29


def read_network(
    path: StrPath, argument: str, expected_hash: str | None = None
) -> tuple[bytes, str]:
    """Reads a whole file.

    Args:
        path: the file.
        argument: name of the command's argument, for errors.
        expected_hash: the expected SHA-256, hexadecimal; None skips the check.

    Returns:
        (its bytes, their SHA-256).

    Raises:
        UserError: the path is no regular file, or the file is above 512 MiB, cannot be read or has
            another hash.
    """
    try:
        # Non-blocking, because opening a pipe would wait forever for a writer.
        with open(os.open(Path(path), os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise UserError(f"{argument} is {path}, which is no regular file")
            if found.st_size > MOST_BYTES:
                raise UserError(
                    f"{argument} {path} has {found.st_size:,} bytes; a network may have 512 MiB"
                )
            data = file.read(MOST_BYTES)
    except OSError as error:
        raise UserError(f"{argument} {path} cannot be read ({error.strerror})") from None
    sha256 = hashlib.sha256(data).hexdigest()
    check_hash(path, argument, sha256, expected_hash)
    return data, sha256


def check_hash(path: StrPath, argument: str, sha256: str, expected_hash: str | None) -> None:
    """Raises UserError if a network's SHA-256 is not the expected one; None skips the check."""
    if expected_hash is not None and expected_hash.lower() != sha256:
        raise UserError(
            f"{argument} {path} has the SHA-256 {sha256}, not {shorten(expected_hash)} as "
            f"{argument}_hash says; get the right file"
        )
