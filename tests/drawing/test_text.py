"""Names in any script, compared with the fonts themselves."""

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageDraw

from vim_tf.drawing import grids, text
from vim_tf.drawing.text import fit_font


def draw(line):
    """The pixels of a line of text, grey."""
    shown, font = fit_font(line)
    image = Image.new("L", (400, 30), 255)
    ImageDraw.Draw(image).text((2, 2), shown, fill=0, font=font)
    return np.asarray(image)


@pytest.fixture
def fonts(tmp_path, monkeypatch):
    """A function (letters) adds a font that draws each as a box; no others are installed."""
    found = []
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: found)

    def add(letters):
        builder = FontBuilder(1000, isTTF=True)
        pen = TTGlyphPen(None)
        for move, point in (
            ("moveTo", (0, 0)),
            *(("lineTo", p) for p in ((0, 900), (900, 900), (900, 0))),
        ):
            getattr(pen, move)(point)
        pen.closePath()
        names = [".notdef", *(f"u{ord(letter):04X}" for letter in letters)]
        builder.setupGlyphOrder(names)
        builder.setupCharacterMap({ord(letter): f"u{ord(letter):04X}" for letter in letters})
        builder.setupGlyf(
            {name: pen.glyph() if name != ".notdef" else TTGlyphPen(None).glyph() for name in names}
        )
        builder.setupHorizontalMetrics({name: (1000, 0) for name in names})
        builder.setupHorizontalHeader(ascent=900, descent=-100)
        builder.setupNameTable({"familyName": f"Test{len(found)}", "styleName": "Regular"})
        builder.setupOS2(sTypoAscender=900, sTypoDescender=-100)
        builder.setupPost()
        path = tmp_path / f"test{len(found)}.ttf"
        builder.save(path)
        found.append(str(path))
        text._candidates.cache_clear()

    text._candidates.cache_clear()
    text._say_missing.cache_clear()
    yield add
    text._candidates.cache_clear()


@pytest.mark.parametrize("name", ["cats", "café", "коты", "γάτες", "قطط", "חתול", "mačky ŠŽ"])
def test_these_scripts_need_no_font_of_the_system(fonts, capsys, name):
    shown, font = fit_font(name)
    assert shown == name
    assert (draw(name) < 128).sum() > 20
    # The font has a glyph of its own for each letter, not the box of a missing one.
    missing = font.getmask("\U000f0000").getbbox()
    assert all(
        bytes(font.getmask(c)) != bytes(font.getmask("\U000f0000")) for c in name if c != " "
    ), missing
    assert capsys.readouterr().err == ""


def test_a_font_of_the_system_is_found(fonts, capsys):
    fonts("犬")
    fonts("猫犬")
    shown, font = fit_font("猫")
    assert (shown, font.getname()[0]) == ("猫", "Test1")
    assert fit_font("犬")[1].getname()[0] == "Test0"
    assert (draw("猫") < 128).sum() > 50
    assert capsys.readouterr().err == ""


def test_what_no_font_has_is_drawn_as_its_code_and_said_once(fonts, capsys):
    fonts("犬")
    for _ in range(2):
        assert fit_font("猫 cat")[0] == r"\u732b cat"
    line = capsys.readouterr().err
    assert line.startswith(
        "no installed font has U+732B; they are drawn as codes such as \\u732b: "
    )
    assert line.count("\n") == 1
    assert fit_font("\U00020000a")[0] == r"\U00020000a"


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a\nb", r"a\nb"), ("\x1b[2J", r"\x1b[2J"), ("é\n", r"é\n"), ("می‌خواهم", "می‌خواهم")],
)
def test_control_characters_are_escaped(fonts, name, shown):
    assert fit_font(name)[0] == shown


def test_a_font_that_cannot_be_read_is_passed_over(fonts, tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    fonts("猫")
    text._candidates.cache_clear()
    from matplotlib import font_manager

    font_manager.findSystemFonts().insert(0, str(tmp_path / "broken.ttf"))
    assert fit_font("猫")[0] == "猫"


def test_a_long_name_of_another_script_is_whole():
    images = np.zeros((2, 1, 16, 16, 3), "uint8")
    image = grids.labelled_rows(images, ["ж" * 120, "a"], 2)
    margin = image.shape[1] - grids.image_grid(images[0], 1, 2).shape[1]
    ink = np.argwhere(image[: image.shape[0] // 2, :margin].min(-1) < 128)[:, 1]
    _, font = fit_font("ж" * 120)
    assert font.getlength("ж" * 120) - 3 < ink.max() - ink.min() + 1 < margin - 6
