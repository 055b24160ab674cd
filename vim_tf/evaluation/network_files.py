"""Files of networks that may come from a stranger: read once, and hashed before they are parsed."""

import hashlib
import os
import stat
from pathlib import Path

from vim_tf.errors import UserError
from vim_tf.messages import shorten

MOST_BYTES = 2**29


def read_network(path, argument, expected_hash=None):
    """Reads a file as a whole.

    Args:
        path: the file.
        argument: the command's argument that gave it, for errors.
        expected_hash: SHA-256 that it must have, hexadecimal; None checks nothing.

    Returns:
        (its bytes, their SHA-256).

    Raises:
        UserError: no regular file, one above 512 MiB, one that cannot be read, or another hash.
    """
    try:
        # Not blocking, since a pipe would wait for a writer for ever.
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


def check_hash(path, argument, sha256, expected_hash):
    """Raises UserError if a network has another SHA-256 than expected; None expects nothing."""
    if expected_hash is not None and expected_hash.lower() != sha256:
        raise UserError(
            f"{argument} {path} has the SHA-256 {sha256}, not {shorten(expected_hash)} as "
            f"{argument}_hash says; get the right file"
        )
