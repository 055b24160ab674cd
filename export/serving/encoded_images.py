"""JPEG and PNG files inside a graph: refused by their header, decoded, prepared as for evaluation.

What decoding holds in memory is bounded, whatever a request sends: `DECODED_AT_A_TIME` images of
at most `max_pixels`, at `BYTES_PER_PIXEL`.

A decoder that fails would fail the whole batch. Here every row is an element of a `tf.data` data
set inside the graph, which leaves a failing element out; what is missing at the end is the row that
could not be decoded.
"""

import tensorflow as tf

from vim_tf.annotations import Tensor
from vim_tf.data import decoding, exif, image_limits, jpeg_markers, png_chunks, transforms

DECODED_AT_A_TIME = 2  # rows of a request; a server with more cores answers more requests at once
# At most, kept for later included: 7 for a PNG, 9 to 12 for a progressive JPEG, by its channels.
BYTES_PER_PIXEL = 20
_RATIOS = (1, 2, 4, 8)  # by which a JPEG can be decoded smaller
_TOO_MANY_SCANS = (
    f"image_bytes is a JPEG of more than {jpeg_markers.SCANS} scans; send it with fewer"
)
UNDECODABLE = "image_bytes cannot be decoded; give a whole JPEG or PNG file"


def prepare_images(
    image_bytes: Tensor, size: tuple[int, int], max_pixels: int
) -> tuple[Tensor, Tensor]:
    """Decodes images of any size, resizes and centre-crops them.

    Large JPEG files are decoded at 1/2, 1/4 or 1/8 of their size, never below twice the target, as
    a folder of images is for training. EXIF orientation and transparency are applied as there.
    Colour profiles and an orientation that only XMP states are not.

    Args:
        image_bytes: [B] string, each a JPEG or PNG file.
        size: (H, W) of the target.
        max_pixels: images of more pixels, by their header, are refused before they are decoded. A
            JPEG counts at its reduced size; one whose coefficients a decoder holds all at once
            (progressive) counts at its own size.

    Returns:
        (images [B,H,W,3] float32 in [-1,1], errors [B] string). An error is empty where the image
        is good; elsewhere the image is zero.
    """
    rows = tf.shape(image_bytes, out_type=tf.int64)[0]

    def prepare(row, data):
        image, error = _prepare(data, size, max_pixels)
        return row, image, error

    # One more element, so that the batch is never empty, and its row falls off the end.
    last = tf.data.Dataset.from_tensors((rows, tf.zeros([*size, 3]), tf.constant("")))
    prepared = (
        tf.data.Dataset.from_tensor_slices((tf.range(rows), image_bytes))
        .map(prepare, DECODED_AT_A_TIME)
        .ignore_errors()
        .concatenate(last)
        .batch(rows + 1)
        .get_single_element()
    )
    places, images, errors = prepared
    places = places[:, tf.newaxis]
    images = tf.scatter_nd(places, images, tf.stack([rows + 1, *size, 3]))[:-1]
    refused = tf.fill([rows + 1], UNDECODABLE)
    return images, tf.tensor_scatter_nd_update(refused, places, errors)[:-1]


def _prepare(data, size, max_pixels):
    """One file -> (image [H,W,3], error); fails where it cannot be decoded."""
    head = tf.strings.substr(data, 0, 32) + b"\0" * 32  # too short to be an image: fails later
    is_jpeg = tf.strings.substr(head, 0, 3) == b"\xff\xd8\xff"
    is_png = tf.strings.substr(head, 0, 8) == b"\x89PNG\r\n\x1a\n"
    image_size = tf.case(
        [(is_jpeg, lambda: decoding.jpeg_size(data)), (is_png, lambda: decoding.png_size(data))],
        default=lambda: tf.zeros([2], tf.int64),
    )
    ratio = _fitting_ratio(image_size, max_pixels)
    exif_place, frame, scan = tf.cond(
        is_jpeg,
        lambda: jpeg_markers.find_segments(data),
        lambda: [tf.constant(0) for _ in range(3)],
    )
    buffered = is_jpeg & jpeg_markers.is_buffered(data, frame, scan)
    # All coefficients of a progressive file are held at its full size.
    reducible = is_jpeg & ~buffered & (ratio <= _RATIOS[-1])
    pixels = tf.reduce_prod(image_size)
    length = tf.cast(tf.strings.length(data), tf.int64)
    possible = tf.maximum(length * image_limits.JPEG_PIXELS_PER_BYTE, image_limits.MOST)
    error = tf.case(
        [
            (~(is_jpeg | is_png), lambda: tf.constant("image_bytes is neither JPEG nor PNG")),
            (pixels == 0, lambda: tf.constant(UNDECODABLE)),
            (~reducible & (pixels > max_pixels), lambda: _too_large(image_size, max_pixels)),
            (pixels > possible, lambda: tf.constant(UNDECODABLE)),
            (~jpeg_markers.has_few_scans(data, buffered), lambda: tf.constant(_TOO_MANY_SCANS)),
        ],
        default=lambda: tf.constant(""),
    )

    def decode_png():
        exif_of_png, transparent = png_chunks.find_chunks(data)
        pixels = decoding.decode_png(data, transparent)
        return decoding.orient(pixels, exif.orientation_at(data, exif_of_png))

    def decode():
        shrink = tf.reduce_min(image_size / (2 * tf.constant(size, tf.int64)))
        reduction = tf.maximum(_reduction(shrink), ratio)
        image = tf.cond(
            is_jpeg,
            lambda: decoding.orient(
                decoding.decode_jpeg(data, reduction), exif.jpeg_orientation(data, exif_place)
            ),
            decode_png,
        )
        return transforms.transform_for_evaluation(image, size)

    return tf.cond(error == "", decode, lambda: tf.zeros([*size, 3])), error


def _fitting_ratio(size, max_pixels):
    """Returns the least of `_RATIOS` by which a JPEG has at most `max_pixels`; 16 if none is.

    Args:
        size: [height, width] of the whole image, int64.
        max_pixels: an integer.
    """
    ratios = tf.constant(_RATIOS, tf.int64)
    fits = tf.reduce_prod(-(-size[:, tf.newaxis] // ratios), 0) <= max_pixels  # [ratios]
    return tf.cast(tf.reduce_min(tf.where(fits, ratios, 16)), tf.int32)


def _reduction(shrink):
    """The largest ratio of 8, 4, 2 and 1 by which a JPEG may be decoded smaller."""
    ratios = tf.constant([8, 4, 2], tf.int32)
    fits = tf.cast(ratios, tf.float64) <= shrink
    return tf.reduce_max(tf.where(fits, ratios, 1))


def _too_large(size, max_pixels):
    height, width = (tf.strings.as_string(number) for number in (size[0], size[1]))
    return tf.strings.join(
        ["image_bytes is an image of ", height, " x ", width, f" pixels; at most {max_pixels:,}"]
        + [" are decoded; make it smaller"]
    )
