"""The number of CPU cores of this process."""

import os


def count_cores() -> int | None:
    """Returns the number of cores that this process may use; all cores if that is unknown.

    None if the system does not know the number of its cores either.
    """
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
