"""Drawing for people: grids of images and curves of a run, as PNG files."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from vim_tf.annotations import StrPath
from vim_tf.drawing.text import fit_font
from vim_tf.errors import UserError
from vim_tf.files import write_atomically
from vim_tf.formats import WRITTEN_BY
from vim_tf.messages import shorten

FACTS = "vim_tf"  # keyword of the text chunk with an image's settings
MOST_PIXELS = 2**27  # of a grid; 400 MB, and drawing takes three times that
GAP = 2  # white pixels between images of a grid
LINE = 13  # height of a line of text in pixels


def image_grid(images: np.ndarray, columns: int, zoom: int = 1, paper: int = 255) -> np.ndarray:
    """Arranges images in rows.

    Args:
        images: uint8 [n,H,W,3].
        columns: images per row; the last row may be shorter.
        zoom: every pixel becomes zoom x zoom pixels.
        paper: grey level between the images; 255 is white.

    Returns:
        uint8 [height,width,3].
    """
    n, height, width, _ = images.shape
    rows = -(-n // columns)
    shape = (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3)
    grid = np.full(shape, paper, "uint8")
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + GAP) + GAP, (i % columns) * (width + GAP) + GAP
        grid[top : top + height, left : left + width] = image
    return enlarge(grid, zoom)


def reconstruction_grid(
    originals: np.ndarray, reconstructions: np.ndarray, columns: int = 16, zoom: int = 1
) -> np.ndarray:
    """Rows of originals, each row above its reconstructions: two uint8 [n,H,W,3] -> [h,w,3]."""
    rows = []
    for start in range(0, len(originals), columns):
        rows += [originals[start : start + columns], reconstructions[start : start + columns]]
    last = rows[-1]
    missing = columns - len(last) if len(rows) > 2 else 0
    if missing:  # keep the two rows of a pair under each other
        blank = np.full((missing, *last.shape[1:]), 255, "uint8")
        rows[-2], rows[-1] = (np.concatenate([row, blank]) for row in rows[-2:])
    return image_grid(np.concatenate(rows), min(columns, len(originals)), zoom)


def labelled_rows(images: np.ndarray, names: Sequence[str], zoom: int = 1) -> np.ndarray:
    """One row of images per class, with its whole name at the left, in any script.

    Args:
        images: uint8 [classes,n,H,W,3].
        names: one name per class.
        zoom: as in `image_grid`.

    Returns:
        uint8 [height,width,3].
    """
    grid = image_grid(images.reshape(-1, *images.shape[2:]), images.shape[1], zoom)
    row_height = zoom * (images.shape[2] + GAP)
    fitted = [fit_font(name) for name in names]
    margin = 12 + math.ceil(max(font.getlength(text) for text, font in fitted))
    margin_image = Image.new("RGB", (margin, grid.shape[0]), "white")
    draw = ImageDraw.Draw(margin_image)
    for i, (text, font) in enumerate(fitted):
        middle = zoom * GAP + i * row_height + (row_height - zoom * GAP) // 2
        draw.text((6, middle), text, fill="black", font=font, anchor="lm")
    return np.concatenate([np.asarray(margin_image), grid], axis=1)


def zoom_to(side: int, size: tuple[int, ...]) -> int:
    """The integer zoom >= 1 with which the longer side of `size` (H, W) is about `side` pixels."""
    return max(1, round(side / max(size)))


def captioned_grid(images: np.ndarray, captions: Sequence[str], columns: int) -> np.ndarray:
    """Arranges images in rows on white, each below a line of text.

    Args:
        images: uint8 [n,H,W,3].
        captions: one text per image; text wider than its image is cut off.
        columns: images per row.

    Returns:
        uint8 [height,width,3].
    """
    n, height, width, _ = images.shape
    cells = np.full((n, height + LINE, width + 2 * GAP, 3), 255, "uint8")
    for cell, image, caption in zip(cells, images, captions, strict=True):
        cell[:LINE, GAP:-GAP] = _write([caption], width)
        cell[LINE:, GAP:-GAP] = image
    return image_grid(cells, columns)


def with_title(image: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """Returns uint8 [h,w,3] below lines of text, on white; wider if the text needs it."""
    fitted = [fit_font(line) for line in lines]
    width = max(12 + math.ceil(font.getlength(text)) for text, font in fitted)
    return below_each_other([_write(lines, width, 6), image])


def below_each_other(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images uint8 [h_i,w_i,3] below each other; white pads the narrower ones at the right."""
    width = max(image.shape[1] for image in images)
    return np.concatenate(
        [
            np.pad(image, ((0, 0), (0, width - image.shape[1]), (0, 0)), constant_values=255)
            for image in images
        ]
    )


