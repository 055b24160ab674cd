"""How many cores of the CPU this process has."""

import os


def count_cores():
    """Returns how many cores this process may use, where the system can tell, else all of them."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
