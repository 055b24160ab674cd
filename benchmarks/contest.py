"""Timing several things in turn, so that what else a machine does falls on all of them alike."""

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

MOST_SPREAD = 0.2


@dataclass
class Contestant:
    """Something to be timed.

    Attributes:
        name: for the table.
        call: function without arguments; it returns when the work is done.
        operations: floating-point operations of a call.
        items: how many pictures or tokens a call makes.
        seconds: of each call so far.
    """

    name: str
    call: Any
    operations: float
    items: int = 1
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self):
        """Median of the seconds."""
        return statistics.median(self.seconds)

    @property
    def rate(self):
        """Floating-point operations a second."""
        return self.operations / self.median

    @property
    def spread(self):
        """Distance of the slowest call from the fastest, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


def time_in_turn(calls, repeats):
    """Returns a list of seconds for each call, without the first round, which also compiles."""
    seconds = [[] for _ in calls]
    for _ in range(repeats + 1):
        for call, taken in zip(calls, seconds, strict=True):
            started = time.perf_counter()
            call()
            taken.append(time.perf_counter() - started)
    return [taken[1:] for taken in seconds]


def run(contestants, repeats):
    """Fills in the seconds of `repeats` calls of each, in turn."""
    found = time_in_turn([contestant.call for contestant in contestants], repeats)
    for contestant, seconds in zip(contestants, found, strict=True):
        contestant.seconds = seconds


def warning(contestants):
    """A line for a reader if the machine was busy, else ""."""
    worst = max(contestants, key=lambda contestant: contestant.spread)
    if worst.spread <= MOST_SPREAD:
        return ""
    return (
        f"busy machine: calls of {worst.name} differ by {100 * worst.spread:.0f}% of their median; "
        "figures are not to be relied on\n"
    )
