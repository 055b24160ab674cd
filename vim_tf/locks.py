"""Locks between processes: a file that one process holds.

The operating system frees such a lock when its process ends, however it ends. A network disk may
not show one machine the locks of another. So the holder also renews the time of the file. On such
a disk, a lock of another machine is free when its time has not changed for `SILENT` seconds.
"""

import contextlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from vim_tf.annotations import StrPath
from vim_tf.files import is_regular, set_aside
from vim_tf.messages import shorten

HEARTBEAT = 5.0  # seconds between two renewals of the file's time
SILENT = 60.0  # seconds without a renewal, after which the holder is gone
MOUNTS = Path("/proc/self/mountinfo")
# Disks of this machine alone: the operating system knows all processes that use them.
_LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "tmpfs", "overlay"}
_MOST_TEXT = 500  # bytes of the file that are read


class Held(Exception):
    """Another process holds the lock.

    Attributes:
        holder: for example "process 7 on host".
    """

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


@contextlib.contextmanager
def locked(path: StrPath, say: Callable[[str], object] = lambda line: None) -> Iterator[None]:
    """Holds a lock during the body; its file stays, empty.

    Args:
        path: the lock's file, in an existing folder. Anything else that lies there is renamed.
        say: called with each line for the user.

    Raises:
        Held: another process has the lock.
        OSError: the file cannot be written.
    """
    import fcntl  # does not exist on Windows

    path = Path(path)
    if os.path.lexists(path) and not is_regular(path):
        say(f"{path} is no lock file; it is now {set_aside(path)}")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with open(descriptor, "r+b", buffering=0) as file:
        holder = shorten(file.read(_MOST_TEXT).decode(errors="replace").strip())
        is_sure = holder.endswith(f" on {socket.gethostname()}") or _is_on_a_local_disk(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Held(holder or "another process") from None
        except OSError:
            is_sure = False  # this disk has no locks
        if holder and not is_sure:
            _wait_until_silent(path, holder, say)
        file.truncate(0)
        file.seek(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        with _renewing(file):
            try:
                yield
            finally:
                # Not removed: another process may have it open already.
                with contextlib.suppress(OSError):
                    file.truncate(0)


@contextlib.contextmanager
def _renewing(file: BinaryIO) -> Iterator[None]:
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                os.utime(file.fileno())

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _wait_until_silent(path: Path, holder: str, say: Callable[[str], object]) -> None:
    """Returns when the file's time has not changed for `SILENT` seconds; else raises `Held`."""
    with tempfile.TemporaryFile(dir=path.parent) as new:  # the disk's clock, not this machine's
        now = os.fstat(new.fileno()).st_mtime
    renewed = path.stat().st_mtime
    left = min(SILENT - (now - renewed), SILENT)
    if left > 0:
        say(
            f"{path} names {holder}, which may have ended; this disk does not tell, so its time "
            f"is watched for {left:.0f} seconds"
        )
    end = time.monotonic() + left
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(HEARTBEAT, left))
        if path.stat().st_mtime != renewed:
            raise Held(holder)


def _is_on_a_local_disk(path: Path) -> bool:
    """Whether only this machine uses the disk; False if that is not known."""
    try:
        lines = MOUNTS.read_text().splitlines()
    except OSError:
        return False
    parents = {str(parent) for parent in (path.resolve(), *path.resolve().parents)}
    found = ("", "")
    for line in lines:  # ... <place> <options> ... - <type> ...
        before, _, after = line.partition(" - ")
        place = before.split()[4].replace(r"\040", " ")
        if place in parents and len(place) >= len(found[0]):  # later mounts hide earlier ones
            found = place, after.split()[0]
    return found[1] in _LOCAL
