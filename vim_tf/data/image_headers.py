"""Headers of image files: size, orientation, and which library can decode the file."""

import io
import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from vim_tf.annotations import StrPath
from vim_tf.data import image_limits, jpeg_markers

PILLOW, JPEG, WEBP, TRANSPARENT_WEBP = range(4)  # the decoders, see `choose_decoder`
_TILE = 1024  # pixels per side that are put on white at once
_EXIF = 1 << 16  # bytes of EXIF that are read: as many as fit into a JPEG segment
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")


class Header(NamedTuple):
    """The properties of an image that are known before it is decoded.

    Attributes:
        height: pixels, after turning by `orientation`.
        width: pixels, after turning.
        orientation: 1 to 8, the EXIF numbers.
        by_pillow: whether TensorFlow's decoders would get the image wrong.
    """

    height: int
    width: int
    orientation: int
    by_pillow: bool


def read_headers(
    paths: Iterable[StrPath], max_pixels: int = image_limits.LEAST, whole: bool = False
) -> list[Header | str]:
    """Reads the headers of some files.

    Args:
        paths: the files.
        max_pixels: see `image_limits.pixel_limit`.
        whole: whether JPEG files, too, must be decoded at full size.

    Returns:
        A list of `Header`; for a file that is not an image or is above the limit, a string that
        says why it cannot be read.
    """
    return [_read_header(path, max_pixels, whole) for path in paths]


def choose_decoder(data: bytes, pixels: int, max_pixels: int) -> np.int64:
    """Returns the decoder of an image that is neither a PNG nor a small JPEG.

    Args:
        data: the encoded image.
        pixels: number of pixels of a JPEG; for other formats it is read from the header.
        max_pixels: see `image_limits.pixel_limit`.

    Returns:
        `PILLOW`, which also refuses images above the limit; or `JPEG`, `WEBP` or
        `TRANSPARENT_WEBP`: TensorFlow may decode the whole file. As int64.
    """
    decoder = PILLOW
    if data[:2] == b"\xff\xd8":
        if pixels <= max_pixels and jpeg_markers.has_file_few_scans(data):
            decoder = JPEG
    elif data[8:12] == b"WEBP" and len(data) >= 30:
        pixels, animated, transparent = _read_webp_header(data)
        if 0 < pixels <= max_pixels and not animated:
            decoder = TRANSPARENT_WEBP if transparent else WEBP
    return np.int64(decoder)


