"""Places at which tests kill the process, as a power cut would: VIM_TF_FAILPOINT=before_manifest:2.

Without that variable they do nothing.
"""

import os
import signal

VARIABLE = "VIM_TF_FAILPOINT"
_passed = {}


def failpoint(name):
    """Kills this process by SIGKILL the n-th time that it comes here, if VARIABLE is "name:n"."""
    wanted, _, count = os.environ.get(VARIABLE, "").partition(":")
    if wanted == name:
        _passed[name] = _passed.get(name, 0) + 1
        if _passed[name] == int(count):
            os.kill(os.getpid(), signal.SIGKILL)
