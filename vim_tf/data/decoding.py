"""Encoded images -> [h, w, 3] uint8, in TensorFlow operations.

TensorFlow's decoders know neither EXIF orientation nor a ground for transparent images, give
wrong alpha for PNG of fewer than 8 bits, read the palette indices of BMP as grey, paint
transparent GIF pixels black, and decode every frame of an animation. What cannot be had from them
is left to Pillow.

Sizes are read from the bytes that the decoder gets, and compared with a limit, before it runs: a
record has no header that was read earlier, and a file may have changed since.
"""

import numpy as np
import tensorflow as tf

from vim_tf.data import headers, image_limits, jpeg_markers

RATIOS = (1, 2, 4, 8)  # by which a JPEG can be decoded smaller
_AT_A_TIME = 1 << 18  # pixels that are put on white; their temporaries take 5 MB
_PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # the first chunk has the size, and no other


def decode_picture(data, reduction=1, max_pixels=image_limits.LEAST):
    """Decodes a JPEG, PNG, WebP, GIF (first frame) or BMP image, put on white where transparent.

    16-bit channels lose their lower byte, grey is repeated, CMYK converted.

    Args:
        data: scalar string, the encoded image.
        reduction: int32 scalar 1, 2, 4 or 8; a JPEG is decoded at 1 / reduction of its size, or at
            a smaller one if it is above `max_pixels` otherwise.
        max_pixels: see `image_limits.pixel_limit`.

    Returns:
        [h, w, 3] uint8.

    Raises:
        tf.errors.InvalidArgumentError: damaged, of another format, or of too many pixels.
    """
    # Padded, for strings too short to be images: they fail in the decoder.
    head = tf.strings.substr(data, 0, 32) + b"\0" * 32
    jpeg = tf.strings.substr(head, 0, 2) == b"\xff\xd8"
    png = tf.strings.substr(head, 0, 8) == _PNG_START[:8]
    webp = tf.strings.substr(head, 0, 4) + tf.strings.substr(head, 8, 4) == b"RIFFWEBP"
    animated = (tf.strings.substr(head, 12, 4) == b"VP8X") & _has_bits(head, 20, 0x02)
    image = tf.case(
        [
            (jpeg, lambda: _decode_limited_jpeg(data, reduction, max_pixels)),
            (png, lambda: decode_png(_within(data, png_size(data), max_pixels))),
            (webp & ~animated, lambda: _decode_webp(data, head, max_pixels)),
        ],
        default=lambda: decode_by_pillow(data, max_pixels),
    )
    return tf.ensure_shape(image, [None, None, 3])


def decode_by_pillow(data, max_pixels=image_limits.LEAST):
    """`headers.decode_with_pillow` as an operation, with the errors of `decode_picture`."""

    def decode(data):
        try:
            return headers.decode_with_pillow(data, max_pixels)
        except Exception:  # Pillow raises whatever comes up on damaged files
            return np.zeros([0, 0, 3], np.uint8)

    image = tf.ensure_shape(tf.numpy_function(decode, [data], tf.uint8), [None, None, 3])
    readable = tf.debugging.assert_positive(tf.size(image), "not an image, or above the limit")
    with tf.control_dependencies([readable]):
        return tf.identity(image)


