"""The fuzz itself: its cases can be repeated, its failures are small, it finds planted faults."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the files of the fuzz import each other by name

import fuzz  # noqa: E402
import fuzz_mutations as mutations  # noqa: E402
import fuzz_plants  # noqa: E402
import fuzz_workers  # noqa: E402
import hypothesis.configuration  # noqa: E402
import psutil  # noqa: E402
from fuzz_kinds import Kind, Live, Wrong, check_message, try_case  # noqa: E402
from fuzz_workers import FAILED, Outcome  # noqa: E402

from vim_tf.errors import UserError  # noqa: E402


def draw_numbers(world, rng):
    return [rng.randrange(1_000) for _ in range(rng.randrange(10))]


NUMBERS = Kind("numbers", draw_numbers, lambda live, case: None, lambda folder, case: None)


class FakeWorkers:
    """Workers for which each case with a number above 99 fails."""

    replaced = 0

    def __init__(self, world, plant):
        pass

    def start(self, tensorflow):
        pass

    def close(self):
        pass

    def try_case(self, kind, case):
        if any(number > 99 for number in case):
            return Outcome(FAILED, "too large")
        return Outcome("opened")


@pytest.fixture
def run_fuzz(tmp_path, monkeypatch):
    """A function () -> (the `Fuzz` after a run of 100 cases of `NUMBERS`, its lines)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fuzz, "Workers", FakeWorkers)
    hypothesis.configuration.set_hypothesis_home_dir(tmp_path)

    def run():
        lines = []
        made = fuzz.Fuzz(tmp_path, [NUMBERS], 30, 0, say=lines.append)
        made.run(stop=lambda: made.tried["numbers"] >= 100)
        return made, lines

    return run


def test_a_failure_is_made_small_and_kept(run_fuzz):
    made, lines = run_fuzz()
    assert list(made.failures) == [("numbers", "too large")]
    (path,) = Path("build/fuzz").iterdir()
    assert json.loads(path.read_text())["case"] == [100]
    assert str(path) in lines[0] and "[100]" in lines[0]
    assert not made.report()


def test_too_few_cases_are_a_failure(run_fuzz, monkeypatch):
    monkeypatch.setattr(FakeWorkers, "try_case", lambda *arguments: Outcome("opened"))
    made, _ = run_fuzz()
    assert made.report()
    made.tried["numbers"] = 0
    assert not made.report()


def test_a_kind_of_few_cases_does_not_take_the_time_of_the_others(tmp_path, run_fuzz, monkeypatch):
    monkeypatch.setattr(FakeWorkers, "try_case", lambda *arguments: Outcome("opened"))
    few = NUMBERS._replace(name="few", draw=lambda world, rng: [rng.randrange(5)])
    made = fuzz.Fuzz(tmp_path, [few, NUMBERS], 60, 0)
    rounds = iter(range(20))
    made.run(stop=lambda: next(rounds, None) is None)
    assert made.tried["few"] == 5
    assert made.tried["numbers"] >= fuzz.least(NUMBERS, 60) == 200


@pytest.mark.parametrize(
    ("seconds", "plain", "with_tensorflow"),
    [(60, 200, 10), (3600, 2000, 300), (36_000, 2000, 300), (30, 100, 5)],
)
def test_how_many_cases_are_enough(seconds, plain, with_tensorflow):
    assert fuzz.least(NUMBERS, seconds) == plain
    assert fuzz.least(NUMBERS._replace(tensorflow=True), seconds) == with_tensorflow


def test_changes_can_be_kept_as_json_and_repeated():
    data, content = bytes(range(200)), {"a": [1, 2, {"b": None}], "c": "x"}
    for seed in range(200):
        edits = mutations.draw_edits(data, random.Random(seed))
        kept = json.loads(json.dumps(edits))
        assert mutations.apply_edits(data, kept) == mutations.apply_edits(data, edits)
        changes = mutations.draw_changes(content, random.Random(seed))
        found = mutations.apply_changes(content, json.loads(json.dumps(changes)))
        assert json.dumps(found) == json.dumps(mutations.apply_changes(content, changes))
    assert content == {"a": [1, 2, {"b": None}], "c": "x"}


