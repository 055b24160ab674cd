"""Image files that are made byte by byte, also with headers that no encoder writes."""

import io
import struct
import zlib
from types import SimpleNamespace

import pytest
from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png_chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png(height, width, first=b"", more=b"", after=b""):
    """A black RGB PNG file, with chunks before IHDR, before the pixels and after them."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = png_chunk(b"IDAT", zlib.compress(bytes(height * (1 + 3 * width)), 9))
    return PNG_SIGNATURE + first + header + more + rows + after + png_chunk(b"IEND", b"")


def segment(kind, content=b""):
    """A segment of a JPEG file."""
    return bytes([0xFF, kind]) + struct.pack(">H", len(content) + 2) + content


def jpeg(segments=b"", size=(8, 8), mode="RGB", **options):
    """A JPEG file that begins with these segments."""
    file = io.BytesIO()
    Image.new(mode, size).save(file, "jpeg", **options)
    return file.getvalue()[:2] + segments + file.getvalue()[2:]


def webp(size=(8, 8), mode="RGB", **options):
    file = io.BytesIO()
    Image.new(mode, size).save(file, "webp", **options)
    return file.getvalue()


def hostile_exif(entries=65_535, order=">"):
    """EXIF with many entries that point to the same bytes, in a directory that follows itself."""
    blob = 30_000
    start = 8 + 2 + 12 * entries + 4
    fields = [struct.pack(f"{order}HHLL", tag, 7, blob, start) for tag in range(entries)]
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}L", 8)
    count, again = struct.pack(f"{order}H", entries), struct.pack(f"{order}L", 8)
    return head + count + b"".join(fields) + again + bytes(blob)


@pytest.fixture(scope="session")
def files():
    """The functions of this module."""
    functions = (png_chunk, png, segment, jpeg, webp, hostile_exif)
    return SimpleNamespace(**{function.__name__: function for function in functions})
