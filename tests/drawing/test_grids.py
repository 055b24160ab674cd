import numpy as np
import pytest
from PIL import Image

from vim_tf.drawing import grids
from vim_tf.drawing.grids import GAP


def make_images(n, height=3, width=4):
    """Images without white pixels, and without two equal pixels."""
    count = n * height * width * 3
    return np.arange(count).reshape(n, height, width, 3).astype("uint8") % 250


def cut(grid, row, column, height=3, width=4):
    top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
    return grid[top : top + height, left : left + width]


def test_images_stand_in_rows_on_white():
    images = make_images(5)
    grid = grids.image_grid(images, columns=3)
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
    plain, zoomed = (grids.image_grid(images, 2, zoom) for zoom in (1, 3))
    assert zoomed.shape == (plain.shape[0] * 3, plain.shape[1] * 3, 3)
    for i in range(3):
        for j in range(3):
            np.testing.assert_array_equal(zoomed[i::3, j::3], plain)


@pytest.mark.parametrize("n", [1, 3, 4, 7, 8])
def test_originals_stand_above_their_reconstructions(n):
    originals = make_images(n)
    reconstructions = 249 - originals
    grid = grids.reconstruction_grid(originals, reconstructions, columns=4)
    for i in range(n):
        row, column = 2 * (i // 4), i % 4
        np.testing.assert_array_equal(cut(grid, row, column), originals[i])
        np.testing.assert_array_equal(cut(grid, row + 1, column), reconstructions[i])
    assert grid.shape[0] == 2 * -(-n // 4) * (3 + GAP) + GAP


@pytest.mark.parametrize("zoom", [1, 2])
def test_a_row_a_class_with_its_name(zoom):
    images = make_images(6, 16, 16).reshape(2, 3, 16, 16, 3)
    image = grids.labelled_rows(images, ["x", "WWWMMM wide"], zoom)
    grid = grids.image_grid(images.reshape(6, 16, 16, 3), 3, zoom)
    margin = image.shape[1] - grid.shape[1]
    np.testing.assert_array_equal(image[:, margin:], grid)
    row = zoom * (16 + GAP)
    ink = [np.argwhere(part[:, :margin].min(-1) < 128) for part in (image[:row], image[row:])]
    for part in ink:  # there is text, and its right end is not cut off
        assert len(part)
        assert part[:, 1].max() < margin - 1
    assert ink[0][:, 1].max() < ink[1][:, 1].max()


def test_png_holds_the_pixels(tmp_path):
    image = make_images(1)[0]
    grids.write_png(tmp_path / "x.png", image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "x.png")), image)
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


# Views ------------------------------------------------------------------------------------------


def test_paper_between_images():
    grid = grids.image_grid(make_images(2), columns=2, zoom=2, paper=150)
    assert np.sum(np.all(grid == 150, axis=-1)) == grid[..., 0].size - 2 * 3 * 4 * 4


@pytest.mark.parametrize(
    ("size", "zoom"), [((32, 32), 2), ((16, 32), 2), ((28, 28), 2), ((256, 9), 1)]
)
def test_zoom_to_a_side(size, zoom):
    assert grids.zoom_to(64, size) == zoom


def test_captions_stand_above_their_images():
    images = make_images(3, 4, 30)
    line = grids.LINE
    grid = grids.captioned_grid(images, ["", "W" * 50, "x"], columns=2)
    height, width = 4 + line + GAP, 30 + 3 * GAP
    assert grid.shape == (2 * height + GAP, 2 * width + GAP, 3)
    dark = []
    for i, image in enumerate(images):
        top, left = GAP + (i // 2) * height, 2 * GAP + (i % 2) * width
        np.testing.assert_array_equal(grid[top + line : top + line + 4, left : left + 30], image)
        dark.append(np.sum(grid[top : top + line, left : left + 30] < 128))
    assert dark[0] == 0 < dark[2] < dark[1]
    assert np.all(grid[:, :GAP] == 255)  # the long one is cut off


def test_a_title_stands_above_and_widens():
    image = make_images(1, 5, 8)[0]
    narrow = grids.with_title(image, ["", "x"])
    wide = grids.with_title(image, ["x" * 80])
    for titled, lines in ((narrow, 2), (wide, 1)):
        top = lines * grids.LINE
        np.testing.assert_array_equal(titled[top:, :8], image)
        assert np.all(titled[top:, 8:] == 255)
        assert np.any(titled[:top] < 128)
    assert np.all(narrow[: grids.LINE] == 255)
    assert wide.shape[1] > 10 * narrow.shape[1]
    assert np.all(wide[:, -3:] == 255)  # not cut off


def test_a_heat_map_is_bright_where_the_heat_is():
    image = np.full((4, 6, 3), 255, "uint8")
    heat = np.array([[0.0, 0.1, 0.4], [0.0, 0.0, 0.0]])
    drawn = grids.heat_map(image, heat, zoom=2)
    assert drawn.shape == (8, 12, 3)
    cells = drawn.reshape(2, 4, 3, 4, 3)
    assert np.all(cells == cells[:, :1, :, :1])  # one colour each
    light = cells[:, 0, :, 0].sum(-1, dtype=int)
    assert light[0, 2] > light[0, 1] > light[0, 0] == light[1, 0]
    # Only shares of the highest value matter. A map without any heat is drawn as 0.
    np.testing.assert_array_equal(grids.heat_map(image, heat * 9, zoom=2), drawn)
    assert len(np.unique(grids.heat_map(image, heat * 0))) <= 3


def test_what_is_not_seen_is_the_faint_image():
    image = make_images(1, 4, 4)[0]
    seen = np.array([[True, False], [False, False]])
    drawn = grids.heat_map(image, np.ones((2, 2)), seen)
    faint = np.rint(0.2 * image + 0.8 * 255)
    np.testing.assert_array_equal(drawn[2:], faint[2:])
    np.testing.assert_array_equal(drawn[:2, 2:], faint[:2, 2:])
    assert np.all(drawn[:2, :2] != faint[:2, :2])


def test_an_outline_lies_just_inside():
    image = make_images(1, 12, 14)[0]
    framed = grids.outline(image, 2, 3, 6, 8, colour=(250, 251, 252))
    inside = np.zeros((12, 14), bool)
    inside[2:8, 3:11] = True
    inside[4:6, 5:9] = False
    assert np.all(framed[inside] == (250, 251, 252))
    np.testing.assert_array_equal(framed[~inside], image[~inside])
    small = grids.outline(image, 0, 0, 3, 3, colour=(250, 251, 252))
    assert np.all(small[:3, :3] == (250, 251, 252))
