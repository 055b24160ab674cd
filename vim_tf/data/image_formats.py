"""The image formats that are read: file endings, first bytes, and what opens each.

The first bytes of a file decide its format, not its ending.
"""

import functools
import struct
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image, JpegImagePlugin, UnidentifiedImageError, features

_HEAD = 64  # bytes that decide the format


@dataclass(frozen=True)
class ImageFormat:
    """A format of image files.

    Attributes:
        name: in messages.
        endings: of file names, in lower case.
        pillow: Pillow's name of it.
        decoder: "TensorFlow": its operations decode the plain files of this format, and Pillow the
            others; or "Pillow".
        feature: what Pillow must be built with, a name of `PIL.features`; None if nothing.
        package: a package that adds the format to Pillow; None if Pillow has it.
    """

    name: str
    endings: tuple[str, ...]
    pillow: str
    decoder: str = "Pillow"
    feature: str | None = None
    package: str | None = None


FORMATS = (
    ImageFormat("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG", "TensorFlow"),
    ImageFormat("PNG", (".png", ".apng"), "PNG", "TensorFlow"),
    ImageFormat("GIF", (".gif",), "GIF"),
    ImageFormat("BMP", (".bmp",), "BMP"),
    ImageFormat("DIB", (".dib",), "DIB"),
    ImageFormat("WebP", (".webp",), "WEBP", "TensorFlow", feature="webp"),
    ImageFormat("TIFF", (".tif", ".tiff"), "TIFF"),
    ImageFormat("AVIF", (".avif",), "AVIF", feature="avif"),
    ImageFormat("HEIC", (".heic", ".heif", ".hif"), "HEIF", package="pillow-heif"),
)
NAMES = ", ".join(known.name for known in FORMATS)
EXTENSIONS = tuple(ending for known in FORMATS for ending in known.endings)
_BY_NAME = {known.name: known for known in FORMATS}
_STARTS = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_DIB_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # their sizes, which are the first four bytes


def find_format(head: bytes) -> ImageFormat | None:
    """Returns the format of a file by its first 64 bytes; None if it is no image that is read."""
    for start, name in _STARTS.items():
        if head.startswith(start):
            return _BY_NAME[name]
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _BY_NAME["WebP"]
    if head[4:8] == b"ftyp":  # ISO/IEC 14496-12, section 4.3; the brands of AVIF, then of HEIF
        brands = head[8 : min(int.from_bytes(head[:4], "big"), _HEAD)]
        brands = {brands[start : start + 4] for start in range(0, len(brands), 4)}
        if brands & {b"avif", b"avis"}:
            return _BY_NAME["AVIF"]
        if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
            return _BY_NAME["HEIC"]
    if len(head) >= 4 and int.from_bytes(head[:4], "little") in _DIB_HEADERS:
        return _BY_NAME["DIB"]
    return None


def missing_support(known: ImageFormat) -> str | None:
    """Returns why a format cannot be read here and what to install; None if it can be read."""
    if known.package and not _register_heif():
        return f"reading {known.name} needs a package; run: pip install {known.package}"
    if known.feature and not features.check(known.feature):
        return (
            f"this Pillow was built without {known.name}; run: pip install --force-reinstall Pillow"
        )
    return None


def open_image(file: BinaryIO) -> Image.Image:
    """Opens an image; only its header is read.

    Args:
        file: an open file at its start, or the encoded image as io.BytesIO.

    Returns:
        Pillow's image. A JPEG may state any size: Pillow's own limit is not applied to it.

    Raises:
        OSError: the file is no image of `FORMATS`, has a damaged header, or needs a plug-in.
        Exception: other types of Pillow, for damaged headers.
    """
    known = find_format(file.read(_HEAD))
    file.seek(0)
    if known is None:
        raise OSError(f"it is no image of the formats {NAMES}")
    missing = missing_support(known)
    if missing:
        raise OSError(missing)
    try:
        if known.name == "JPEG":
            # Without the limit of Image.open, because a JPEG is decoded at a smaller size.
            return JpegImagePlugin.JpegImageFile(file)
        return Image.open(file, formats=[known.pillow])
    except (UnidentifiedImageError, SyntaxError, IndexError, TypeError, struct.error) as error:
        raise OSError(f"its {known.name} header is damaged") from error


@functools.cache
def _register_heif() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True
