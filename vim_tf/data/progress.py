"""Lines on stderr about the data, and the progress of long work.

Progress is a bar on a terminal, and a line every 10 s elsewhere.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from tqdm import tqdm

EVERY = 10.0  # seconds
_Item = TypeVar("_Item")


def say(line: str | None) -> None:
    """Writes a line about the data on stderr; nothing for None."""
    if line is not None:
        sys.stderr.write(f"{line}\n")


def report(items: Iterable[_Item], total: int, what: str) -> Iterator[_Item]:
    """Yields `items` and shows how many there were, see `progress_bar`.

    Args:
        items: the items to pass on.
        total: their number.
        what: the items and what is done with them.
    """
    with progress_bar(total, what, "data") as bar:
        for item in items:
            yield item
            bar.update(1)


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
