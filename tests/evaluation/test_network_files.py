import hashlib
import os

import pytest

from vim_tf.errors import UserError
from vim_tf.evaluation.network_files import read_network
from vim_tf.messages import reason_of


def test_a_file_is_read_and_hashed(tmp_path):
    path = tmp_path / "net"
    path.write_bytes(b"network")
    sha256 = hashlib.sha256(b"network").hexdigest()
    assert read_network(path, "--net") == (b"network", sha256)
    assert read_network(path, "--net", sha256.upper())[1] == sha256
    with pytest.raises(UserError, match=f"net .*net has the SHA-256 {sha256}, not 0x+... .3,000"):
        read_network(path, "--net", "0" + "x" * 2999)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("nowhere", "nowhere cannot be read .No such file"),
        ("pipe", "pipe, which is no regular file"),
        ("x" * 300, "cannot be read .File name too long"),
    ):
        with pytest.raises(UserError, match=message):
            read_network(tmp_path / name, "--net")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("one line", "one line"),
        ("first\nsecond", "first"),
        ("", "ValueError"),
        ("Graph execution error:\n\nDetected at node a\n<stack traces>\nno such\n", "no such"),
        ("Exception encountered when calling A.call().\n\n\x1b[1mbad\x1b[0m\n", "bad"),
        ("A could\n\nException encountered: B could\n\nException encountered: bad", "bad"),
    ],
)
def test_the_reason_is_the_line_that_says_most(text, reason):
    assert reason_of(ValueError(text)) == reason
