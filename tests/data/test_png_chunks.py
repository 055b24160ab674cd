"""Chunks of PNG files, found in a graph and without one, compared with what Pillow reads."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from vim_tf.data import exif, png_chunks

PIXELS = struct.pack(">H", 9) * 3  # a transparent colour


@pytest.fixture(scope="module")
def find():
    """(orientation, whether transparent) of a PNG, in a graph."""

    def run(data):
        place, transparent = png_chunks.find_chunks(data)
        return exif.orientation_at(data, place), transparent

    graph = tf.function(run, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    return lambda data: tuple(value.numpy() for value in graph(tf.constant(data)))


def exif_chunk(files, orientation):
    content = Image.Exif()
    content[0x0112] = orientation
    return files.png_chunk(b"eXIf", content.tobytes()[6:])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("where", ["more", "after"])
def test_exif_before_and_after_the_pixels(find, files, orientation, where):
    data = files.png(8, 8, **{where: exif_chunk(files, orientation)})
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.getexif()[0x0112] == orientation
    assert find(data) == (orientation, False)


def test_the_first_of_two(find, files):
    first, second = exif_chunk(files, 6), exif_chunk(files, 3)
    assert find(files.png(8, 8, more=first, after=second))[0] == 6


@pytest.mark.parametrize(
    ("where", "content", "found"),
    [
        ("more", PIXELS, True),
        ("more", PIXELS[:2], False),  # of a grey image
        ("more", b"", False),
        ("after", PIXELS, False),
    ],
)
def test_a_transparent_colour_counts_before_the_pixels_and_if_it_is_whole(
    find, files, where, content, found
):
    data = files.png(8, 8, **{where: files.png_chunk(b"tRNS", content)})
    assert find(data) == (1, found)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA"])
def test_each_colour_type(find, mode):
    transparent = mode in ("L", "P", "RGB")
    options = {"transparency": (1, 2, 3) if mode == "RGB" else 1} if transparent else {}
    file = io.BytesIO()
    Image.new(mode, (8, 8)).save(file, "PNG", **options)
    assert find(file.getvalue()) == (1, transparent)


def test_both_ways_find_the_same_exif_in_damaged_files(files):
    graph = tf.function(
        lambda data: png_chunks.find_chunks(data)[0],
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )
    whole = files.png(8, 8, more=exif_chunk(files, 6), after=files.png_chunk(b"tEXt", b"a\0b"))
    rng = np.random.default_rng(0)
    places = set()
    for place in range(8, len(whole)):
        changed = bytearray(whole)
        changed[place] = rng.integers(256)
        for data in (bytes(changed), whole[:place]):
            chunks = png_chunks.file_chunks(io.BytesIO(data))
            starts = [start for kind, start, _ in chunks if kind == b"eXIf"]
            found = int(graph(tf.constant(data)))
            assert found == (starts[0] if starts else 0)
            places.add(found)
    assert len(places) == 2  # found, and not found


def test_many_chunks_end_quickly(find, files, quick):
    many = files.png_chunk(b"abCd", b"") * 200_000
    data = files.png(8, 8, more=many + exif_chunk(files, 6))
    assert quick(lambda: find(data)) == (1, False)
    chunks = quick(lambda: [*png_chunks.file_chunks(io.BytesIO(data))])
    assert len(chunks) == png_chunks.CHUNKS