def put_on_white(image):
    """Returns [h, w, 3] uint8 of a [h, w, 4] uint8 image with straight alpha.

    Each channel is (color * alpha + 255 * (255 - alpha)) / 255, rounded to nearest.
    """
    pixels = tf.reshape(image, [-1, 4])
    count = tf.shape(pixels)[0]
    parts = tf.TensorArray(
        tf.uint8, -(-count // _AT_A_TIME), element_shape=[None, 3], infer_shape=False
    )

    def put(part, parts):
        some = tf.cast(pixels[part * _AT_A_TIME : (part + 1) * _AT_A_TIME], tf.uint16)
        # 255 - (255 - color) * alpha / 255. The division by shifts is exact and rounds to nearest
        # for products of two bytes, and nothing is above 65,535.
        product = (255 - some[:, :3]) * some[:, 3:] + 128
        product += tf.bitwise.right_shift(product, tf.constant(8, tf.uint16))
        darker = tf.bitwise.right_shift(product, tf.constant(8, tf.uint16))
        return part + 1, parts.write(part, tf.cast(255 - darker, tf.uint8))

    # One part at a time, so that there are temporaries of one.
    _, parts = tf.while_loop(
        lambda part, _: part < parts.size(), put, (0, parts), parallel_iterations=1
    )
    return tf.reshape(parts.concat(), tf.concat([tf.shape(image)[:2], [3]], 0))


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


def jpeg_size(data):
    """Returns the [height, width] of a JPEG file as int64, before any reduction."""
    return tf.cast(tf.io.extract_jpeg_shape(data)[:2], tf.int64)


def png_size(data):
    """Returns the [height, width] of a PNG file as int64; zeros where its header is not there."""
    # IHDR chunk: PNG specification, section 11.2.1. libpng would also find one that comes later.
    head = tf.strings.substr(data, 0, 24) + b"\0" * 24
    numbers = tf.io.decode_raw(tf.strings.substr(head, 16, 8), tf.uint8)  # [8], big-endian
    numbers = tf.reshape(tf.cast(numbers, tf.int64), [2, 4])
    width_height = tf.reduce_sum(numbers * tf.constant([1 << 24, 1 << 16, 1 << 8, 1], tf.int64), 1)
    whole = tf.strings.substr(head, 0, len(_PNG_START)) == _PNG_START
    return tf.where(whole, width_height[::-1], 0)


def fitting_ratio(size, max_pixels):
    """Returns the least of `RATIOS` by which a JPEG has at most `max_pixels`; 16 if none is.

    Args:
        size: [height, width] of the whole image, int64.
        max_pixels: an integer.
    """
    ratios = tf.constant(RATIOS, tf.int64)
    fits = tf.reduce_prod(-(-size[:, tf.newaxis] // ratios), 0) <= max_pixels  # [ratios]
    return tf.cast(tf.reduce_min(tf.where(fits, ratios, 16)), tf.int32)


def jpeg_limit(data, ratio, max_pixels):
    """Returns the most pixels that a JPEG file may have before its reduction, int64 scalar.

    Args:
        data: scalar string, the file.
        ratio: `fitting_ratio` of its size.
        max_pixels: the most that are decoded.
    """
    # All coefficients of a progressive file are held at its full size.
    reducible = tf.cond(
        (ratio > 1) & (ratio <= RATIOS[-1]),
        lambda: ~jpeg_markers.is_buffered(data),
        lambda: tf.constant(False),
    )
    return tf.where(reducible, *(tf.constant(n, tf.int64) for n in (image_limits.MOST, max_pixels)))


def _decode_limited_jpeg(data, reduction, max_pixels):
    size = jpeg_size(data)
    ratio = fitting_ratio(size, max_pixels)
    data = _within(data, size, jpeg_limit(data, ratio, max_pixels))
    return decode_jpeg(data, tf.maximum(reduction, ratio))


def _within(data, size, max_pixels):
    """Returns `data` where `size` [2] int64 is an image of at most `max_pixels`; fails elsewhere.

    Decoders start after the check, since they wait for what it returns.
    """
    pixels = size[0] * size[1]
    good = (pixels > 0) & (pixels <= max_pixels)
    message = ["the image is damaged, or above the limit of pixels; its size:", size]
    with tf.control_dependencies([tf.debugging.Assert(good, message)]):
        return tf.identity(data)


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


def _decode_webp(data, head, max_pixels):
    # TensorFlow wants to be told the number of channels: WebP container specification, VP8X
    # flags, and the lossless bit stream's alpha_is_used.
    kind = tf.strings.substr(head, 12, 4)
    alpha = (kind == b"VP8X") & _has_bits(head, 20, 0x10)
    alpha |= (kind == b"VP8L") & _has_bits(head, 24, 0x10)
    data = _within(data, _webp_size(head, kind), max_pixels)
    return tf.cond(
        alpha,
        lambda: put_on_white(tf.io.decode_webp(data, channels=4)[0]),  # [1, h, w, 4]
        lambda: tf.io.decode_webp(data, channels=3)[0],
    )


def _webp_size(head, kind):
    """The [height, width] that the first chunk states, int64; zeros for an unknown chunk."""
    byte = tf.cast(tf.io.decode_raw(tf.strings.substr(head, 0, 32), tf.uint8), tf.int64)  # [32]

    def number(place, length):
        return sum(byte[place + i] * (1 << 8 * i) for i in range(length))  # little-endian

    # Sections "Extended File Format", "Simple File Format (Lossy)" with RFC 6386, section 9.1, and
    # "Simple File Format (Lossless)" of the same specification.
    sizes = {
        b"VP8X": [number(27, 3) + 1, number(24, 3) + 1],
        b"VP8 ": [number(28, 2) % 2**14, number(26, 2) % 2**14],
        b"VP8L": [number(21, 4) // 2**14 % 2**14 + 1, number(21, 4) % 2**14 + 1],
    }
    return sum(tf.where(kind == name, tf.stack(size), 0) for name, size in sizes.items())


def _has_bits(head, place, bits):
    byte = tf.io.decode_raw(tf.strings.substr(head, place, 1), tf.uint8)[0]
    return tf.bitwise.bitwise_and(byte, tf.constant(bits, tf.uint8)) != 0
