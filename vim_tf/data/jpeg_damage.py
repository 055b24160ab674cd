"""JPEG files whose damage a decoder would pass over: libjpeg's warnings, by simplejpeg.

A JPEG with a flipped bit or a wrong size in its header is decoded, with grey, green or missing
parts. libjpeg only warns, and neither TensorFlow nor Pillow says in which file.
"""

import re

import simplejpeg

from vim_tf.data import image_limits, jpeg_markers

# Only the pixels are checked, so no segment of metadata is given to libjpeg: APP0 to APP15, COM.
_METADATA = {*range(0xE0, 0xF0), 0xFE}
_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xda-\xfe]")  # of a segment
# Bytes between the pixels and the marker that ends them. Some cameras pad them.
_FEW = 16
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0x(\w\w)")
# libjpeg-turbo 3, jerror.h: the warnings that say that pixels are missing or wrong.
_DAMAGING = re.compile(
    "premature end|bad Huffman code|bad arithmetic code|found marker 0x.. instead of RST"
    "|[Ii]nconsistent progression|Premature end of JPEG file"
)


def find_damage(data: bytes, max_pixels: int = image_limits.LEAST) -> str | None:
    """Returns how the pixels of a JPEG file are damaged, in libjpeg's words; None if they are not.

    Damage in the metadata does not count. More bytes than the image needs count if they are more
    than a few and not padding of equal bytes: the header then states too small a size, or the
    decoder lost its place.

    Args:
        data: the file. None is returned for other formats, and for a JPEG that a decoder refuses:
            it finds the error.
        max_pixels: see `image_limits.pixel_limit`.
    """
    if data[:2] != b"\xff\xd8" or not jpeg_markers.has_file_few_scans(data):
        return None
    try:
        bare = _without_metadata(data)
        height, width, space, _ = simplejpeg.decode_jpeg_header(bare, strict=False)
        pixels = int(height) * int(width)
        if pixels > max_pixels and jpeg_markers.is_file_buffered(data):
            return None
        # Decoding at 1/8 reads all coefficients. Grey needs no colours.
        wanted = {"RGB": "RGB", "CMYK": "CMYK"}.get(space, "GRAY")
        simplejpeg.decode_jpeg(bare, wanted, min_height=1, min_width=1, min_factor=8)
    except KeyError:  # of simplejpeg, for unknown colours
        return None
    except ValueError as error:
        words = str(error)
    else:
        return None
    extraneous = _EXTRANEOUS.search(words)
    if extraneous:
        count = int(extraneous[1])
        harmless = count <= _FEW or (extraneous[2] == "d9" and _is_padded(bare, count))
        return None if harmless else words
    return words if _DAMAGING.search(words) else None


def _without_metadata(data: bytes) -> bytes:
    """The file without segments of metadata and without bytes between the segments."""
    parts, place = [data[:2]], 2
    for _ in range(jpeg_markers.SEGMENTS):
        for kind, start, length in jpeg_markers.file_segments(data, place):
            if kind == jpeg_markers.SCAN:
                return b"".join([*parts, data[start:]])
            place = start + length
            if kind not in _METADATA:
                parts.append(data[start:place])
        following = _MARKER.search(data, place + 1)
        if following is None:
            break
        place = following.start()
    return b"".join([*parts, data[place:]])


def _is_padded(bare: bytes, count: int) -> bool:
    """Returns whether `count` equal bytes stand before the end marker of a file's first image."""
    end = bare.find(_END)
    return end >= count and len(set(bare[end - count : end])) == 1
