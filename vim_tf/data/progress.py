"""Lines on stderr about the data: remarks, and the progress of a long read."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

EVERY = 5.0  # seconds
_Item = TypeVar("_Item")


def say(line: str | None) -> None:
    """Writes a line about the data on stderr; nothing for None."""
    if line is not None:
        sys.stderr.write(f"{line}\n")


def report(items: Iterable[_Item], total: int, what: str) -> Iterator[_Item]:
    """Yields `items` and writes "data: 1,200 of 60,000 <what>" every few seconds.

    Args:
        items: the items to pass on.
        total: their number.
        what: the last words of the line: the items and what was done with them.
    """
    last = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        if time.monotonic() - last > EVERY:
            last = time.monotonic()
            say(f"data: {count:,} of {total:,} {what}")
