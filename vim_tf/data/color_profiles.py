"""ICC colour profiles: which change the colours of an image, and their conversion to sRGB."""

import hashlib
import io
import threading
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

# What becomes of a profile: there is none or it is sRGB; it is converted; it cannot be used.
NONE, CONVERTED, DAMAGED = range(3)
_LEVEL = 1  # of 255; a profile that moves no colour further is sRGB
_GRID = 17  # levels of each channel at which a profile is compared with sRGB
_KEPT = 64  # profiles whose transforms are kept
_GREY = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")
_NOT_RGB = ("CMYK", "LAB")


@dataclass(frozen=True)
class Profile:
    """What a colour profile does with the images of one mode.

    Attributes:
        status: `NONE`, `CONVERTED` or `DAMAGED`.
        space: the profile's colours: "RGB", "GRAY" or "CMYK"; "" if it is not converted.
        transform: Pillow's transform to sRGB; None if it is not converted.
    """

    status: int
    space: str = ""
    transform: ImageCms.ImageCmsTransform | None = None

    def convert(self, tile: Image.Image) -> Image.Image:
        """Returns an image of the profile's mode as sRGB, mode RGB or RGBA."""
        if self.transform is None:
            return tile
        if self.space == "RGB":
            return _apply(self.transform, tile.convert("RGBA"))
        if self.space == "CMYK":
            return _apply(self.transform, tile)
        grey, alpha = tile.convert("LA").split()
        converted = _apply(self.transform, grey)
        converted.putalpha(alpha)
        return converted


_known: dict[tuple[bytes, bool, bool], Profile] = {}
_lock = threading.Lock()


def read_profile(image: Image.Image) -> Profile:
    """Returns what the colour profile of an opened image does.

    The profile is compared with sRGB at a grid of colours, once for each distinct profile.

    Args:
        image: an opened image of Pillow; its pixels are not read.
    """
    content = image.info.get("icc_profile", b"")
    if not isinstance(content, bytes):  # None if Pillow could not put its parts together
        return Profile(DAMAGED)
    if not content:
        return Profile(NONE)
    key = hashlib.sha256(content).digest(), image.mode in _GREY, image.mode in _NOT_RGB
    with _lock:
        if key not in _known:
            if len(_known) >= _KEPT:
                _known.clear()
            _known[key] = _make(content, image.mode)
        return _known[key]


def _make(content: bytes, mode: str) -> Profile:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(content))
        # Its annotation allows for files too.
        space = source.profile.xcolor_space.strip()  # pyright: ignore[reportAttributeAccessIssue]
    except (ImageCms.PyCMSError, OSError, ValueError):
        return Profile(DAMAGED)
    if mode in _NOT_RGB:
        allowed = {mode}
    else:
        allowed = {"RGB", "GRAY"} if mode in _GREY else {"RGB"}
    if space not in allowed or space not in ("RGB", "GRAY", "CMYK"):
        return Profile(DAMAGED)
    # Grey images with a profile of RGB are converted as RGB images of equal channels.
    modes = {"RGB": ("RGBA", "RGBA"), "GRAY": ("L", "RGB"), "CMYK": ("CMYK", "RGB")}[space]
    try:
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), *modes)
    except ImageCms.PyCMSError:  # it lacks a table or a curve
        return Profile(DAMAGED)
    if space != "CMYK" and _is_identity(transform, space):
        return Profile(NONE)
    return Profile(CONVERTED, space, transform)


def _is_identity(transform: ImageCms.ImageCmsTransform, space: str) -> bool:
    if space == "GRAY":
        before = np.arange(256, dtype=np.uint8)[np.newaxis]  # [1, 256]
        after = np.asarray(_apply(transform, Image.fromarray(before)))
        before = before[..., np.newaxis]
    else:
        levels = np.linspace(0, 255, _GRID).round().astype(np.uint8)
        grid = np.meshgrid(levels, levels, levels, np.array([255], np.uint8))
        before = np.stack(grid, -1).reshape(_GRID, -1, 4)
        after = np.asarray(_apply(transform, Image.fromarray(before)))
    return int(np.abs(after.astype(int) - before).max()) <= _LEVEL


def _apply(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # it is None only with inPlace
    return converted
