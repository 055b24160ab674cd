"""JPEG markers of files that Pillow wrote, and of files with false markers."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from vim_tf.data import jpeg_markers


@pytest.fixture(scope="module")
def find():
    graph = tf.function(
        jpeg_markers.find_segments, input_signature=[tf.TensorSpec([], tf.string)], autograph=False
    )
    return lambda data: [int(place) for place in graph(tf.constant(data))]


@pytest.fixture(scope="module")
def is_buffered():
    graph = tf.function(
        lambda data: jpeg_markers.is_buffered(data, *jpeg_markers.find_segments(data)[1:]),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )

    def agreed(data):
        """Both implementations give the same answer; returns it."""
        found = bool(graph(tf.constant(data)))
        assert jpeg_markers.is_file_buffered(data) == found
        return found

    return agreed


def test_segments_are_found_where_they_begin(find, files):
    data = files.jpeg(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0")
    exif, frame, scan = find(data)
    assert data[exif:].startswith(b"\xff\xe1") and data[exif + 4 :].startswith(b"Exif\0\0")
    assert data[frame:].startswith(b"\xff\xc0\0\x11") and data[frame + 4] == 8
    assert data[scan:].startswith(b"\xff\xda\0\x0c\x03")


def test_the_first_of_two_and_none(find, files):
    first = files.segment(0xE1, b"Exif\0\0" + b"1")
    assert find(files.jpeg(first + files.segment(0xE1, b"Exif\0\0" + b"2")))[0] == 2
    assert find(files.jpeg())[0] == 0
    assert find(files.jpeg(files.segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0")))[0] == 0
    assert find(b"") == find(b"\xff\xd8\xff") == [0, 0, 0]


def test_nothing_after_the_first_scan_is_read(find, files):
    data = files.jpeg()
    assert find(data + files.segment(0xE1, b"Exif\0\0")) == find(data)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_progressive_files_are_buffered(is_buffered, files, mode, progressive):
    data = files.jpeg(mode=mode, size=(40, 30), progressive=progressive)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == mode and bool(image.info.get("progressive")) == progressive
    assert is_buffered(data) == progressive


def test_a_scan_of_fewer_components_than_the_frame_is_buffered(is_buffered, files):
    data = files.jpeg()
    start = data.index(b"\xff\xda\0\x0c\x03")
    several = data[:start] + files.segment(0xDA, b"\x01\x01\0\0\x3f\0") + data[start + 14 :]
    assert not is_buffered(data) and is_buffered(several)


@pytest.mark.parametrize(
    "change",
    {
        "nothing": lambda data, segment: b"",
        "cut before the frame": lambda data, segment: data[: data.index(b"\xff\xc0")],
        "cut before the scan": lambda data, segment: data[: data.index(b"\xff\xda")],
        "junk between segments": lambda data, segment: data[:2] + b"x" + data[2:],
        "a marker without length": lambda data, segment: data[:2] + b"\xff\x01" + data[2:],
        "more segments than are read": lambda data, segment: (
            data[:2] + segment(0xE5) * 1000 + data[2:]
        ),
        "another frame": lambda data, segment: data.replace(b"\xff\xc0\0\x11", b"\xff\xca\0\x11"),
    }.items(),
    ids=lambda change: change[0],
)
def test_in_doubt_a_file_counts_as_buffered(is_buffered, files, change):
    assert is_buffered(change[1](files.jpeg(), files.segment))


def test_many_segments_end_quickly(is_buffered, files, quick):
    for data in (files.jpeg(files.segment(0xE5) * 1_000_000), b"\xff\xd8" + b"\xff" * 4_000_000):
        assert quick(lambda data=data: is_buffered(data))


def test_both_ways_agree_on_damaged_files(is_buffered, files):
    data = files.jpeg(files.segment(0xE1, b"Exif\0\0") + files.segment(0xFE, b"hello"))
    rng = np.random.default_rng(0)
    answers = set()
    for place in range(data.index(b"\xff\xda") + 14):
        damaged = bytearray(data)
        damaged[place] = rng.integers(256)
        answers.add(is_buffered(bytes(damaged)))
        is_buffered(data[:place])
    assert answers == {True, False}
