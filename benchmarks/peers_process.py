"""The client of `peers/serve.py`, which runs peers in their own environment and process."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

ENVIRONMENT = "VIM_TF_PEERS_PYTHON"
HERE = Path(__file__).parent


class Peers:
    """Makes peers' cases and runs them. A context manager: its process ends with it."""

    def __init__(self, python):
        self._process = subprocess.Popen(
            [python, HERE / "peers" / "serve.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def make(self, case, **settings):
        """Returns (a call without arguments, its name) of a case in `peers/cases.py`."""
        made = self._ask({"make": case, "settings": settings})
        return lambda: self._ask({"run": made["case"]}), made["about"]["name"]

    def _ask(self, question):
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the peers' process ended at {question}; its last lines say why")
        return json.loads(answer)

    def close(self):
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def open_peers():
    """Yields `Peers`; or None, after a message that says how to install them."""
    python = Path(os.environ.get(ENVIRONMENT) or HERE.parent / ".venv-peers" / "bin" / "python")
    if not python.exists():
        sys.stderr.write(
            f"{python} is not there, so that only vim_tf is timed; `make venv-peers` installs its "
            f"peers, or name their Python by {ENVIRONMENT}\n"
        )
        yield None
        return
    peers = Peers(python)
    try:
        yield peers
    finally:
        peers.close()
