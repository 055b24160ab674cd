"""Headers of image files: size, orientation, colour profile, and what decodes the file."""

import io
import re
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging
from PIL import ExifTags, Image

from vim_tf.annotations import StrPath
from vim_tf.data import (
    color_profiles,
    image_formats,
    image_limits,
    jpeg_markers,
    pillow_decoding,
    png_chunks,
)

# How a file is decoded, see `decoding.decode_as`.
PLAIN, BY_PILLOW, TRANSPARENT_PNG = range(3)
# The decoders of an image that is neither a PNG nor a small JPEG, see `choose_decoder`.
PILLOW, JPEG, WEBP, TRANSPARENT_WEBP = range(4)
_EXIF = 1 << 16  # bytes of EXIF that are read: as many as fit into a JPEG segment
_WITH_METADATA = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
_APP1, _APP2 = 0xE1, 0xE2
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_WEBP_METADATA = 0x2E  # of VP8X: colour profile, EXIF, XMP, animation
_PNG_METADATA = {b"eXIf", b"iCCP", b"tRNS"}
_PNG_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_PNG_TEXT_METADATA = re.compile(rb"XML:com\.adobe\.xmp|Raw profile type exif")


class Header(NamedTuple):
    """The properties of an image that are known before it is decoded.

    Attributes:
        height: pixels, after turning by `orientation`.
        width: pixels, after turning.
        orientation: 1 to 8, the EXIF numbers; 1 if the decoder turns the image.
        decoder: `PLAIN`, `BY_PILLOW` or `TRANSPARENT_PNG`.
        profile: of its colour profile: `color_profiles.NONE`, `CONVERTED` or `DAMAGED`.
    """

    height: int
    width: int
    orientation: int
    decoder: int
    profile: int = color_profiles.NONE


def read_headers(
    paths: Iterable[StrPath],
    max_pixels: int = image_limits.LEAST,
    whole: bool = False,
    convert_profiles: bool = True,
) -> list[Header | str]:
    """Reads the headers of some files.

    Args:
        paths: the files.
        max_pixels: see `image_limits.pixel_limit`.
        whole: whether JPEG files, too, must be decoded at full size.
        convert_profiles: whether colours will be converted to sRGB.

    Returns:
        A list of `Header`; for a file that is not an image or is above the limit, a string that
        says why it cannot be read.
    """
    return [_read_header(path, max_pixels, whole, convert_profiles) for path in paths]


def inspect(data: bytes, convert_profiles: bool = True) -> np.int64:
    """Returns 10 * decoder + orientation of an encoded image, as in its `Header`, as int64.

    It does not check sizes, because the decoders do. A damaged header gives a decoder that fails.
    """
    if _is_plain(data):
        return np.int64(10 * PLAIN + 1)
    try:
        with image_formats.open_image(io.BytesIO(data)) as image:
            header = _header_of(image, convert_profiles)
    except Exception:  # Pillow raises many kinds for damaged headers
        return np.int64(10 * BY_PILLOW + 1)
    if header.profile == color_profiles.DAMAGED:
        _count_damaged_profile()
    return np.int64(10 * header.decoder + header.orientation)


def describe_profiles(profiles: Sequence[int] | np.ndarray, names: Sequence[str]) -> str | None:
    """Returns a line about the colour profiles that are converted or damaged; None if none is.

    Args:
        profiles: `Header.profile` of each image.
        names: of the images.
    """
    places = {
        status: np.flatnonzero(np.asarray(profiles) == status)
        for status in (color_profiles.CONVERTED, color_profiles.DAMAGED)
    }
    converted, damaged = places.values()
    parts = []
    if len(converted):
        parts.append(
            f"{len(converted):,} of {len(names):,} images are converted to sRGB from their colour "
            "profile"
        )
    if len(damaged):
        parts.append(
            f"{len(damaged):,} of {len(names):,} images have a colour profile that is damaged or "
            f"not for their kind of colours; they are read without it, the first is "
            f"{names[damaged[0]]}"
        )
    return "; ".join(parts) or None


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


