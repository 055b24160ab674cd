import io

import pytest

from vim_tf.runs.run import Run
from vim_tf.training_loop import reporter
from vim_tf.training_loop.reporter import Reporter

SHOWN = ("total", "psnr")


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    times = {"now": 100.0}
    monkeypatch.setattr(reporter.time, "monotonic", lambda: times["now"])
    return times


def test_plain_lines_where_no_terminal_is(run, clock):
    stream = Stream(terminal=False)
    report = Reporter(run, first_step=10, steps=40, batch_size=8, shown=SHOWN, stream=stream)
    clock["now"] += 5
    report.train(20, {"total": 0.123456, "psnr": 20.0, "unshown": 1.0})
    clock["now"] += 5
    report.evaluation(20, {"psnr": 19.5})
    clock["now"] += 2
    report.train(30, {"total": 0.1})
    report.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert "\r" not in stream.getvalue()
    # 10 steps of 8 images took 5 seconds, and 20 steps are left.
    assert lines[0] == "step 20/40  total 0.1235  psnr 20  16.0 img/s  00:00:10 left"
    assert lines[1] == "evaluation at step 20:  psnr 19.5"
    assert "40.0 img/s" in lines[2]  # the evaluation's 5 seconds do not count
    records = run.read_metrics()
    assert [(record["step"], record["kind"]) for record in records] == [
        (20, "train"),
        (20, "evaluation"),
        (30, "train"),
    ]
    assert records[0]["unshown"] == 1.0
    assert records[0]["images_per_second"] == 16


def test_more_than_a_day_is_left(run, clock):
    stream = Stream(terminal=False)
    report = Reporter(run, first_step=0, steps=1001, batch_size=1, shown=SHOWN, stream=stream)
    clock["now"] += 360
    report.train(1, {})
    assert "100:00:00 left" in stream.getvalue()


def test_a_bar_on_a_terminal(run):
    stream = Stream(terminal=True)
    report = Reporter(run, first_step=10, steps=40, batch_size=8, shown=SHOWN, stream=stream)
    report.train(20, {"total": 0.5})
    report.evaluation(20, {"psnr": 19.5})
    report.train(40, {"total": 0.25})
    report.close()
    text = stream.getvalue()
    assert "\r" in text
    assert "40/40" in text
    assert "total 0.25" in text
    assert "evaluation at step 20:  psnr 19.5\n" in text
    assert len(run.read_metrics()) == 3
