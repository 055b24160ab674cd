"""A few kills of tests/kill_runs.py; `make kill-test` runs more of them."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "kill_runs.py"


@pytest.mark.large
@pytest.mark.parametrize("stage", ["vit_vqgan", "vim"])
def test_a_run_that_is_killed_ends_as_one_that_is_not(stage):
    command = [sys.executable, SCRIPT, "--kills", "5", "--stage", stage]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    said = done.stdout.splitlines()[-1]
    cache = 2 if stage == "vim" else 0
    counts = f"{4 - cache} in a save, {cache} in the cache, 1 at other moments, 1 files cut"
    assert said.startswith(f"{stage}: {counts}; all ")
    assert said.endswith("bit for bit, and 3 killed exports equal one that was not")