def decode_with_pillow(
    data: bytes, max_pixels: int = image_limits.LEAST, reduction: int = 1
) -> np.ndarray:
    """Decodes the first frame of an image of any format and mode, on white where transparent.

    Args:
        data: the encoded image.
        max_pixels: see `image_limits.pixel_limit`.
        reduction: 1, 2, 4 or 8; a JPEG is decoded at 1 / reduction of its size; if that is above
            the limit, at the largest of these sizes that is within it.

    Returns:
        [h, w, 3] uint8, not turned.

    Raises:
        OSError: the image is damaged, cut short, above the limit, or has too many scans.
    """
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        too_large = _too_large(image, lambda: data, max_pixels)
        if too_large:
            raise OSError(too_large)
        if image.format in ("JPEG", "MPO") and not jpeg_markers.has_file_few_scans(data):
            raise OSError(f"a JPEG of more than {jpeg_markers.SCANS} scans")
        fitting = _fitting_ratio(image, max_pixels)
        assert fitting is not None  # _too_large refuses the others
        ratio = max(reduction, fitting)
        if ratio > 1:  # has an effect on JPEG only
            image.draft(None, (image.width // ratio, image.height // ratio))
        image.load()
        pixels = np.empty([image.height, image.width, 3], np.uint8)
        # Tile by tile, so that only one tile with alpha is in memory.
        corners = (range(0, length, _TILE) for length in pixels.shape[:2])
        for top, left in itertools.product(*corners):
            bottom, right = min(top + _TILE, image.height), min(left + _TILE, image.width)
            tile = image.crop((left, top, right, bottom)).convert("RGBA")
            white = Image.new("RGBA", tile.size, "white")
            tile = Image.alpha_composite(white, tile).convert("RGB")
            pixels[top:bottom, left:right] = np.asarray(tile)
    return pixels


def _read_webp_header(data: bytes) -> tuple[int, bool, bool]:
    """Returns (pixels, whether animated, whether transparent), as the first chunk states.

    Pixels are 0 for an unknown chunk. TensorFlow's decoder must be told whether there is alpha.
    """
    # WebP container specification, "Extended File Format", "Simple File Format (Lossy)" with
    # RFC 6386, section 9.1, and "Simple File Format (Lossless)" with its alpha_is_used.
    kind, number = data[12:16], int.from_bytes
    if kind == b"VP8X":
        width, height = number(data[24:27], "little") + 1, number(data[27:30], "little") + 1
        return width * height, bool(data[20] & 0x02), bool(data[20] & 0x10)
    if kind == b"VP8 ":
        width, height = (number(data[start : start + 2], "little") % 2**14 for start in (26, 28))
        return width * height, False, False
    if kind == b"VP8L":
        bits = number(data[21:25], "little")
        width, height = bits % 2**14 + 1, (bits >> 14) % 2**14 + 1
        return width * height, False, bool(bits >> 28 & 1)
    return 0, False, False


def _read_header(path: StrPath, max_pixels: int, whole: bool) -> Header | str:
    try:
        with Image.open(path, formats=_FORMATS) as image:
            too_large = _too_large(image, lambda: _read(path), max_pixels, whole)
            if too_large:
                return too_large
            width, height = image.size
            orientation = _orientation(image)
            by_pillow = _needs_pillow(image)
    except UnidentifiedImageError:
        return f"it is no image of the formats {', '.join(_FORMATS)}"
    except Exception as error:  # Pillow raises many kinds for damaged headers
        return str(error).split("\n")[0] or type(error).__name__
    if orientation >= 5:
        height, width = width, height
    return Header(height, width, orientation, by_pillow)


def _too_large(
    image: Image.Image, read: Callable[[], bytes], max_pixels: int, whole: bool = False
) -> str | None:
    """Returns why an opened image is too large, or None; `read` returns the file's bytes."""
    pixels, limit, kind = image.width * image.height, max_pixels, "an image"
    if pixels > limit and image.format in ("JPEG", "MPO") and not whole:
        if jpeg_markers.is_file_buffered(read()):
            kind = "a progressive JPEG"
        elif _fitting_ratio(image, max_pixels):
            limit = image_limits.MOST
    if pixels <= limit:
        return None
    return (
        f"{kind} of {image.width} x {image.height} pixels is above the limit of {limit:,} pixels; "
        "make it smaller"
    )


def _fitting_ratio(image: Image.Image, max_pixels: int) -> int | None:
    """Returns the least ratio at which an image has at most `max_pixels`; None if there is none."""
    for ratio in (1, 2, 4, 8):
        if -(-image.width // ratio) * -(-image.height // ratio) <= max_pixels:
            return ratio
    return None


def _read(path: StrPath) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _orientation(image: Image.Image) -> int:
    if image.format not in ("JPEG", "MPO", "WEBP") and "exif" not in image.info:
        return 1  # Pillow would decode the whole PNG to look for EXIF
    if "exif" in image.info:
        image.info["exif"] = image.info["exif"][:_EXIF]
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata do not make an image unreadable
        return 1
    return value if value in range(1, 9) else 1


def _needs_pillow(image: Image.Image) -> bool:
    return bool(
        image.format in ("GIF", "BMP")
        or image.mode == "CMYK"
        or (image.format == "WEBP" and getattr(image, "is_animated", False))
        # A transparent colour instead of an alpha channel; Pillow supports it up to 8 bits.
        or (image.format == "PNG" and "transparency" in image.info and image.mode[0] != "I")
    )
