"""The benchmarks' clockwork; their figures are for docs."""

import itertools
import re
from pathlib import Path

import pytest

from vim_tf.errors import UserError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def contest(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import contest

    return contest


def test_contestants_take_turns(contest, monkeypatch):
    """By a clock that each call moves on by its own time."""
    now, order = [0.0], []

    def make(name, times):
        times = itertools.chain([100.0], times)  # the first call compiles, and does not count

        def call():
            order.append(name)
            now[0] += next(times)

        return contest.Contestant(name, call, operations=30.0, items=4)

    steady, other = make("steady", [2.0, 2.1, 1.9]), make("other", [1.0, 3.0, 1.5])
    monkeypatch.setattr(contest.time, "perf_counter", lambda: now[0])
    contest.run([steady, other], repeats=3)
    assert order == ["steady", "other"] * 4
    assert steady.median == pytest.approx(2.0)
    assert steady.rate == pytest.approx(15)
    assert steady.spread == pytest.approx(0.1)
    assert other.median == pytest.approx(1.5)
    assert contest.warning([steady]) == ""
    words = "busy machine: calls of other differ by 133% of their median"
    assert contest.warning([steady, other]).startswith(words)


def test_forward_passes(contest, capsys):
    import forward

    given = ["--models", "tiny", "--batches", "1", "3", "--image-size", "32", "--product", "64"]
    forward.main([*given, "--repeats", "2", "--precision", "mixed_bfloat16"])
    out = capsys.readouterr().out
    assert re.match(r"Keras [\d.]+ on tensorflow, mixed_bfloat16, 32 px, median of 2; limit", out)
    rows = re.findall(r"\| tiny, (\w+ \d) \| [\d.,]+ \| [\d.,]+ \| [\d.,]+ \| \d+% \|", out)
    assert rows == ["tokenizing 1", "decoding 1", "tokenizing 3", "decoding 3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "--repeats is 0; it must be 1 or more"),
        (["--batches", "4", "0"], r"--batches is \[4, 0\]"),
        (["--image-size", "60"], "--image-size 60; .* a multiple of 8"),
    ],
)
def test_mistakes_are_one_line(contest, arguments, message):
    import forward

    with pytest.raises(UserError, match=message):
        forward.main(arguments)
