"""Renders drawings to images on white."""

import importlib
import io
from types import ModuleType

from PIL import Image

from vim_tf.data.styles.sets import Drawing
from vim_tf.errors import UserError
from vim_tf.messages import shorten


class RenderingError(Exception):
    """A drawing that does not render; the message is the reason."""


def import_resvg() -> ModuleType:
    """Returns the library that renders SVG.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module("resvg_py")
    except ImportError:
        raise UserError(
            "resvg-py is not installed, and it renders the icons; pip install 'resvg-py>=0.5,<0.6'"
        ) from None


def render(drawing: Drawing, size: int) -> Image.Image:
    """Returns the drawing on white, as an RGB image of `size` x `size` pixels.

    Vector drawings without colours become black. Bitmaps are averaged over whole pixels.

    Raises:
        RenderingError: the drawing is damaged, or draws nothing.
        UserError: resvg-py is not installed.
    """
    if isinstance(drawing.source, str):
        image = _render_svg(drawing.source, size)
    else:
        image = _render_bitmap(drawing.source, size)
    if image.getcolors(1) is not None:  # it has one colour only
        raise RenderingError("it draws nothing")
    return image


def encode_png(image: Image.Image) -> bytes:
    """Returns the image as a PNG file; the same pixels always give the same bytes."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _render_svg(document: str, size: int) -> Image.Image:
    resvg = import_resvg()
    try:
        # The fonts of the machine would make the images depend on it.
        png = resvg.svg_to_bytes(
            svg_string=document,
            width=size,
            height=size,
            background="#ffffff",
            skip_system_fonts=True,
        )
        return Image.open(io.BytesIO(bytes(png))).convert("RGB")
    # The library panics on a few documents; its panics are no subclass of Exception.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise RenderingError(shorten(str(error))) from None


def _render_bitmap(data: bytes, size: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data)).convert("RGBA")
    except (OSError, ValueError, Image.DecompressionBombError):
        # Pillow's message has an address in memory, and the same input must give the same bytes.
        raise RenderingError("it cannot be decoded") from None
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    image = Image.alpha_composite(white, image).convert("RGB")
    return image.resize((size, size), Image.Resampling.BOX)
