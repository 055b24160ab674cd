"""Encoded images -> [h, w, 3] uint8 by Pillow: all formats, modes and colour profiles."""

import io
import itertools
from collections.abc import Callable

import numpy as np
from PIL import Image

from vim_tf.data import color_profiles, image_formats, image_limits, jpeg_markers

_TILE = 1024  # pixels per side that are converted and put on white at once
_UNREADABLE_MODES = {"I": "32-bit integers", "F": "floating-point numbers"}
_BITS_PER_SAMPLE, _TILE_WIDTH, _TILE_LENGTH = 258, 322, 323  # TIFF 6.0, sections 8 and 15


def decode_with_pillow(
    data: bytes,
    max_pixels: int = image_limits.LEAST,
    reduction: int = 1,
    convert_profiles: bool = True,
) -> np.ndarray:
    """Decodes the first frame of an image of any format and mode, on white where transparent.

    Args:
        data: the encoded image.
        max_pixels: see `image_limits.pixel_limit`.
        reduction: 1, 2, 4 or 8; a JPEG is decoded at 1 / reduction of its size; if that is above
            the limit, at the largest of these sizes that is within it. One of CMYK without a
            colour profile is reduced by the limit only.
        convert_profiles: whether colours are converted to sRGB as the colour profile says.

    Returns:
        [h, w, 3] uint8, not turned by EXIF; only TIFF is, by Pillow. 16 bits lose their lower byte.

    Raises:
        OSError: the image is damaged, cut short, above the limit, has too many scans, or pixels of
            32 bits.
    """
    with image_formats.open_image(io.BytesIO(data)) as image:
        refusal = refuse(image, lambda: data, max_pixels)
        if refusal:
            raise OSError(refusal)
        if image.format == "JPEG" and not jpeg_markers.has_file_few_scans(data):
            raise OSError(f"a JPEG of more than {jpeg_markers.SCANS} scans")
        profile = color_profiles.Profile(color_profiles.NONE)
        if convert_profiles:
            profile = color_profiles.read_profile(image)
        fitting = _fitting_ratio(image, max_pixels)
        assert fitting is not None  # `refuse` refuses the others
        if image.mode == "CMYK" and profile.transform is None:
            reduction = 1
        ratio = max(reduction, fitting)
        if ratio > 1:  # has an effect on JPEG only
            image.draft(None, (image.width // ratio, image.height // ratio))
        shift = _bits(image) - 8
        image.load()
        pixels = np.empty([image.height, image.width, 3], np.uint8)
        # Tile by tile, so that only one tile with alpha is in memory.
        corners = (range(0, length, _TILE) for length in pixels.shape[:2])
        for top, left in itertools.product(*corners):
            bottom, right = min(top + _TILE, image.height), min(left + _TILE, image.width)
            tile = image.crop((left, top, right, bottom))
            if tile.mode.startswith("I;16"):
                tile = _cut_to_8_bits(tile, shift)
            tile = profile.convert(tile).convert("RGBA")
            white = Image.new("RGBA", tile.size, "white")
            tile = Image.alpha_composite(white, tile).convert("RGB")
            pixels[top:bottom, left:right] = np.asarray(tile)
    return pixels


def refuse(
    image: Image.Image, read: Callable[[], bytes], max_pixels: int, whole: bool = False
) -> str | None:
    """Returns why an opened image is not decoded, or None.

    Args:
        image: of Pillow; its pixels are not read.
        read: returns the bytes of its file; called only for a JPEG above the limit.
        max_pixels: see `image_limits.pixel_limit`.
        whole: whether JPEG files, too, must be decoded at full size.
    """
    if image.mode in _UNREADABLE_MODES:
        return (
            f"its pixels are {_UNREADABLE_MODES[image.mode]} (mode {image.mode} of Pillow), whose "
            "white is not defined; save it with 8 or 16 bits per channel"
        )
    pixels, kind = image.width * image.height, "an image"
    if image.format == "TIFF":  # a decoder holds a tile, which may be larger than the image
        tags = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]  # of TiffImageFile
        sides = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)
        if all(isinstance(side, int) for side in sides):
            pixels = max(pixels, sides[0] * sides[1])
    if pixels <= max_pixels:
        return None
    if image.format == "JPEG" and not whole:
        data = read()
        if jpeg_markers.is_file_buffered(data):
            kind = "a progressive JPEG"
        elif _fitting_ratio(image, max_pixels):
            if pixels <= max(image_limits.MOST, len(data) * image_limits.JPEG_PIXELS_PER_BYTE):
                return None
            return (
                f"its header states {image.width} x {image.height} pixels, more than its "
                f"{len(data):,} bytes can hold"
            )
    return (
        f"{kind} of {image.width} x {image.height} pixels is above the limit of {max_pixels:,} "
        "pixels; make it smaller"
    )


def _fitting_ratio(image: Image.Image, max_pixels: int) -> int | None:
    """Returns the least ratio at which an image has at most `max_pixels`; None if there is none."""
    for ratio in (1, 2, 4, 8):
        if -(-image.width // ratio) * -(-image.height // ratio) <= max_pixels:
            return ratio
    return None


def _bits(image: Image.Image) -> int:
    """Returns the bits of a grey value of mode I;16: 16, or 12 in some TIFF files."""
    if image.format != "TIFF":
        return 16
    tags = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]  # of TiffImageFile
    return max(tags.get(_BITS_PER_SAMPLE, (16,))[0], 8)


def _cut_to_8_bits(tile: Image.Image, shift: int) -> Image.Image:
    """A tile of mode I;16 -> L or LA, without the lower byte; Pillow would clip it to white."""
    values = np.asarray(tile)
    grey = Image.fromarray((values >> shift).astype(np.uint8))
    key = tile.info.get("transparency")
    if isinstance(key, int):
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey
