"""EXIF orientation, compared with Pillow, also on files with damage at each byte."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import ExifTags, Image

from vim_tf.data.exif import jpeg_orientation
from vim_tf.data.jpeg_markers import find_segments


@pytest.fixture(scope="module")
def orientation():
    graph = tf.function(
        lambda data: jpeg_orientation(data, find_segments(data)[0]),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )
    return lambda data: int(graph(tf.constant(data)))


def jpeg(order="<", **options):
    exif = Image.Exif()
    exif.endian = order
    exif[ExifTags.Base.Make] = "a maker with a long name"
    exif[ExifTags.Base.ImageWidth] = 70_000  # a type of four bytes
    for key, value in options.pop("tags", {}).items():
        exif[key] = value
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "jpeg", exif=exif.tobytes(), **options)
    return file.getvalue()


def plain(**options):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "jpeg", **options)
    return file.getvalue()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", [*range(1, 9)])
def test_as_pillow_reads_it(orientation, order, value):
    data = jpeg(order, tags={ExifTags.Base.Orientation: value})
    assert Image.open(io.BytesIO(data)).getexif()[ExifTags.Base.Orientation] == value
    assert orientation(data) == value


@pytest.mark.parametrize("value", [0, 9, 65_535])
def test_nonsense_counts_as_upright(orientation, value):
    assert orientation(jpeg(tags={ExifTags.Base.Orientation: value})) == 1


def test_without_a_word_of_it(orientation):
    assert orientation(plain()) == 1
    assert orientation(jpeg()) == 1
    assert orientation(b"") == 1
    assert orientation(b"\xff\xd8\xff") == 1


def test_exif_after_other_segments(orientation):
    """Cameras write JFIF first, and profiles may follow before EXIF."""
    data = jpeg(tags={ExifTags.Base.Orientation: 6})
    segment = b"\xff\xe2" + (2 + 60_000).to_bytes(2, "big") + bytes(60_000)
    comment = b"\xff\xfe" + (2 + 5).to_bytes(2, "big") + b"hello"
    assert orientation(data[:2] + segment + comment + data[2:]) == 6
    assert orientation(data[:2] + segment * 255 + data[2:]) == 6  # the longest colour profile
    assert orientation(data[:2] + comment * 999 + data[2:]) == 1  # beyond the searched bytes


def test_an_exif_segment_after_the_pixels_is_ignored(orientation):
    data = jpeg(tags={ExifTags.Base.Orientation: 6})
    quantization = plain().index(b"\xff\xdb")
    assert orientation(plain()[quantization:] + data[2:]) == 1


def test_damaged_bytes_give_an_orientation_all_the_same(orientation):
    data = np.frombuffer(jpeg(tags={ExifTags.Base.Orientation: 6})[:140], "uint8")
    rng = np.random.default_rng(0)
    for place in range(2, len(data)):
        damaged = data.copy()
        damaged[place] = rng.integers(256)
        assert 1 <= orientation(damaged.tobytes()) <= 8
        assert 1 <= orientation(data[:place].tobytes()) <= 8


@pytest.mark.parametrize("order", ["<", ">"])
def test_hostile_exif_is_read_quickly(orientation, files, order, quick):
    """It has 65,535 entries that all point to one place, in a directory that follows itself."""
    exif = files.hostile_exif(order=order)
    parts = [b"Exif\0\0" + exif[start : start + 65_000] for start in range(0, len(exif), 65_000)]
    data = files.jpeg(b"".join(files.segment(0xE1, part) for part in parts))
    assert quick(lambda: orientation(data)) == 1


@pytest.mark.parametrize("place", [0, 4, 8, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_offsets_in_a_circle_and_out_of_the_file_end(orientation, files, place):
    exif = b"MM\0*" + struct.pack(">L", place) + struct.pack(">HHHLHHL", 2, 0x0112, 3, 1, 6, 0, 8)
    data = files.jpeg(files.segment(0xE1, b"Exif\0\0" + exif))
    assert orientation(data) == (6 if place == 8 else 1)


def test_a_million_segments_are_walked_quickly(orientation, files, quick):
    data = files.jpeg(files.segment(0xE5) * 1_000_000)
    assert quick(lambda: orientation(data)) == 1
