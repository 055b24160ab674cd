"""EXIF orientation of an encoded image, in TensorFlow operations, so that a graph can have it."""

import tensorflow as tf

from vim_tf.annotations import Tensor

_ORIENTATION = 0x0112
_SHORT = 3  # the type of a number of two bytes
_SEGMENT = 1 << 16  # bytes; no segment is longer


def jpeg_orientation(data: Tensor, exif: Tensor) -> Tensor:
    """Returns the orientation of a JPEG, see `orientation_at`.

    Args:
        data: scalar string, the file.
        exif: int32 scalar, position of its EXIF segment, see `jpeg_markers.find_segments`; 0 if
            there is none.
    """
    # Marker, two bytes of length, "Exif\0\0" (EXIF 2.3, section 4.7.2), then the TIFF header.
    return orientation_at(data, tf.where(exif > 0, exif + 10, 0))


def orientation_at(data: Tensor, start: Tensor) -> Tensor:
    """Returns the orientation that EXIF states, as `decoding.orient` takes it.

    Args:
        data: scalar string, the file.
        start: int32 scalar, position of the TIFF header of EXIF; 0 if there is none. In a PNG it is
            the content of its eXIf chunk.

    Returns:
        int32 scalar from 1 to 8; 1 if the file states none, or an invalid one.
    """
    # All offsets count from the TIFF header.
    content = tf.strings.substr(data, tf.minimum(start, tf.strings.length(data)), _SEGMENT)
    content = tf.cast(tf.io.decode_raw(content + b"\0", tf.uint8), tf.int32)
    last = tf.shape(content)[0] - 1

    def number(place: Tensor | int, length: int, big_endian: Tensor) -> Tensor:
        """Unsigned integers of `length` bytes at places of any shape; 4 bytes may wrap around."""
        places = [tf.clip_by_value(place + i, 0, last) for i in range(length)]
        values = [tf.gather(content, place) for place in places]
        big = sum(value * (1 << 8 * (length - 1 - i)) for i, value in enumerate(values))
        little = sum(value * (1 << 8 * i) for i, value in enumerate(values))
        return tf.where(big_endian, big, little)

    big_endian = content[0] == ord("M")
    directory = number(4, 4, big_endian)
    count = number(directory, 2, big_endian)
    entries = directory + 2 + 12 * tf.range(tf.minimum(count, 256))  # [entries]
    chosen = (number(entries, 2, big_endian) == _ORIENTATION) & (
        number(entries + 2, 2, big_endian) == _SHORT
    )
    value = tf.reduce_max(tf.where(chosen, number(entries + 8, 2, big_endian), 0))
    good = (start > 0) & (value >= 1) & (value <= 8)
    return tf.where(good, value, 1)
