import numpy as np
import pytest
from PIL import Image

from vim_tf import pictures
from vim_tf.pictures import GAP


def make_images(n, height=3, width=4):
    """No pixel is white, and no two are alike."""
    count = n * height * width * 3
    return np.arange(count).reshape(n, height, width, 3).astype("uint8") % 250


def cut(grid, row, column, height=3, width=4):
    top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
    return grid[top : top + height, left : left + width]


def test_images_stand_in_rows_on_white():
    images = make_images(5)
    grid = pictures.image_grid(images, columns=3)
    assert grid.shape == (2 * (3 + GAP) + GAP, 3 * (4 + GAP) + GAP, 3)
    assert grid.dtype == np.uint8
    for i, image in enumerate(images):
        np.testing.assert_array_equal(cut(grid, i // 3, i % 3), image)
    assert np.all(cut(grid, 1, 2) == 255)
    white = np.ones(grid.shape[:2], bool)
    for i in range(5):
        cut(white[..., None], i // 3, i % 3)[:] = False
    assert np.all(grid[white] == 255)


def test_zoom_repeats_pixels():
    images = make_images(2)
    plain, zoomed = (pictures.image_grid(images, 2, zoom) for zoom in (1, 3))
    assert zoomed.shape == (plain.shape[0] * 3, plain.shape[1] * 3, 3)
    for i in range(3):
        for j in range(3):
            np.testing.assert_array_equal(zoomed[i::3, j::3], plain)


@pytest.mark.parametrize("n", [1, 3, 4, 7, 8])
def test_originals_stand_above_their_reconstructions(n):
    originals = make_images(n)
    reconstructions = 249 - originals
    grid = pictures.reconstruction_grid(originals, reconstructions, columns=4)
    for i in range(n):
        row, column = 2 * (i // 4), i % 4
        np.testing.assert_array_equal(cut(grid, row, column), originals[i])
        np.testing.assert_array_equal(cut(grid, row + 1, column), reconstructions[i])
    assert grid.shape[0] == 2 * -(-n // 4) * (3 + GAP) + GAP


@pytest.mark.parametrize("zoom", [1, 2])
def test_a_row_a_class_with_its_name(zoom):
    images = make_images(6, 16, 16).reshape(2, 3, 16, 16, 3)
    picture = pictures.labelled_rows(images, ["x", "WWWMMM wide"], zoom)
    grid = pictures.image_grid(images.reshape(6, 16, 16, 3), 3, zoom)
    margin = picture.shape[1] - grid.shape[1]
    np.testing.assert_array_equal(picture[:, margin:], grid)
    row = zoom * (16 + GAP)
    ink = [np.argwhere(part[:, :margin].min(-1) < 128) for part in (picture[:row], picture[row:])]
    for part in ink:  # text, and not cut off at the right
        assert len(part)
        assert part[:, 1].max() < margin - 1
    assert ink[0][:, 1].max() < ink[1][:, 1].max()


def test_png_holds_the_pixels(tmp_path):
    image = make_images(1)[0]
    pictures.write_png(tmp_path / "x.png", image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "x.png")), image)
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_curves_are_drawn(tmp_path):
    records = [{"step": step, "kind": "train", "total": 1 / step} for step in (1, 2, 3)]
    records.append({"step": 3, "kind": "evaluation", "psnr": 20.0})
    panels = [("loss", True, [("train", "total")]), ("PSNR", False, [("evaluation", "psnr")])]
    pictures.draw_curves(records, panels, tmp_path / "full.png")
    pictures.draw_curves([], panels, tmp_path / "empty.png")
    full, empty = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("full", "empty"))
    assert full.shape == empty.shape
    half = full.shape[1] // 2
    coloured = (np.ptp(full[..., :3].astype(int), axis=-1) > 50).nonzero()[1]
    assert np.any(coloured < half)
    assert np.any(coloured > half)
    assert not np.any(np.ptp(empty[..., :3].astype(int), axis=-1) > 50)
