"""Points where tests kill the process, like a power cut: VIM_TF_FAILPOINT=before_manifest:2.

Without this variable they do nothing.
"""

import os
import signal

VARIABLE = "VIM_TF_FAILPOINT"
_passed: dict[str, int] = {}


def failpoint(name: str) -> None:
    """Kills this process by SIGKILL at the n-th call with `name`, if VARIABLE is "name:n"."""
    wanted, _, count = os.environ.get(VARIABLE, "").partition(":")
    if wanted == name:
        _passed[name] = _passed.get(name, 0) + 1
        if _passed[name] == int(count):
            os.kill(os.getpid(), signal.SIGKILL)
