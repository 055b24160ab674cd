"""The segments of a JPEG file before its pixels, in TensorFlow operations.

Markers and segments: ITU-T T.81, annex B.
"""

from collections.abc import Iterable, Iterator

import tensorflow as tf

from vim_tf.annotations import Tensor

# A long colour profile takes 255. The search ends here, so that no file can make it endless.
SEGMENTS = 1000
# A decoder reads all coefficients for each scan, even for one of 50 bytes. Encoders write 10.
SCANS = 100
_HEAD = 10  # bytes of a segment that are read: marker, length and "Exif\0\0"
# Kinds of markers. Those of `_ALONE` have no length, and are not allowed before a scan.
_FIRST, _ALONE, SCAN = 0xC0, range(0xD0, 0xDA), 0xDA
_FRAMES = [kind for kind in range(0xC0, 0xD0) if kind not in (0xC4, 0xC8, 0xCC)]
_ONE_PASS = (0xC0, 0xC1)  # baseline and extended sequential, Huffman-coded


def find_segments(data: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Goes from segment to segment up to the first scan.

    Args:
        data: scalar string, a JPEG file, or any other bytes.

    Returns:
        (exif, frame, scan): int32 scalars, positions of the first segment of each kind; 0 if there
        is none before the first scan, among the first `SEGMENTS` segments.
    """

    def read(place: Tensor | int) -> Tensor:
        content = tf.io.decode_raw(bytes_at(data, place, _HEAD), tf.uint8)
        return tf.ensure_shape(tf.cast(content, tf.int32), [_HEAD])

    def is_one_of(kind: Tensor, kinds: Iterable[int]) -> Tensor:
        return tf.reduce_any(kind == tf.constant(list(kinds)))

    def goes_on(place, head, exif, frame, scan, count):
        del place, exif, frame
        kind = head[1]
        has_length = (kind >= _FIRST) & (kind < 0xFF) & ~is_one_of(kind, _ALONE)
        return (head[0] == 0xFF) & has_length & (scan == 0) & (count < SEGMENTS)

    def step(place, head, exif, frame, scan, count):
        kind = head[1]
        is_exif = (kind == 0xE1) & tf.reduce_all(head[4:] == tf.constant(list(b"Exif\0\0")))
        following = place + 2 + tf.maximum(256 * head[2] + head[3], 2)
        return (
            following,
            read(following),
            tf.where(is_exif & (exif == 0), place, exif),
            tf.where(is_one_of(kind, _FRAMES) & (frame == 0), place, frame),
            tf.where(kind == SCAN, place, scan),
            count + 1,
        )

    start = [tf.constant(2), read(2), *(tf.constant(0) for _ in range(4))]
    return tf.while_loop(goes_on, step, start, parallel_iterations=1)[2:5]


def is_buffered(data: Tensor, frame: Tensor, scan: Tensor) -> Tensor:
    """Returns whether a decoder holds all coefficients of a JPEG, whatever the reduction.

    They take 2 bytes per pixel for each component at full size. It is true for a progressive file
    and for one with several scans, and also if the segments were not found.

    Args:
        data: scalar string, the file.
        frame: position of its frame, see `find_segments`.
        scan: position of its first scan.
    """
    kind, components = byte_at(data, frame + 1), byte_at(data, frame + 9)
    one_pass = tf.reduce_any(kind == tf.constant(_ONE_PASS)) & (frame > 0) & (scan > 0)
    return ~(one_pass & (components == byte_at(data, scan + 4)))


def has_few_scans(data: Tensor, buffered: Tensor) -> Tensor:
    """Returns whether a JPEG that `is_buffered` has at most `SCANS` scans, bool scalar.

    Their markers are counted in all bytes, which may give a few too many. They are not counted in a
    file that is read in one scan: a video may follow it.
    """
    scans = tf.cond(
        buffered,
        lambda: tf.size(tf.strings.split(data, b"\xff\xda")) - 1,
        lambda: tf.constant(0),
    )
    return scans <= SCANS


def has_file_few_scans(data: bytes) -> bool:
    """`has_few_scans` for bytes, without TensorFlow."""
    return data.count(b"\xff\xda") <= SCANS or not is_file_buffered(data)


def is_file_buffered(data: bytes) -> bool:
    """`is_buffered` for bytes, without TensorFlow.

    It is for functions that TensorFlow calls: an operation in them may wait for a thread forever.
    """
    frame = None
    for kind, place, _ in file_segments(data):
        head = data[place : place + _HEAD]
        if kind == SCAN:
            return frame is None or frame[1] not in _ONE_PASS or frame[9:10] != head[4:5]
        if frame is None and kind in _FRAMES:
            frame = head
    return True


def is_frame(kind: int) -> bool:
    """Returns whether a marker starts a frame, whose segment has the size."""
    return kind in _FRAMES


def file_segments(data: bytes, place: int = 2) -> Iterator[tuple[int, int, int]]:
    """Yields (kind, position, length with the marker) of the segments up to the first scan.

    It ends before anything that is no segment, and after `SEGMENTS` segments.

    Args:
        data: a JPEG file, or any other bytes.
        place: position of the first segment.
    """
    for _ in range(SEGMENTS):
        head = data[place : place + _HEAD]
        if len(head) < 5 or head[0] != 0xFF or not (_FIRST <= head[1] < 0xFF) or head[1] in _ALONE:
            return
        kind, length = head[1], 2 + max(int.from_bytes(head[2:4], "big"), 2)
        yield kind, place, length
        if kind == SCAN:
            return
        place += length


def byte_at(data: Tensor, place: Tensor) -> Tensor:
    """Returns a byte of a string as an int32 scalar; 0 beyond the end."""
    return tf.cast(tf.io.decode_raw(bytes_at(data, place, 1), tf.uint8)[0], tf.int32)


def bytes_at(data: Tensor, place: Tensor | int, length: int) -> Tensor:
    """Returns `length` bytes of a string as a string; zeros beyond the end."""
    place = tf.clip_by_value(place, 0, tf.strings.length(data))
    return tf.strings.substr(tf.strings.substr(data, place, length) + b"\0" * length, 0, length)
