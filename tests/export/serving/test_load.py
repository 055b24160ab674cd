"""A short version of benchmarks/serving_load.py: a minute of load, 500 bad requests."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.large
BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "serving_load.py"
SECONDS = 60


@pytest.fixture
def run(export_dir, tmp_path):
    """A function (*arguments) -> the benchmark's figures."""

    def run(*arguments):
        path = tmp_path / "report.json"
        command = [sys.executable, BENCHMARK, "--export", export_dir, "--report", path, *arguments]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert path.exists(), done.stderr[-3000:]
        result = json.loads(path.read_text())
        assert not result["problems"], result["problems"][:5]
        assert done.returncode == 0, done.stderr[-3000:]
        with pytest.raises(ProcessLookupError):  # no server is left
            os.kill(result["server_pid"], 0)
        return result

    return run


@pytest.mark.timeout(400)
def test_a_minute_of_load(run, cases):
    result = run("--seconds", SECONDS)
    assert SECONDS <= result["seconds"] < SECONDS + 70  # the last call may take 60 s
    seen = {(row["signature"], row["protocol"]) for row in result["rows"]}
    assert seen == {(name, kind) for name in cases for kind in ("REST", "gRPC")}
    assert all(0 < row["p50"] <= row["p99"] for row in result["rows"])
    # Flat memory needs a test of ten minutes. A minute shows a leak of 10 kB per request.
    grown = result["memory"]["slope"] * SECONDS / 2 / 60
    assert grown < max(30, result["good"] / 2 * 0.01)


@pytest.mark.timeout(400)
def test_bad_requests(run):
    result = run("--malformed", 500)
    assert result["bad"] >= 500 and result["good"] >= 50
    assert len(result["bad_kinds"]) >= 25
    assert {"bad: bomb", "bad: NaN temperature", "bad: huge body"} <= set(result["bad_kinds"])
    # The bomb alone would take 400 MB if it were decoded.
    assert result["memory"]["peak"] < result["memory"]["start"] + 350
