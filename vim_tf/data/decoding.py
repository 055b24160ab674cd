"""Encoded pictures -> [h, w, 3] uint8, in TensorFlow operations.

TensorFlow's decoders know neither EXIF orientation nor a ground for transparent pictures, give
wrong alpha for PNG of fewer than 8 bits, read the palette indices of BMP as grey, and paint
transparent GIF pixels black. What cannot be had from them, `folder` leaves to Pillow.
"""

import tensorflow as tf


def decode_picture(data, reduction=1):
    """Decodes a JPEG, PNG, WebP, GIF (first frame) or BMP picture, put on white where transparent.

    16-bit channels lose their lower byte, grey is repeated, CMYK converted.

    Args:
        data: scalar string, the encoded picture.
        reduction: int32 scalar 1, 2, 4 or 8; a JPEG is decoded at 1 / reduction of its size.

    Returns:
        [h, w, 3] uint8.

    Raises:
        tf.errors.InvalidArgumentError: damaged or of another format.
    """
    # Padded, for strings too short to be pictures: they fail in the decoder.
    head = tf.strings.substr(data, 0, 32) + b"\0" * 32
    jpeg = tf.strings.substr(head, 0, 2) == b"\xff\xd8"
    png = tf.strings.substr(head, 0, 4) == b"\x89PNG"
    webp = tf.strings.substr(head, 8, 4) == b"WEBP"
    picture = tf.case(
        [
            (jpeg, lambda: decode_jpeg(data, reduction)),
            (png, lambda: decode_png(data)),
            (webp, lambda: _decode_webp(data, head)),
        ],
        default=lambda: tf.io.decode_image(data, channels=3, expand_animations=False),
    )
    return tf.ensure_shape(picture, [None, None, 3])


def put_on_white(picture):
    """Returns [h, w, 3] uint8 of a [h, w, 4] uint8 picture with straight alpha."""
    color = tf.cast(picture[..., :3], tf.float32)
    alpha = tf.cast(picture[..., 3:], tf.float32) / 255.0
    return tf.cast(tf.round(color * alpha + 255.0 * (1.0 - alpha)), tf.uint8)


def orient(picture, orientation):
    """Turns and mirrors a picture as its EXIF orientation says.

    Args:
        picture: [h, w, 3].
        orientation: int32 scalar, 1 to 8 (EXIF 2.3, section 4.6.4, tag 0x0112).

    Returns:
        [h, w, 3], or [w, h, 3] for orientations 5 to 8.
    """

    def one_of(*values):
        return tf.reduce_any(orientation == tf.constant(values))

    def change(condition, function, picture):
        return tf.cond(condition, lambda: function(picture), lambda: picture)

    picture = change(orientation >= 5, lambda image: tf.transpose(image, [1, 0, 2]), picture)
    picture = change(one_of(2, 3, 6, 7), lambda image: image[:, ::-1], picture)
    picture = change(one_of(3, 4, 7, 8), lambda image: image[::-1], picture)
    return tf.ensure_shape(picture, [None, None, 3])


def decode_jpeg(data, reduction=1):
    """Decodes a JPEG file at 1 / reduction (1, 2, 4 or 8; int or int32 scalar): [h, w, 3] uint8."""

    def decode(ratio):
        # The slow inverse DCT gives the same pixels as Pillow and every other libjpeg.
        return tf.io.decode_jpeg(data, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    if isinstance(reduction, int):
        return decode(reduction)
    return tf.case(
        [(reduction == ratio, lambda ratio=ratio: decode(ratio)) for ratio in (8, 4, 2)],
        default=lambda: decode(1),
    )


def decode_png(data):
    """Decodes a PNG file, put on white where it has an alpha channel: [h, w, 3] uint8."""
    # Colour types 4 and 6 have an alpha channel. The others are not asked for one: for fewer
    # than 8 bits TensorFlow would fill it with the largest value of that many bits.
    head = tf.strings.substr(data, 0, 32) + b"\0" * 32
    return tf.cond(
        _has_bits(head, 25, 4),
        lambda: put_on_white(tf.io.decode_png(data, channels=4)),
        lambda: tf.io.decode_png(data, channels=3),
    )


def _decode_webp(data, head):
    # TensorFlow wants to be told the number of channels: WebP container specification, VP8X
    # flags, and the lossless bit stream's alpha_is_used.
    kind = tf.strings.substr(head, 12, 4)
    alpha = (kind == b"VP8X") & _has_bits(head, 20, 0x10)
    alpha |= (kind == b"VP8L") & _has_bits(head, 24, 0x10)
    return tf.cond(
        alpha,
        lambda: put_on_white(tf.io.decode_webp(data, channels=4)[0]),  # [frames, h, w, 4]
        lambda: tf.io.decode_webp(data, channels=3)[0],
    )


def _has_bits(head, place, bits):
    byte = tf.io.decode_raw(tf.strings.substr(head, place, 1), tf.uint8)[0]
    return tf.bitwise.bitwise_and(byte, tf.constant(bits, tf.uint8)) != 0
