"""Times several things in turn, so that other work of the machine slows all of them alike."""

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

MOST_SPREAD = 0.2
PAUSE = 0.05  # seconds before each call: threads of the last call may still spin


@dataclass
class Contestant:
    """Something to be timed.

    Attributes:
        name: its name in the table.
        call: function without arguments; it returns when the work is done.
        operations: floating-point operations per call.
        items: number of images or tokens per call.
        traffic: bytes that a call must read from memory at least.
        seconds: of each call so far.
    """

    name: str
    call: Any
    operations: float = 0
    items: int = 1
    traffic: float = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def time(self):
        """Median of the seconds."""
        return statistics.median(self.seconds)

    @property
    def rate(self):
        """Floating-point operations per second."""
        return self.operations / self.time

    @property
    def bandwidth(self):
        """Bytes per second."""
        return self.traffic / self.time

    @property
    def items_rate(self):
        """Images or tokens per second."""
        return self.items / self.time

    @property
    def spread(self):
        """Difference between the slowest and the fastest call, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.time


def finished(call):
    """A function that calls and waits for the answer. The answer stays on its device."""
    if keras.backend.backend() != "jax":  # here TensorFlow's tensors are in the host's memory
        return lambda **given: np.asarray(call(**given))
    import jax

    return lambda **given: jax.block_until_ready(call(**given))


@dataclass
class Match:
    """One row of a table: ours, and the others by the names of their columns."""

    ours: Contestant
    others: dict[str, Contestant] = field(default_factory=dict)

    @property
    def contestants(self):
        """All of them."""
        return [self.ours, *self.others.values()]


def time_in_turn(calls, repeats):
    """Returns a list of seconds for each call, without the first round, which also compiles."""
    seconds = [[] for _ in calls]
    for _ in range(repeats + 1):
        for call, taken in zip(calls, seconds, strict=True):
            time.sleep(PAUSE)
            started = time.perf_counter()
            call()
            taken.append(time.perf_counter() - started)
    return [taken[1:] for taken in seconds]


def run(contestants, repeats):
    """Times `repeats` calls of each contestant, in turn, and stores the seconds."""
    found = time_in_turn([contestant.call for contestant in contestants], repeats)
    for contestant, seconds in zip(contestants, found, strict=True):
        contestant.seconds = seconds


def hold(matches, limits, repeats):
    """Times all contestants of the matches and the limits in turn; returns `warning` of them."""
    timed = {id(one): one for match in matches for one in match.contestants}  # some twice
    timed = [*limits, *timed.values()]
    run(timed, repeats)
    return warning(timed)


def warning(contestants):
    """A line for the reader if the machine was busy; otherwise ""."""
    worst = max(contestants, key=lambda contestant: contestant.spread)
    if worst.spread <= MOST_SPREAD:
        return ""
    return (
        f"busy machine: calls of {worst.name} differ by {100 * worst.spread:.0f}% of their median; "
        "figures are not to be relied on\n"
    )


def format_table(matches, unit, least):
    """Returns a Markdown table: one row per match, with all rates and our rate over each other one.

    Args:
        matches: list of timed `Match`. A cell is empty if the match has no such column.
        unit: unit of the rates, such as "img/s".
        least: function of a `Contestant` -> the fewest seconds per call by the machine's limits.
    """
    columns = list(dict.fromkeys(name for match in matches for name in match.others))
    heads = ["work", "ms", unit, "of the limit"]
    for name in columns:
        heads += [f"{name}, {unit}", "ours / its"]
    lines = [f"| {' | '.join(heads)} |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for match in matches:
        ours = match.ours
        cells = [ours.name, f"{1000 * ours.time:,.1f}", f"{ours.items_rate:,.2f}"]
        cells.append(f"{100 * least(ours) / ours.time:.0f}%")
        for name in columns:
            other = match.others.get(name)
            cells += (
                ["", ""]
                if other is None
                else [f"{other.items_rate:,.2f}", f"{ours.items_rate / other.items_rate:.2f}"]
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
