"""A cache that is stopped goes on, to the same bytes; of two processes one makes it."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from vim_tf.data import token_cache_writer
from vim_tf.data.token_cache_writer import making, write_token_cache

HASH = "a" * 64
IMAGES = 23


def make_header(**changes):
    images = {"version": 1, "splits": {}, "class_names": [], "files": {}}
    header = {
        "token_hash": HASH,
        "decoder_hash": HASH,
        "images": images,
        "options": {"seed": 3},
        "grid": [2, 3],
    }
    return {**header, "codes": 50, "class_names": ["a", "b"], **changes}


class Stopped(BaseException):
    pass


class Counted:
    """A pass that counts the batches that are computed, and may be stopped before one of them."""

    def __init__(self, seed, stop=None):
        random = np.random.default_rng(seed)
        tokens, labels = random.integers(50, size=(IMAGES, 6)), random.integers(2, size=IMAGES)
        sizes = np.cumsum([0, 4, 4, 1, 4, 3, 4, 3])  # batches cross the ends of shards
        self.batches = [
            (tokens[i:j], labels[i:j]) for i, j in zip(sizes[:-1], sizes[1:], strict=True)
        ]
        self.stop, self.computed = stop, 0

    def __iter__(self):
        return self.after(0)

    def after(self, batches):
        for number, batch in enumerate(self.batches[batches:], batches):
            if number == self.stop:
                raise Stopped
            self.computed += 1
            yield batch


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(token_cache_writer, "SHARD_IMAGES", 5)
    monkeypatch.setattr(token_cache_writer, "WAIT", 0.02)


def write(folder, stops=(None, None, None), say=None, **header):
    """Returns the number of batches that were computed."""
    passes = [Counted(seed, stop) for seed, stop in enumerate(stops)]
    splits = {"train": passes[:2], "validation": passes[2:]}
    try:
        write_token_cache(folder, splits, make_header(**header), say=say or pytest.fail)
    except Stopped:
        pass
    return [one.computed for one in passes]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def whole(tmp_path):
    write(tmp_path / "whole")
    return contents(tmp_path / "whole")


@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("stop", range(7))
def test_it_goes_on_from_the_finished_shards_to_the_same_bytes(tmp_path, whole, where, stop):
    folder = tmp_path / "cache"
    stops = [None] * 3
    stops[where] = stop
    write(folder, stops)
    assert not folder.exists()
    said = []
    computed = write(folder, say=said.append)
    assert contents(folder) == whole
    # Batches end after 4, 8, 9, 13, 16, 20 images, and shards after 5, 10, 15, 20.
    in_finished_shards = [0, 0, 1, 1, 3, 4, 6][stop]
    assert computed == [0] * where + [7 - in_finished_shards] + [7] * (2 - where)
    assert len(said) == (where > 0 or in_finished_shards > 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "whole"]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"token_hash": "b", "decoder_hash": "b" * 64}, "token_hash"),
        ({"images": {"other": 1}}, "images"),
        ({"options": {"seed": 4}}, "options"),
    ],
)
def test_what_was_begun_with_others_is_not_used(tmp_path, changes, word):
    write(tmp_path / "cache", [None, 5, None])
    said = []
    assert write(tmp_path / "cache", say=said.append, **changes) == [7, 7, 7]
    assert said == [f"the unfinished token cache begins again: it was of another {word}"]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize("damaged", ["train-00-00001.tfrecord", "progress.json"])
def test_a_damaged_shard_is_made_again(tmp_path, whole, damaged):
    write(tmp_path / "cache", [None, 5, None])
    path = tmp_path / ".cache.partial" / damaged
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    computed = write(tmp_path / "cache", say=lambda line: None)
    assert contents(tmp_path / "cache") == whole
    assert computed[0] == (7 if damaged == "progress.json" else 6)


def test_a_full_disk_keeps_what_is_finished(tmp_path, whole, monkeypatch):
    real = token_cache_writer.tf.io.TFRecordWriter

    def fail(path):
        return real("/dev/full" if path.endswith("train-01-00002.tfrecord") else path)

    with monkeypatch.context() as patch:
        patch.setattr(token_cache_writer.tf.io, "TFRecordWriter", fail)
        with pytest.raises(ValueError, match="cannot be written .*make room"):
            write(tmp_path / "cache")
    said = []
    assert write(tmp_path / "cache", say=said.append)[0] == 0
    assert said == ["the token cache goes on: 33 images are tokenized already"]
    assert contents(tmp_path / "cache") == whole


def test_of_two_processes_one_makes_it_and_the_other_waits(tmp_path):
    folder, said, found = tmp_path / "cache", [], []

    def wait():
        with making(folder, said.append) as is_ours:
            found.append(is_ours)

    thread = threading.Thread(target=wait)
    with making(folder) as is_ours:
        assert is_ours
        thread.start()
        while not said:
            pass
        passes = [Counted(seed) for seed in range(2)]
        splits = {"train": passes[:1], "validation": passes[1:]}
        token_cache_writer.write_in_lock(folder, splits, make_header())
    thread.join(20)
    assert found == [False]
    holder = f"process {os.getpid()} on "
    assert len(said) == 1
    assert said[0].startswith(f"{folder} is being made by {holder}")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert not {"lock", "progress.json"} & set(contents(folder))


MAKER = """
import sys, time
from vim_tf.data.token_cache_writer import making
with making(sys.argv[1]):
    print("making", flush=True)
    time.sleep(60)
"""


@pytest.mark.large
def test_the_other_makes_it_when_the_maker_dies(tmp_path):
    folder, said = tmp_path / "cache", []
    command = [sys.executable, "-c", textwrap.dedent(MAKER), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "making\n"

        def say(line):
            said.append(line)
            process.send_signal(signal.SIGKILL)

        with making(folder, say) as is_ours:
            assert is_ours
    assert said[0].startswith(f"{folder} is being made by process {process.pid} on ")
