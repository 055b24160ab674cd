"""Drawing for people: grids of images and curves of a run, as PNG files."""

import io
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vim_tf.runs import write_atomically

GAP = 2  # white pixels between images of a grid


def image_grid(images, columns, zoom=1):
    """Lays images out in rows on white.

    Args:
        images: uint8 [n,H,W,3].
        columns: images a row; the last row may be shorter.
        zoom: every pixel becomes zoom x zoom pixels.

    Returns:
        uint8 [height,width,3].
    """
    n, height, width, _ = images.shape
    rows = -(-n // columns)
    grid = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), 255, "uint8")
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + GAP) + GAP, (i % columns) * (width + GAP) + GAP
        grid[top : top + height, left : left + width] = image
    return grid.repeat(zoom, axis=0).repeat(zoom, axis=1)


def reconstruction_grid(originals, reconstructions, columns=16, zoom=1):
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


def labelled_rows(images, names, zoom=1):
    """One row of images a class, with its name at the left.

    Args:
        images: uint8 [classes,n,H,W,3].
        names: a name a class.
        zoom: as in `image_grid`.

    Returns:
        uint8 [height,width,3].
    """
    grid = image_grid(images.reshape(-1, *images.shape[2:]), images.shape[1], zoom)
    row_height = zoom * (images.shape[2] + GAP)
    font = ImageFont.load_default()
    margin = 12 + math.ceil(max(font.getlength(name) for name in names))
    margin_image = Image.new("RGB", (margin, grid.shape[0]), "white")
    draw = ImageDraw.Draw(margin_image)
    for i, name in enumerate(names):
        draw.text((6, i * row_height + row_height // 2 - 5), name, fill="black", font=font)
    return np.concatenate([np.asarray(margin_image), grid], axis=1)


def write_png(path, image):
    """Writes uint8 [h,w,3] as a PNG file, whole or not at all."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", optimize=True)
    write_atomically(path, buffer.getvalue())


def draw_curves(records, panels, path):
    """Draws a run's numbers over its steps.

    Args:
        records: what `Run.read_metrics` returns.
        panels: a list of (title, logarithmic, [(kind, name), ...]), one plot each.
        path: the PNG file.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(5 * len(panels), 3.6), squeeze=False, layout="constrained"
    )
    for axis, (title, logarithmic, curves) in zip(axes[0], panels, strict=True):
        for kind, name in curves:
            points = [
                (record["step"], record[name])
                for record in records
                if record["kind"] == kind and name in record
            ]
            if points:
                style = "o-" if kind == "evaluation" else "-"
                axis.plot(*zip(*points, strict=True), style, label=f"{name} ({kind})", ms=3)
        axis.set_title(title)
        axis.set_xlabel("step")
        if logarithmic:
            axis.set_yscale("log")
        if axis.lines:
            axis.legend(fontsize="small")
        axis.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    pyplot.close(figure)
    write_atomically(path, buffer.getvalue())
