import json
import os

import pytest
from etils import epath

from vim_tf.runs.metrics_log import MetricsLog


@pytest.fixture
def said():
    return []


@pytest.fixture
def log(tmp_path, said):
    return MetricsLog(epath.Path(tmp_path / "metrics.jsonl"), said.append)


def places(records):
    return [(record["step"], record["kind"]) for record in records]


BAD_LINES = [
    b"not JSON",
    b"[1, 2]",
    b"7",
    b"null",
    b'{"kind": "train", "nats": 1.0}',
    b'{"step": 2, "nats": 1.0}',
    b'{"step": NaN, "kind": "train"}',
    b'{"step": 2.5, "kind": "train"}',
    b'{"step": true, "kind": "train"}',
    b'{"step": -1, "kind": "train"}',
    b'{"step": "2", "kind": "train"}',
    b'{"step": 2, "kind": ["train"]}',
    b'{"step": 2, "kind": "train", "nats": "low"}',
    b'{"step": 2, "kind": "train", "nats": null}',
    b'{"step": 2, "kind": "train", "nats": [1]}',
    b'{"step": 2, "kind": "train", "nats": 1' + b"0" * 400 + b"}",
    b'{"step": 1' + b"0" * 5000 + b', "kind": "train"}',
    b"[" * 100_000,
    b"\xff\xfe\x00",
]


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_is_left_out_and_said_once(log, said, line):
    log.append(1, "train", {"nats": 3.0})
    with open(log.path, "ab") as file:
        file.write(line + b"\n")
    log.append(3, "train", {"nats": 2.0})
    assert places(log.read()) == places(log.read()) == [(1, "train"), (3, "train")]
    assert said == [f"{log.path}: 1 lines cannot be read and are left out, the first is line 2"]
    log.resume(1, evaluates=False)  # it is not ours, and stays
    assert log.path.read_bytes().splitlines()[1] == line


def test_numbers_that_are_not_finite_are_numbers(log, said):
    log.append(1, "train", {"nats": float("nan"), "psnr": float("inf")})
    assert places(log.read()) == [(1, "train")]
    assert said == []


def test_the_steps_that_are_repeated_are_removed(log, said):
    for step in (2, 4, 6):
        log.append(step, "train", {"nats": step})
        log.append(step, "evaluation", {"nats": step})
    with open(log.path, "ab") as file:
        file.write(b'{"step": 8, "kin')  # killed
    log.resume(4, evaluates=False)
    left = [(2, "train"), (2, "evaluation"), (4, "train"), (4, "evaluation")]
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [2, 2, 4, 4]
    assert places(log.read()) == left
    assert said == [f"{log.path}: 2 lines are removed, because the steps are repeated"]
    log.resume(4, evaluates=True)
    assert places(log.read()) == left[:3]
    before = os.stat(log.path).st_ino
    log.resume(4, evaluates=True)
    assert os.stat(log.path).st_ino == before  # nothing to do, nothing written
    assert len(said) == 2


def test_what_a_training_without_a_checkpoint_wrote_is_kept_elsewhere(log, said):
    log.start()
    assert said == []
    for number in (1, 2):
        log.append(2, "train", {"nats": number})
        text = log.path.read_text()
        log.start()
        assert not log.path.exists()
        aside = log.path.with_name(f"metrics.jsonl.aside-{number}")
        assert aside.read_text() == text
        assert str(aside) in said[-1]
    assert len(said) == 2


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
@pytest.mark.parametrize("begin", [MetricsLog.start, lambda log: log.resume(3, True)])
def test_what_is_no_file_is_set_aside(log, said, tmp_path, kind, begin):
    make = {
        "folder": os.mkdir,
        "pipe": os.mkfifo,
        "link": lambda path: os.symlink(tmp_path / "nowhere" / "file", path),
    }
    make[kind](log.path)
    assert log.read() == []
    begin(log)
    assert said == [f"{log.path} is no file; it is now {log.path}.aside-1"]
    log.append(2, "train", {})
    assert places(log.read()) == [(2, "train")]
