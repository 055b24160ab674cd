"""The progress of long work on standard error: a bar on a terminal, a line every 10 s elsewhere."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Protocol

from tqdm import tqdm

EVERY = 10.0  # seconds


class ProgressBar(Protocol):
    """What `progress_bar` yields."""

    def update(self, n: int) -> object:
        """Notes that `n` more units are done."""
        ...


class _Lines:
    """Counts, and writes a line every `EVERY` seconds, also while one unit takes longer."""

    def __init__(self, total: int, unit: str, what: str) -> None:
        self._total, self._unit, self._what, self._done = total, unit, what, 0
        self._started = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def update(self, n: int) -> None:
        self._done += n

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _write(self) -> None:
        while not self._ended.wait(EVERY):
            seconds = round(time.monotonic() - self._started)
            sys.stderr.write(
                f"{self._what}: {self._done:,} of {self._total:,} {self._unit}, {seconds} s\n"
            )
            sys.stderr.flush()


@contextlib.contextmanager
def progress_bar(total: int, unit: str, what: str) -> Iterator[ProgressBar]:
    """Shows how much is done; call `update` of what it yields.

    Args:
        total: number of units.
        unit: their name, in the plural.
        what: the work.
    """
    if sys.stderr.isatty():
        with tqdm(total=total, unit=f" {unit}", desc=what) as bar:
            yield bar
        return
    with contextlib.closing(_Lines(total, unit, what)) as lines:
        yield lines
