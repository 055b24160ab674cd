"""A line on stderr now and then while something long is read."""

import sys
import time

EVERY = 5.0  # seconds


def report(items, total, what):
    """Yields `items` and writes "data: 1,200 of 60,000 <what>" every few seconds.

    Args:
        items: an iterable.
        total: how many there will be.
        what: what has been done to them.
    """
    last = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        if time.monotonic() - last > EVERY:
            last = time.monotonic()
            sys.stderr.write(f"data: {count:,} of {total:,} {what}\n")
