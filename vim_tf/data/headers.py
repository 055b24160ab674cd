"""What Pillow reads from a picture file's first bytes: size, orientation, and who can decode it."""

import io
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

MAX_PIXELS = 100_000_000
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")


class Header(NamedTuple):
    """What is known of a picture before it is decoded.

    Attributes:
        height: after turning as `orientation` says.
        width: after turning.
        orientation: 1 to 8, as EXIF counts them.
        by_pillow: whether TensorFlow's decoders would get the picture wrong.
    """

    height: int
    width: int
    orientation: int
    by_pillow: bool


def read_headers(paths):
    """Reads the headers of some files.

    Args:
        paths: a list of files.

    Returns:
        A list of `Header`; in the place of a file that is no picture, or one of more than
        `MAX_PIXELS`, a string that says why it cannot be read.
    """
    return [_read_header(path) for path in paths]


def decode_with_pillow(data):
    """Decodes the first frame of a picture of any format and mode, on white where transparent.

    Args:
        data: bytes, the encoded picture.

    Returns:
        [h, w, 3] uint8, not turned.

    Raises:
        OSError: damaged or cut short.
    """
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        picture = image.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return np.array(Image.alpha_composite(white, picture).convert("RGB"))


def _read_header(path):
    try:
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                return f"{width} x {height} is more than {MAX_PIXELS // 10**6} megapixels"
            orientation = _orientation(image)
            by_pillow = _needs_pillow(image)
    except UnidentifiedImageError:
        return f"it is no picture of the formats {', '.join(_FORMATS)}"
    except Exception as error:  # Pillow raises whatever comes up on damaged headers
        return str(error).split("\n")[0] or type(error).__name__
    if orientation >= 5:
        height, width = width, height
    return Header(height, width, orientation, by_pillow)


def _orientation(image):
    if image.format not in ("JPEG", "MPO", "WEBP") and "exif" not in image.info:
        return 1  # asked for what is not there, Pillow would decode the whole PNG
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata do not make a picture unreadable
        return 1
    return value if value in range(1, 9) else 1


def _needs_pillow(image):
    return bool(
        image.format in ("GIF", "BMP")
        or image.mode == "CMYK"
        or (image.format == "WEBP" and image.is_animated)
        # A transparent colour instead of an alpha channel; Pillow knows it up to 8 bits.
        or (image.format == "PNG" and "transparency" in image.info and image.mode[0] != "I")
    )
