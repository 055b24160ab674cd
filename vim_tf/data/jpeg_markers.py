"""What the segments of a JPEG file say before its pixels, in TensorFlow operations.

Markers and segments: ITU-T T.81, annex B.
"""

import tensorflow as tf

# A long colour profile takes 255. The walk ends here, so that no file can keep it busy.
SEGMENTS = 1000
_HEAD = 10  # bytes of a segment that are read: marker, length and "Exif\0\0"
_ONE_PASS = (0xC0, 0xC1)  # frames of baseline and of extended sequential JPEG, Huffman-coded


def find_segments(data):
    """Walks from segment to segment up to the first scan.

    Args:
        data: scalar string, a JPEG file, or any other bytes.

    Returns:
        (exif, frame, scan): int32 scalars, where the first segment of each kind begins; 0 where
        there is none before the first scan, among the first `SEGMENTS` segments.
    """

    def goes_on(place, exif, frame, scan, count):
        del exif, frame
        return (scan == 0) & (count < SEGMENTS) & is_segment(place)

    def is_segment(place):
        # Not 0xD0 to 0xD9 and 0x01, which stand alone: they have no business before a scan.
        kind = byte_at(data, place + 1)
        has_length = ((kind >= 0xC0) & (kind < 0xD0)) | ((kind > 0xD9) & (kind < 0xFF))
        return (byte_at(data, place) == 0xFF) & has_length

    def step(place, exif, frame, scan, count):
        head = bytes_at(data, place, _HEAD)
        kind, length = byte_at(head, 1), 256 * byte_at(head, 2) + byte_at(head, 3)
        is_exif = (kind == 0xE1) & (tf.strings.substr(head, 4, 6) == b"Exif\0\0")
        # 0xC4, 0xC8 and 0xCC among the frames' markers are tables and an extension.
        is_frame = (kind >= 0xC0) & (kind < 0xD0) & (kind % 4 != 0) | (kind == 0xC0)
        return (
            place + 2 + tf.maximum(length, 2),
            tf.where(is_exif & (exif == 0), place, exif),
            tf.where(is_frame & (frame == 0), place, frame),
            tf.where(kind == 0xDA, place, scan),
            count + 1,
        )

    start = [tf.constant(value) for value in (2, 0, 0, 0, 0)]
    return tf.while_loop(goes_on, step, start, parallel_iterations=1)[1:4]


def is_buffered(data):
    """Returns whether a decoder holds all coefficients of a JPEG, however small it decodes it.

    They take 2 bytes a pixel for each component at full size. So it is for a progressive file, and
    for one of several scans; true also where `find_segments` cannot tell.
    """
    _, frame, scan = find_segments(data)
    kind, components = byte_at(data, frame + 1), byte_at(data, frame + 9)
    one_pass = tf.reduce_any(kind == tf.constant(_ONE_PASS)) & (frame > 0) & (scan > 0)
    return ~(one_pass & (components == byte_at(data, scan + 4)))


def byte_at(data, place):
    """Returns a byte of a string as an int32 scalar; 0 beyond the end."""
    return tf.cast(tf.io.decode_raw(bytes_at(data, place, 1), tf.uint8)[0], tf.int32)


def bytes_at(data, place, length):
    """Returns `length` bytes of a string as a string; zeros beyond the end."""
    place = tf.clip_by_value(place, 0, tf.strings.length(data))
    return tf.strings.substr(tf.strings.substr(data, place, length) + b"\0" * length, 0, length)
