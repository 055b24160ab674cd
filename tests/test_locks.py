"""Locks between processes, on disks that share them and on those that do not."""

import errno
import os
import socket
import threading
import time

import pytest

from vim_tf import locks
from vim_tf.locks import Held, locked

MOUNTS = """\
22 1 0:20 / / rw shared:1 - ext4 /dev/root rw
23 22 0:21 / {place} rw - {kind} server:/export rw
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A function (type of the disk that tmp_path is on), with short times."""
    monkeypatch.setattr(locks, "HEARTBEAT", 0.05)
    monkeypatch.setattr(locks, "SILENT", 0.4)
    monkeypatch.setattr(locks, "MOUNTS", tmp_path / "mounts")

    def set_kind(kind):
        text = MOUNTS.format(place=str(tmp_path).replace(" ", r"\040"), kind=kind)
        (tmp_path / "mounts").write_text(text)

    return set_kind


def test_a_lock_is_held_once_and_free_afterwards(path):
    with locked(path):
        mine = f"process {os.getpid()} on {socket.gethostname()}"
        assert path.read_text() == f"{mine}\n"
        with pytest.raises(Held) as caught, locked(path):
            pass
        assert caught.value.holder == mine
        assert path.read_text() == f"{mine}\n"
    assert path.read_text() == ""
    with pytest.raises(ZeroDivisionError), locked(path):
        raise ZeroDivisionError
    with locked(path):
        pass


def test_on_a_local_disk_the_system_decides(path, disk):
    """A container that was started again has another host name."""
    disk("ext4")
    path.write_text("process 7 on elsewhere\n")
    start = time.monotonic()
    with locked(path, pytest.fail):
        pass
    assert time.monotonic() - start < locks.SILENT / 2


def test_on_a_network_disk_a_silent_lock_is_free(path, disk):
    disk("nfs4")
    path.write_text("process 7 on elsewhere\n")
    said = []
    start = time.monotonic()
    with locked(path, said.append):
        assert time.monotonic() - start >= locks.SILENT * 0.7
    (line,) = said
    assert line.startswith(f"{path} names process 7 on elsewhere, which may have ended")
    path.write_text("process 7 on elsewhere\n")
    os.utime(path, (time.time() - 100, time.time() - 100))
    with locked(path, pytest.fail):  # it has been silent for long
        pass


def test_on_a_network_disk_a_lock_that_is_renewed_is_held(path, disk):
    disk("nfs4")
    path.write_text("process 7 on elsewhere\n")
    ended = threading.Event()

    def renew():
        while not ended.wait(0.02):
            os.utime(path)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(Held, match="process 7 on elsewhere"), locked(path):
            pass
    finally:
        ended.set()
        thread.join()


def test_the_holder_renews_its_lock(path, disk):
    disk("nfs4")
    with locked(path):
        os.utime(path, (0, 0))
        end = time.monotonic() + 5
        while path.stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0
    os.utime(path, (0, 0))
    time.sleep(0.15)
    assert path.stat().st_mtime == 0


def test_a_disk_without_locks(path, disk, monkeypatch):
    """Here even a lock of this machine is only known by its time."""
    disk("ext4")

    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", fail)
    with locked(path, pytest.fail):
        pass
    path.write_text(f"process 7 on {socket.gethostname()}\n")
    said = []
    with locked(path, said.append):
        assert len(said) == 1
