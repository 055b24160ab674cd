"""The chunks of a PNG file, in TensorFlow operations and without them.

Layout of chunks: PNG specification (third edition), section 5.3; tRNS and eXIf: sections 11.3.1.1
and 11.3.4.5.
"""

import io
from collections.abc import Iterator
from typing import BinaryIO

import tensorflow as tf

from vim_tf.annotations import Tensor

# Encoders write one for each 8 to 64 KB. The search ends here, so that no file can make it endless.
CHUNKS = 1000
_FIRST = 8  # bytes before the first chunk
_HEAD = 8  # bytes of a chunk before its content: length and kind


def find_chunks(data: Tensor) -> tuple[Tensor, Tensor]:
    """Finds EXIF, and whether a colour or palette entries are transparent.

    Args:
        data: scalar string, a PNG file, or any other bytes.

    Returns:
        (exif, transparent): the position of the content of the first eXIf chunk as an int32 scalar,
        0 if there is none among the first `CHUNKS` chunks; and a bool scalar, whether there is a
        tRNS chunk before the pixels.
    """
    end = tf.strings.length(data)
    head = tf.strings.substr(data, 0, 32) + b"\0" * 32
    color = tf.io.decode_raw(tf.strings.substr(head, 25, 1), tf.uint8)[0]
    # A key for grey and for RGB; for palettes tRNS has a byte an entry.
    key_length = tf.where(color == 0, 2, tf.where(color == 2, 6, 0))

    def read(place: Tensor | int) -> tuple[Tensor, Tensor]:
        head = tf.strings.substr(data, tf.minimum(place, end), _HEAD) + b"\0" * _HEAD
        length = tf.io.decode_raw(tf.strings.substr(head, 0, 4), tf.int32, little_endian=False)[0]
        return length, tf.strings.substr(head, 4, 4)

    def goes_on(place, length, kind, exif, transparent, pixels, count):
        del transparent, exif, pixels
        # A length above 2^31 - 1 is negative here.
        return (length >= 0) & (length < end - place) & (kind != b"IEND") & (count < CHUNKS)

    def step(place, length, kind, exif, transparent, pixels, count):
        fits = tf.where(color == 3, length <= 256, length == key_length) & (length > 0)
        following = place + _HEAD + length + 4  # the last four are a checksum
        return (
            following,
            *read(following),
            tf.where((kind == b"eXIf") & (exif == 0), place + _HEAD, exif),
            transparent | ((kind == b"tRNS") & ~pixels & fits),
            pixels | (kind == b"IDAT"),
            count + 1,
        )

    no = tf.constant(False)
    start = [tf.constant(_FIRST), *read(_FIRST), tf.constant(0), no, no, tf.constant(0)]
    return tf.while_loop(goes_on, step, start, parallel_iterations=1)[3:5]


def file_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yields (kind, position of its content, length) of the first `CHUNKS` chunks of a PNG file."""
    end = file.seek(0, io.SEEK_END)
    place = _FIRST
    for _ in range(CHUNKS):
        file.seek(place)
        head = file.read(_HEAD)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < _HEAD or length >= end - place or kind == b"IEND":
            return
        yield kind, place + _HEAD, length
        place += _HEAD + length + 4
