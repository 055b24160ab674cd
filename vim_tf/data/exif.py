"""EXIF orientation of a JPEG file, in TensorFlow operations, so that it also works in a graph."""

import tensorflow as tf

SEARCHED = 1 << 18  # bytes from the start; the marker stands before the pixels, mostly first
_ORIENTATION = 0x0112
_SHORT = 3  # the type of a number of two bytes


def jpeg_orientation(data):
    """Returns how a JPEG is to be turned, as `decoding.orient` takes it.

    Args:
        data: scalar string, the file.

    Returns:
        int32 scalar from 1 to 8; 1 if the file does not say, or says nonsense.
    """
    data = tf.strings.substr(data, 0, SEARCHED)
    content = tf.cast(tf.io.decode_raw(data + b"\0", tf.uint8), tf.int32)
    last = tf.shape(content)[0] - 1

    def byte(place):
        return tf.gather(content, tf.clip_by_value(place, 0, last))

    def number(place, length, big_endian):
        """Unsigned integers of some bytes at places of any shape; 4 bytes may wrap around."""
        values = [byte(place + i) for i in range(length)]
        big = sum(value * (1 << 8 * (length - 1 - i)) for i, value in enumerate(values))
        little = sum(value * (1 << 8 * i) for i, value in enumerate(values))
        return tf.where(big_endian, big, little)

    def is_exif(place):
        # Marker APP1, two bytes of length, then "Exif\0\0" (EXIF 2.3, section 4.7.2).
        text = tf.stack([byte(place + 4 + i) for i in range(6)])
        return (byte(place + 1) == 0xE1) & tf.reduce_all(text == tf.constant(list(b"Exif\0\0")))

    def goes_on(place):
        kind = byte(place + 1)
        is_segment = (byte(place) == 0xFF) & (((kind >= 0xE0) & (kind <= 0xEF)) | (kind == 0xFE))
        return is_segment & ~is_exif(place) & (place < last)

    def to_next(place):
        return place + 2 + tf.maximum(number(place + 2, 2, True), 2)

    place = tf.while_loop(goes_on, to_next, [tf.constant(2)])[0]
    start = place + 10  # of the TIFF header, from which all offsets count
    big_endian = byte(start) == ord("M")
    directory = start + number(start + 4, 4, big_endian)
    count = number(directory, 2, big_endian)
    entries = directory + 2 + 12 * tf.range(tf.minimum(count, 256))  # [entries]
    chosen = (number(entries, 2, big_endian) == _ORIENTATION) & (
        number(entries + 2, 2, big_endian) == _SHORT
    )
    value = tf.reduce_max(tf.where(chosen, number(entries + 8, 2, big_endian), 0))
    good = is_exif(place) & (value >= 1) & (value <= 8)
    return tf.where(good, value, 1)