def _read_header(
    path: StrPath, max_pixels: int, whole: bool, convert_profiles: bool
) -> Header | str:
    try:
        with Path(path).open("rb") as file, image_formats.open_image(file) as image:
            refusal = pillow_decoding.refuse(
                image, lambda: Path(path).read_bytes(), max_pixels, whole
            )
            if refusal:
                return refusal
            header = _header_of(image, convert_profiles)
    except Exception as error:  # Pillow raises many kinds for damaged headers
        if isinstance(error, OSError) and error.strerror:
            return error.strerror  # without the number and the path
        return str(error).split("\n")[0] or type(error).__name__
    if header.orientation >= 5:
        return header._replace(height=header.width, width=header.height)
    return header


def _header_of(image: Image.Image, convert_profiles: bool) -> Header:
    """Returns the header of an opened image, with the size before turning."""
    profile = color_profiles.NONE
    if convert_profiles:
        profile = color_profiles.read_profile(image).status
    if profile == color_profiles.CONVERTED or _needs_pillow(image):
        decoder = BY_PILLOW
    elif image.format == "PNG" and "transparency" in image.info:
        decoder = TRANSPARENT_PNG
    else:
        decoder = PLAIN
    return Header(image.height, image.width, _orientation(image), decoder, profile)


def _needs_pillow(image: Image.Image) -> bool:
    return bool(
        image.format not in ("JPEG", "PNG", "WEBP")
        or image.mode == "CMYK"
        or (image.format == "WEBP" and getattr(image, "is_animated", False))
    )


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":
        return 1  # Pillow turns it while decoding
    if image.format == "PNG" and not image.info.get("exif"):
        _read_late_exif(image)
    if not any(image.info.get(key) for key in _WITH_METADATA):
        return 1
    if image.info.get("exif"):
        image.info["exif"] = image.info["exif"][:_EXIF]
    try:
        # Not the method of PngImageFile, which would decode the whole image to look for EXIF.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata do not make an image unreadable
        return 1
    return value if value in range(1, 9) else 1


def _read_late_exif(image: Image.Image) -> None:
    """Adds the EXIF of a PNG that stands after its pixels, where Pillow has not read yet."""
    file = image.fp  # pyright: ignore[reportAttributeAccessIssue]  # of ImageFile
    for kind, place, length in png_chunks.file_chunks(file):
        if kind == b"eXIf":
            file.seek(place)
            image.info["exif"] = b"Exif\0\0" + file.read(min(length, _EXIF))
            return


def _is_plain(data: bytes) -> bool:
    """Returns whether nothing but the pixels decides what an image becomes."""
    if data[:2] == b"\xff\xd8":
        return _is_plain_jpeg(data)
    if data[:4] == b"\x89PNG":
        kinds = [*png_chunks.file_chunks(io.BytesIO(data))]
        return not any(
            kind in _PNG_METADATA or (kind in _PNG_TEXTS and _PNG_TEXT_METADATA.match(data, place))
            for kind, place, _ in kinds
        )
    if data[8:12] == b"WEBP":
        return data[12:16] != b"VP8X" or not (data[20:21] or b"\xff")[0] & _WEBP_METADATA
    return False


def _is_plain_jpeg(data: bytes) -> bool:
    kind = None
    for kind, place, length in jpeg_markers.file_segments(data):
        if kind == _APP1:
            content = data[place + 4 : place + length]
            if content.startswith(b"Exif\0\0"):
                return False
            if content.startswith(_XMP) and b"tiff:Orientation" in content:
                return False
        elif kind == _APP2 and data.startswith(b"ICC_PROFILE\0", place + 4):
            return False
        elif jpeg_markers.is_frame(kind) and data[place + 9 : place + 10] == b"\4":
            return False  # CMYK
    return kind == jpeg_markers.SCAN


_damaged_profiles = 0
_lock = threading.Lock()


def _count_damaged_profile() -> None:
    """Says how many images with a damaged profile were read, at 1, 10, 100 and so on."""
    global _damaged_profiles
    with _lock:
        _damaged_profiles += 1
        count = _damaged_profiles
    if re.fullmatch("10*", str(count)):
        logging.warning(
            "%s images read so far have a colour profile that is damaged or not for their kind of "
            "colours; they are read without it",
            f"{count:,}",
        )