def test_each_case_gets_unchanged_files(tmp_path):
    world = tmp_path / "world"
    (world / "run").mkdir(parents=True)
    (world / "run" / "x").write_bytes(b"abc")
    (tmp_path / "worker").mkdir()
    live = Live(world, tmp_path / "worker")
    before = (live.folder / "run" / "x").stat().st_mtime_ns
    live.write("run/x", b"other")
    live.restore()
    (live.touch("run") / "more").write_text("y")
    live.write("run/x", b"other")
    live.restore()
    assert [path.name for path in (live.folder / "run").iterdir()] == ["x"]
    assert (live.folder / "run" / "x").read_bytes() == b"abc"
    assert (live.folder / "run" / "x").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [
        (UserError("no"), "refused"),
        (UserError("two\nlines"), "control codes or lines"),
        (UserError("\x1b[31m"), "control codes or lines"),
        (UserError("x" * 3000), "too long"),
        (KeyError("step"), "KeyError"),
        (MemoryError(), "MemoryError"),
        (None, "another answer"),
    ],
)
def test_what_counts_as_a_failure(tmp_path, raised, outcome):
    def open_it(folder, case):
        if raised is not None:
            raise raised
        return [2]

    (tmp_path / "world").mkdir()
    live = Live(tmp_path / "world", tmp_path)
    kind = NUMBERS._replace(open=open_it, answer="equal")
    if outcome == "refused":
        assert try_case(kind, [], live, [1]) == outcome
    else:
        with pytest.raises(Wrong, match=outcome):
            try_case(kind, [], live, [1])
    check_message("é is fine")


@pytest.mark.parametrize(
    ("does", "found"),
    [
        ("time.sleep(60)", "no answer within 1 seconds"),
        ("x = b'1' * 2**28; time.sleep(60)", "more than 0 GB of memory"),
        ("os.abort()", "the process died: -6"),
    ],
)
def test_the_watch_over_a_worker(tmp_path, monkeypatch, does, found):
    seconds = 1 if "answer" in found else 60
    monkeypatch.setattr(fuzz_workers, "SECONDS", seconds)
    monkeypatch.setattr(fuzz_workers, "MEMORY", 2**27)
    (tmp_path / "errors.txt").write_bytes(b"")
    code = f"import os, time; input(); {does}"
    worker = object.__new__(fuzz_workers._Worker)  # without its own start, which takes long
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        worker._process, worker._watched = process, psutil.Process(process.pid)
        worker._buffer, worker._errors = b"", tmp_path / "errors.txt"
        outcome = worker.ask("kind", [])
        process.kill()
    assert (outcome.outcome, outcome.what) == (FAILED, found)
    assert not worker.usable


def test_plants_fit_the_sources():
    assert len(fuzz_plants.PLANTS) == 10
    for changes in fuzz_plants.PLANTS.values():
        for module, old, new in changes:
            fuzz_plants.check(f"vim_tf.{module}", [(old, new)])


@pytest.mark.large
def test_planted_faults_are_found(tmp_path):
    """One of a module without TensorFlow, one with, each by the kind of its file.

    `tests/fuzz.py --plants` finds all ten.
    """
    for plant, kind in (("recursion", "JSON document"), ("litert_hash", "LiteRT file")):
        command = [sys.executable, HERE / "fuzz.py", "--seed", "0", "--only", kind]
        made = subprocess.run(
            [*map(str, command), "--plants", plant], cwd=tmp_path, capture_output=True, text=True
        )
        assert made.returncode == 0, made.stdout + made.stderr
        assert made.stdout.count("found in") == 1
