import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from vim_tf import formats
from vim_tf.errors import DamagedError, UserError

CONTENT = {"step": 7, "names": ["cats", "dögs"], "value": 0.1, "nested": {"a": [1, None, True]}}
SCHEMA = formats.json_object(
    step={"type": "integer", "minimum": 0},
    names={"type": "array", "items": {"type": "string"}},
    value={"type": "number"},
    nested={"type": "object"},
)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file.json"
    path.write_text(formats.to_json("checkpoint", CONTENT))
    return path


def read(path, schema=SCHEMA):
    return formats.read_json(path, "checkpoint", "make it anew", schema)


def refuses(path, match, error=DamagedError):
    with pytest.raises(UserError, match=match) as caught:
        read(path)
    assert type(caught.value) is error
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 1000
    return message


def test_what_was_written_comes_back(path):
    assert read(path) == CONTENT
    text = json.loads(path.read_text())
    assert text["format"] == formats.NUMBERS["checkpoint"]
    assert text["written_by"] == formats.WRITTEN_BY


def test_each_flipped_bit_is_found_or_changes_nothing(path):
    """Flips all bits, one at a time. Only bits of spaces between the values change nothing."""
    whole = path.read_bytes()
    found = 0
    for place in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[place] ^= 1 << bit
            path.write_bytes(data)
            try:
                assert read(path) == CONTENT
            except DamagedError:
                found += 1
            except UserError as error:  # only for "checksum" itself
                raise AssertionError(f"{data!r}: {error}") from error
    assert found > 0.9 * 8 * (len(whole) - whole.count(b" "))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"step": ' + "7" * 5000 + "}", "no JSON"),
        ("[]", "no JSON object"),
        ("null", "no JSON object"),
    ],
)
def test_a_damaged_file_is_named(path, text, match):
    path.write_text(text)
    refuses(path, match)


def test_a_file_that_was_cut_short_is_damaged(path):
    path.write_text(path.read_text()[:-20])
    refuses(path, "no JSON")


def test_another_format_says_what_wrote_it_and_what_to_do(path, monkeypatch):
    monkeypatch.setitem(formats.NUMBERS, "checkpoint", 99)
    monkeypatch.setattr(formats, "WRITTEN_BY", "vim_tf 7.5")
    path.write_text(formats.to_json("checkpoint", CONTENT))
    monkeypatch.undo()
    message = refuses(path, "has the format 99 and was written by vim_tf 7.5", UserError)
    assert "make it anew, or use the version that wrote it" in message


def test_a_file_without_a_format_is_of_an_earlier_version(path):
    path.write_text(json.dumps(CONTENT))
    refuses(path, "has no format number and was written by an earlier vim_tf", UserError)


def test_a_missing_checksum_is_damage(path):
    document = json.loads(path.read_text())
    del document["checksum"]
    path.write_text(json.dumps(document))
    refuses(path, "it has no checksum")


def test_content_of_another_shape_is_refused_by_its_place(path):
    path.write_text(formats.to_json("checkpoint", {**CONTENT, "step": -1}))
    refuses(path, r"\$\.step: -1 is less than the minimum of 0")
    path.write_text(formats.to_json("checkpoint", {**CONTENT, "names": ["a", 3]}))
    refuses(path, r"\$\.names\[1\]: 3 is not of type 'string'")
    path.write_text(formats.to_json("checkpoint", {"step": 1}))
    refuses(path, "is a required property")
    path.write_text(formats.to_json("checkpoint", {**CONTENT, "more": "x" * 10_000}))
    refuses(path, "Additional properties are not allowed")


def test_what_lies_where_a_file_belongs_is_refused(path, tmp_path):
    for nothing in (tmp_path / "nothing", path / "in a file"):
        with pytest.raises(FileNotFoundError):
            read(nothing)
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer
    (tmp_path / "folder").mkdir()
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "circle").symlink_to("circle")
    for name in ("pipe", "folder", "zero"):
        refuses(tmp_path / name, "no regular file", UserError)
    refuses(tmp_path / "circle", "cannot be read: Too many levels of symbolic links", UserError)


def test_a_file_of_hundreds_of_megabytes_is_not_read(path, monkeypatch):
    monkeypatch.setattr(formats, "MOST_BYTES", 100)
    refuses(path, "more than the allowed 100 bytes", UserError)


def test_numbers_of_numpy_are_no_json():
    with pytest.raises(TypeError):
        formats.to_json("checkpoint", {"step": np.int64(3)})


def test_the_page_states_the_present_numbers():
    page = (Path(__file__).parents[1] / "docs" / "formats.md").read_text()
    table = page.split("## Formats")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([a-z ]+) \| .* \| (\d+) \|$", table, re.M)
    assert {kind: int(number) for kind, number in rows} == formats.NUMBERS
