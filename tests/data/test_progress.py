import contextlib
import io
import re
import sys
import time
from types import SimpleNamespace

import pytest

from vim_tf.data import images, progress


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.05)


def test_lines_come_while_one_unit_takes_long(often, capsys):
    with progress.progress_bar(1200, "images", "probe") as bar:
        bar.update(1000)
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert all(re.fullmatch(r"probe: 1,000 of 1,200 images, \d+ s", line) for line in lines)
    time.sleep(0.15)
    assert capsys.readouterr().err == ""  # the thread has ended


def test_items_pass_and_are_counted(often, capsys):
    found = []
    for item in progress.report("abc", 3, "letters read"):
        found.append(item)
        time.sleep(0.1)
    assert found == ["a", "b", "c"]
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all(re.fullmatch(r"data: [0-3] of 3 letters read, \d+ s", line) for line in lines)


def test_short_work_is_silent_and_errors_pass(capsys):
    with pytest.raises(KeyError), progress.progress_bar(2, "images", "probe") as bar:
        bar.update(1)
        raise KeyError
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress.progress_bar(4, "images", "samples") as bar:
        bar.update(4)
    assert "samples: 100%" in sys.stderr.getvalue()


def test_the_reading_of_contents_is_counted(tiny, monkeypatch):
    counts = []

    @contextlib.contextmanager
    def note(total, unit, what):
        counts.append(total)
        yield SimpleNamespace(update=counts.append)

    monkeypatch.setattr(images, "progress_bar", note)
    data = images.make_image_dataset(tiny("vit_vqgan").data, 0)
    data.show_reading_contents()
    assert counts == [34, *[1] * 34]
    assert data.known_contents() == 34