def _write(lines: Sequence[str], width: int, margin: int = 0) -> np.ndarray:
    """Lines of text on white, uint8 [LINE * lines, width, 3]."""
    image = Image.new("RGB", (width, LINE * len(lines)), "white")
    for i, line in enumerate(lines):
        text, font = fit_font(line)
        ImageDraw.Draw(image).text((margin, i * LINE), text, fill="black", font=font)
    return np.asarray(image)


def heat_map(
    image: np.ndarray, heat: np.ndarray, seen: np.ndarray | None = None, zoom: int = 1
) -> np.ndarray:
    """Draws a heat map over a grey version of an image.

    Args:
        image: uint8 [H,W,3].
        heat: [rows,columns], not negative, a grid over the image; the highest value is brightest.
        seen: bool [rows,columns], True in cells with heat. The other cells show the image, but
            paler. None: all cells have heat.
        zoom: as in `image_grid`.

    Returns:
        uint8 [zoom * H,zoom * W,3].
    """
    from matplotlib import colormaps

    def stretch(grid: np.ndarray) -> np.ndarray:
        return grid.repeat(image.shape[0] // grid.shape[0], 0).repeat(
            image.shape[1] // grid.shape[1], 1
        )

    share = stretch(heat / max(heat.max(), 1e-12))[..., None]
    grey = image.mean(-1, keepdims=True)
    colours = 255 * colormaps["inferno"](share[..., 0])[..., :3]
    drawn = 0.25 * grey + 0.75 * colours
    if seen is not None:
        drawn = np.where(stretch(seen)[..., None], drawn, 204 + 0.2 * image)
    return enlarge(drawn.round().astype("uint8"), zoom)


def outline(
    image: np.ndarray,
    top: int,
    left: int,
    height: int,
    width: int,
    colour: tuple[int, int, int] = (0, 255, 255),
) -> np.ndarray:
    """Returns a copy of uint8 [h,w,3] with a frame of two pixels just inside the rectangle."""
    image = image.copy()
    inside = image[top : top + height, left : left + width]
    centre = inside[2:-2, 2:-2].copy()
    inside[:] = colour
    inside[2:-2, 2:-2] = centre
    return image


def enlarge(image: np.ndarray, zoom: int) -> np.ndarray:
    """Returns [h,w,...] with every pixel as zoom x zoom pixels."""
    return image.repeat(zoom, axis=0).repeat(zoom, axis=1)


def check_grid_size(
    count: int, columns: int, image_size: tuple[int, int], zoom: int, advice: str
) -> None:
    """Raises UserError for an `image_grid` of more than `MOST_PIXELS`.

    Args:
        count: number of images.
        columns: as in `image_grid`.
        image_size: (H, W) of an image.
        zoom: as in `image_grid`.
        advice: what the user can do; part of the error.
    """
    height = zoom * (-(-count // columns) * (image_size[0] + GAP) + GAP)
    width = zoom * (columns * (image_size[1] + GAP) + GAP)
    if height * width > MOST_PIXELS:
        raise UserError(
            f"the grid of {count:,} images would have {shorten(f'{height:,} x {width:,}')} pixels; "
            f"at most {MOST_PIXELS:,} are drawn; {advice}"
        )


def write_png(path: StrPath, image: np.ndarray, facts: Mapping[str, Any] | None = None) -> None:
    """Writes uint8 [h,w,3] as a PNG file atomically.

    Args:
        path: the file.
        image: the image.
        facts: what the image was made with, for JSON; written into the file's text chunks, where
            `read_facts` finds it.
    """
    about = None
    if facts is not None:
        about = PngInfo()
        about.add_text("Software", WRITTEN_BY)
        about.add_text(FACTS, json.dumps(facts))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", optimize=True, pnginfo=about)
    write_atomically(path, buffer.getvalue())


def read_facts(path: StrPath) -> dict[str, Any] | None:
    """Returns the `facts` that `write_png` wrote into a file; None if there are none."""
    with Image.open(path) as image:
        text = image.info.get(FACTS)
    return None if text is None else json.loads(text)
