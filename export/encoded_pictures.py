"""JPEG and PNG files inside a graph: refused by their header, decoded, prepared as for evaluation.

A decoder that fails would fail the whole batch. Here every row is an element of a `tf.data` data
set inside the graph, which leaves a failing element out; what is missing at the end is the row that
could not be decoded.
"""

import tensorflow as tf

from vim_tf.data import decoding, exif, transforms

UNDECODABLE = "image_bytes cannot be decoded; give a whole JPEG or PNG file"


def prepare_pictures(image_bytes, size, max_pixels):
    """Decodes pictures of any size, resizes and centre-crops them.

    Large JPEG files are decoded at 1/2, 1/4 or 1/8 of their size, never below twice the target, as
    a folder of pictures is for training. EXIF orientation is applied.

    Args:
        image_bytes: [B] string, each a JPEG or PNG file.
        size: (H, W) of the target.
        max_pixels: pictures of more pixels, by their header, are refused before they are decoded.

    Returns:
        (images [B,H,W,3] float32 in [-1,1], errors [B] string). An error is empty where the picture
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
        .map(prepare, tf.data.AUTOTUNE)
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
    head = tf.strings.substr(data, 0, 32) + b"\0" * 32  # too short to be a picture: fails later
    is_jpeg = tf.strings.substr(head, 0, 3) == b"\xff\xd8\xff"
    is_png = tf.strings.substr(head, 0, 8) == b"\x89PNG\r\n\x1a\n"
    picture_size = tf.case(
        [
            (is_jpeg, lambda: tf.cast(tf.io.extract_jpeg_shape(data)[:2], tf.int64)),
            (is_png, lambda: _png_size(head)),
        ],
        default=lambda: tf.zeros([2], tf.int64),
    )
    height, width = picture_size[0], picture_size[1]
    is_large = height * width > max_pixels
    error = tf.case(
        [
            (~(is_jpeg | is_png), lambda: tf.constant("image_bytes is neither JPEG nor PNG")),
            (is_large, lambda: _too_large(height, width, max_pixels)),
        ],
        default=lambda: tf.constant(""),
    )

    def decode():
        shrink = tf.reduce_min(picture_size / (2 * tf.constant(size, tf.int64)))
        picture = tf.cond(
            is_jpeg,
            lambda: decoding.orient(
                decoding.decode_jpeg(data, _reduction(shrink)), exif.jpeg_orientation(data)
            ),
            lambda: decoding.decode_png(data),
        )
        return transforms.transform_for_evaluation(picture, size)

    return tf.cond(error == "", decode, lambda: tf.zeros([*size, 3])), error


def _png_size(head):
    """Height and width from the IHDR chunk (PNG specification, section 11.2.1), int64 [2]."""
    numbers = tf.io.decode_raw(tf.strings.substr(head, 16, 8), tf.uint8)  # [8], big-endian
    numbers = tf.reshape(tf.cast(numbers, tf.int64), [2, 4])
    width_height = tf.reduce_sum(numbers * tf.constant([1 << 24, 1 << 16, 1 << 8, 1], tf.int64), 1)
    return width_height[::-1]


def _reduction(shrink):
    """The largest ratio of 8, 4, 2 and 1 by which a JPEG may be decoded smaller."""
    ratios = tf.constant([8, 4, 2], tf.int32)
    fits = tf.cast(ratios, tf.float64) <= shrink
    return tf.reduce_max(tf.where(fits, ratios, 1))


def _too_large(height, width, max_pixels):
    return tf.strings.join(
        [
            "image_bytes is a picture of ",
            tf.strings.as_string(height),
            " x ",
            tf.strings.as_string(width),
            f" pixels; at most {max_pixels:,} are taken",
        ]
    )
