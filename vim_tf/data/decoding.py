"""Encoded images -> [h, w, 3] uint8, in TensorFlow operations.

TensorFlow's decoders ignore EXIF orientation and colour profiles, put no background under
transparent images, give wrong alpha for PNG of fewer than 8 bits, read the palette indices of BMP
as grey, paint transparent GIF pixels black, and decode every frame of an animation. Pillow decodes
the images that they get wrong; `image_headers` says which.

The size is read from the bytes that the decoder gets, and compared with a limit before it runs: no
header of a record was read earlier, and a file may have changed since then.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from vim_tf.annotations import Tensor
from vim_tf.data import image_headers, image_limits, jpeg_damage, pillow_decoding

_SMALL = 1 << 22  # pixels; a larger JPEG is inspected before it is decoded
_AT_A_TIME = 1 << 18  # pixels put on white at once; their temporaries take 5 MB
_PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # only the first chunk has the size


def decode_image(
    data: Tensor, reduction: Tensor | int = 1, max_pixels: Tensor | int = image_limits.LEAST
) -> Tensor:
    """Decodes an image whose header says that it is plain: the fast path.

    JPEG, PNG and WebP are decoded by TensorFlow, other formats by Pillow. Transparent images are
    put on white, but transparent colours of a PNG (tRNS) and colour profiles are ignored. 16-bit
    channels lose their lower byte, grey is repeated, and CMYK is converted.

    Args:
        data: scalar string, the encoded image.
        reduction: int32 scalar 1, 2, 4 or 8; a JPEG is decoded at 1 / reduction of its size, or at
            a smaller size if it would be above `max_pixels`.
        max_pixels: see `image_limits.pixel_limit`.

    Returns:
        [h, w, 3] uint8.

    Raises:
        tf.errors.InvalidArgumentError: the image is damaged, has another format, or has too many
            pixels.
    """
    jpeg = tf.strings.substr(data, 0, 2) == b"\xff\xd8"
    png = tf.strings.substr(data, 0, len(_PNG_START)) == _PNG_START

    def decode_other(pixels: Tensor | int = 0) -> Tensor:
        numbers = [tf.cast(number, tf.int64) for number in (reduction, pixels, max_pixels)]
        return _decode_other(data, tf.stack(numbers))

    def decode_jpeg_within() -> Tensor:
        pixels = tf.reduce_prod(jpeg_size(data))
        small = pixels <= _SMALL
        if not isinstance(max_pixels, int) or max_pixels < _SMALL:
            small &= pixels <= tf.cast(max_pixels, tf.int64)
        return tf.cond(small, lambda: decode_jpeg(data, reduction), lambda: decode_other(pixels))

    image = tf.case(
        [
            (jpeg, decode_jpeg_within),
            (png, lambda: decode_png(_within(data, png_size(data), max_pixels))),
        ],
        default=decode_other,
    )
    return tf.ensure_shape(image, [None, None, 3])


def decode_oriented(data: Tensor, max_pixels: int, convert_profiles: bool = True) -> Tensor:
    """Decodes an image whose header was not read before: any format, turned as EXIF says.

    Args:
        data: scalar string, the encoded image.
        max_pixels: see `image_limits.pixel_limit`.
        convert_profiles: whether colours are converted to sRGB as the colour profile says.

    Returns:
        [h, w, 3] uint8.

    Raises:
        tf.errors.InvalidArgumentError: see `decode_image`.
    """

    def inspect(data: bytes | np.ndarray, convert_profiles: np.bool_) -> np.int64:
        return image_headers.inspect(_as_bytes(data), bool(convert_profiles))

    found = tf.numpy_function(inspect, [data, convert_profiles], tf.int64)
    found = tf.ensure_shape(found, [])

    def decode_unusual() -> Tensor:
        return _decode_unusual(data, tf.stack([found, max_pixels, int(convert_profiles)]))

    image = tf.cond(found == 1, lambda: decode_image(data, 1, max_pixels), decode_unusual)
    return tf.ensure_shape(image, [None, None, 3])


def decode_as(
    decoder: Tensor,
    data: Tensor,
    max_pixels: Tensor | int,
    reduction: Tensor | int = 1,
    convert_profiles: Tensor | bool = True,
) -> Tensor:
    """Decodes an image as its header says; it is not turned.

    Args:
        decoder: int32 scalar, see `image_headers.Header`.
        data: scalar string, the encoded image.
        max_pixels: see `image_limits.pixel_limit`.
        reduction: as in `decode_image`.
        convert_profiles: whether colours are converted to sRGB as the colour profile says.

    Returns:
        [h, w, 3] uint8.

    Raises:
        tf.errors.InvalidArgumentError: see `decode_image`.
    """
    numbers = (decoder, max_pixels, reduction, convert_profiles)

    def decode_special() -> Tensor:
        return _decode_special(data, tf.stack([tf.cast(number, tf.int64) for number in numbers]))

    plain = decoder == image_headers.PLAIN
    image = tf.cond(plain, lambda: decode_image(data, reduction, max_pixels), decode_special)
    return tf.ensure_shape(image, [None, None, 3])


def decode_by_pillow(
    data: Tensor,
    max_pixels: Tensor | int,
    reduction: Tensor | int = 1,
    convert_profiles: Tensor | bool = True,
) -> Tensor:
    """`pillow_decoding.decode_with_pillow` as an operation, with the errors of `decode_image`."""

    def decode(
        data: bytes | np.ndarray,
        max_pixels: np.integer,
        reduction: np.integer,
        convert_profiles: np.bool_,
    ) -> tuple[np.ndarray, bytes]:
        try:
            image = pillow_decoding.decode_with_pillow(
                _as_bytes(data), int(max_pixels), int(reduction), bool(convert_profiles)
            )
        except Exception as error:  # Pillow raises many kinds for damaged files
            return np.zeros([0, 0, 3], np.uint8), str(error).encode()
        return image, b""

    arguments = [data, max_pixels, reduction, convert_profiles]
    image, error = tf.numpy_function(decode, arguments, [tf.uint8, tf.string])
    image = tf.ensure_shape(image, [None, None, 3])
    failure = tf.debugging.Assert(tf.size(image) > 0, ["the image cannot be decoded:", error])
    with tf.control_dependencies([failure]):
        return tf.identity(image)


def find_damage(data: Tensor, max_pixels: int = image_limits.LEAST) -> Tensor:
    """Returns what is wrong with the pixels of a JPEG, "damaged: " and libjpeg's words.

    Args:
        data: scalar string, an encoded image.
        max_pixels: see `image_limits.pixel_limit`.

    Returns:
        scalar string; "" for a whole JPEG and for other formats.
    """

    def find(data: bytes | np.ndarray) -> bytes:
        words = jpeg_damage.find_damage(_as_bytes(data), max_pixels)
        return f"damaged: {words}".encode() if words else b""

    def check() -> Tensor:
        return tf.ensure_shape(tf.numpy_function(find, [data], tf.string, stateful=False), [])

    is_jpeg = tf.strings.substr(data, 0, 2) == b"\xff\xd8"
    return tf.cond(is_jpeg, check, lambda: tf.constant(""))


# Traced once per process.
@tf.function(input_signature=[tf.TensorSpec([None, None, 4], tf.uint8)], autograph=False)
def put_on_white(image: Tensor) -> Tensor:
    """Puts a [h, w, 4] uint8 image with straight alpha on white; returns [h, w, 3] uint8.

    Each channel is (color * alpha + 255 * (255 - alpha)) / 255, rounded to nearest.
    """
    pixels = tf.reshape(image, [-1, 4])
    count = tf.shape(pixels)[0]
    parts = tf.TensorArray(
        tf.uint8, -(-count // _AT_A_TIME), element_shape=[None, 3], infer_shape=False
    )

    def put(part: Tensor, parts: tf.TensorArray) -> tuple[Tensor, tf.TensorArray]:
        some = tf.cast(pixels[part * _AT_A_TIME : (part + 1) * _AT_A_TIME], tf.uint16)
        # 255 - (255 - color) * alpha / 255. The division by shifts is exact and rounds to nearest
        # for products of two bytes, and no value is above 65,535.
        product = (255 - some[:, :3]) * some[:, 3:] + 128
        product += tf.bitwise.right_shift(product, tf.constant(8, tf.uint16))
        darker = tf.bitwise.right_shift(product, tf.constant(8, tf.uint16))
        return part + 1, parts.write(part, tf.cast(255 - darker, tf.uint8))

    # One part at a time, so that only its temporaries are in memory.
    _, parts = tf.while_loop(
        lambda part, _: part < parts.size(), put, (0, parts), parallel_iterations=1
    )
    return tf.reshape(parts.concat(), tf.concat([tf.shape(image)[:2], [3]], 0))


def orient(pixels: Tensor, orientation: Tensor) -> Tensor:
    """Turns and mirrors an image as its EXIF orientation says.

    Args:
        pixels: [h, w, 3].
        orientation: int32 scalar, 1 to 8 (EXIF 2.3, section 4.6.4, tag 0x0112).

    Returns:
        [h, w, 3], or [w, h, 3] for orientations 5 to 8.
    """

    def one_of(*values: int) -> Tensor:
        return tf.reduce_any(orientation == tf.constant(values))

    def change(condition: Tensor, function: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
        return tf.cond(condition, lambda: function(pixels), lambda: pixels)

    pixels = change(orientation >= 5, lambda image: tf.transpose(image, [1, 0, 2]), pixels)
    pixels = change(one_of(2, 3, 6, 7), lambda image: image[:, ::-1], pixels)
    pixels = change(one_of(3, 4, 7, 8), lambda image: image[::-1], pixels)
    return tf.ensure_shape(pixels, [None, None, 3])


def jpeg_size(data: Tensor) -> Tensor:
    """Returns the [height, width] of a JPEG file as int64, before any reduction."""
    return tf.cast(tf.io.extract_jpeg_shape(data)[:2], tf.int64)


def png_size(data: Tensor) -> Tensor:
    """Returns the [height, width] of a PNG file as int64; zeros if its header is missing."""
    # IHDR chunk: PNG specification, section 11.2.1. libpng would also find a later one.
    head = tf.strings.substr(data, 0, 24) + b"\0" * 24
    width_height = tf.io.decode_raw(tf.strings.substr(head, 16, 8), tf.int32, little_endian=False)
    found = tf.strings.substr(head, 0, len(_PNG_START)) == _PNG_START
    # A PNG has no sizes above 2^31 - 1; such numbers are negative here.
    valid = found & (tf.reduce_min(width_height) > 0)
    return tf.where(valid, tf.cast(width_height[::-1], tf.int64), 0)


@tf.function(
    input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([3], tf.int64)],
    autograph=False,
    # Not inlined into graphs either: there, the operations of a branch that is not taken would cost
    # time for every image.
    experimental_attributes={"_noinline": True},
)
def _decode_other(data: Tensor, numbers: Tensor) -> Tensor:
    """Decodes an image that is neither a PNG nor a small JPEG.

    Args:
        data: scalar string, the encoded image.
        numbers: [3] int64: reduction, pixels of a JPEG, limit of pixels.
    """
    reduction, pixels, max_pixels = tf.unstack(numbers)
    decoder = tf.numpy_function(image_headers.choose_decoder, [data, pixels, max_pixels], tf.int64)
    reduction = tf.cast(reduction, tf.int32)
    branches = {
        # Its header said that no profile is converted.
        image_headers.PILLOW: lambda: decode_by_pillow(data, max_pixels, reduction, False),
        image_headers.JPEG: lambda: decode_jpeg(data, reduction),
        image_headers.WEBP: lambda: tf.io.decode_webp(data, channels=3)[0],  # [1, h, w, 3]
        image_headers.TRANSPARENT_WEBP: lambda: put_on_white(
            tf.io.decode_webp(data, channels=4)[0]
        ),
    }
    return tf.switch_case(tf.cast(decoder, tf.int32), branches)


@tf.function(
    input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([4], tf.int64)],
    autograph=False,
    experimental_attributes={"_noinline": True},  # as `_decode_other`
)
def _decode_special(data: Tensor, numbers: Tensor) -> Tensor:
    """Decodes an image that is not plain.

    Args:
        data: scalar string, the encoded image.
        numbers: [4] int64: the decoder, limit of pixels, reduction, 1 to convert colour profiles.
    """
    decoder, max_pixels, reduction, convert = tf.unstack(numbers)
    return tf.cond(
        decoder == image_headers.TRANSPARENT_PNG,
        lambda: decode_png(_within(data, png_size(data), max_pixels), tf.constant(True)),
        lambda: decode_by_pillow(data, max_pixels, reduction, convert == 1),
    )


@tf.function(
    input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([3], tf.int64)],
    autograph=False,
    experimental_attributes={"_noinline": True},  # as `_decode_other`
)
def _decode_unusual(data: Tensor, numbers: Tensor) -> Tensor:
    """Decodes and turns an image that is not plain or not upright.

    Args:
        data: scalar string, the encoded image.
        numbers: [3] int64: the answer of `image_headers.inspect`, limit of pixels, 1 to convert
            colour profiles.
    """
    found, max_pixels, convert = tf.unstack(numbers)
    found = tf.cast(found, tf.int32)
    image = decode_as(found // 10, data, max_pixels, 1, convert == 1)
    return orient(image, found % 10)


def _within(data: Tensor, size: Tensor, max_pixels: Tensor | int) -> Tensor:
    """Returns `data` if `size` [2] int64 is of 1 to `max_pixels` pixels; fails otherwise.

    Decoders wait for the returned data, so they start after the check.
    """
    pixels = tf.reduce_prod(size)
    good = (pixels > 0) & (pixels <= max_pixels)
    failure = tf.debugging.Assert(good, ["the image is damaged, or above the limit of pixels"])
    with tf.control_dependencies([failure]):
        return tf.identity(data)


def decode_jpeg(data: Tensor, reduction: Tensor | int = 1) -> Tensor:
    """Decodes a JPEG file at 1 / reduction (1, 2, 4 or 8; int or int32 scalar): [h, w, 3] uint8."""

    def decode(ratio: int) -> Tensor:
        # The slow inverse DCT gives the same pixels as Pillow and every other libjpeg.
        return tf.io.decode_jpeg(data, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    if isinstance(reduction, int):
        return decode(reduction)
    return tf.case(
        [(reduction == ratio, lambda ratio=ratio: decode(ratio)) for ratio in (8, 4, 2)],
        default=lambda: decode(1),
    )


def decode_png(data: Tensor, transparent: Tensor | None = None) -> Tensor:
    """Decodes a PNG file, put on white where it is transparent: [h, w, 3] uint8.

    Args:
        data: scalar string, the file.
        transparent: bool scalar, whether it has a tRNS chunk, see `png_chunks.find_chunks`; None
            ignores such chunks.
    """
    # Colour types 4 and 6 have an alpha channel. Files without one and without tRNS are decoded
    # without it: for fewer than 8 bits TensorFlow would fill it with the largest value of that many
    # bits. The padding lets strings that are too short to be images fail in the decoder.
    head = tf.strings.substr(data, 0, 32) + b"\0" * 32
    has_alpha = _has_bits(head, 25, 4)
    return tf.cond(
        has_alpha if transparent is None else has_alpha | transparent,
        lambda: put_on_white(tf.io.decode_png(data, channels=4)),
        lambda: tf.io.decode_png(data, channels=3),
    )


def _as_bytes(data: bytes | np.ndarray) -> bytes:
    """What `tf.numpy_function` gives: bytes in a graph, an array of them outside."""
    return data if isinstance(data, bytes) else data.item()


def _has_bits(head: Tensor, place: int, bits: int) -> Tensor:
    byte = tf.io.decode_raw(tf.strings.substr(head, place, 1), tf.uint8)[0]
    return tf.bitwise.bitwise_and(byte, tf.constant(bits, tf.uint8)) != 0
