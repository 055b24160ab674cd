r"""Text in images: a font for every script that an installed font has.

Pillow's own font has the Latin letters, and DejaVu, which comes with matplotlib, has also Cyrillic,
Greek, Arabic and Hebrew. For other scripts the fonts of the system are searched. A character that
no font has is drawn as its escape code, such as `\u732b`, and a line says so.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import ImageFont

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

SIZE = 10  # of the letters, in pixels
_JOINERS = "\u200c\u200d"  # not printable by Python's rule, but letters of Persian words need them
# Has a box with a code for every character, which is no glyph.
_NO_LETTERS = "LastResort"


def fit_font(text: str, size: int = SIZE) -> tuple[str, FreeTypeFont | BitmapFont]:
    """Finds a font for a line of text.

    Args:
        text: one line.
        size: of the letters, in pixels.

    Returns:
        (text, font): the text with escape codes for what the font does not have. The font is the
        first that has all of its characters, or that lacks the fewest.
    """
    if text.isascii():
        return _escape(text, set()), ImageFont.load_default(size)
    wanted = {ord(character) for character in text if _is_drawn(character)}
    fewest, best = wanted, _candidates()[0]
    for path in _candidates():
        missing = wanted - _characters(path)
        if len(missing) < len(fewest):
            fewest, best = missing, path
        if not missing:
            break
    if fewest:
        _say_missing("".join(map(chr, sorted(fewest))))
    shown = _escape(text, fewest)
    return shown, ImageFont.load_default(size) if shown.isascii() else ImageFont.truetype(
        best, size
    )


def _is_drawn(character: str) -> bool:
    return character.isprintable() or character in _JOINERS


def _escape(text: str, missing: set[int]) -> str:
    return "".join(
        character.encode("unicode_escape").decode()
        if not _is_drawn(character) or ord(character) in missing
        else character
        for character in text
    )


@functools.cache
def _say_missing(characters: str) -> None:
    """Writes a line, once for the same characters."""
    shown = ", ".join(f"U+{ord(one):04X}" for one in characters[:5])
    more = f" and {len(characters) - 5} more" if len(characters) > 5 else ""
    sys.stderr.write(
        f"no installed font has {shown}{more}; they are drawn as codes such as "
        f"{characters[0].encode('unicode_escape').decode()}: install a font of this script, for "
        "example the package fonts-noto-cjk\n"
    )


@functools.cache
def _candidates() -> Sequence[str]:
    """Paths of fonts: DejaVu first, then the system's in the order of their names."""
    import matplotlib
    from matplotlib import font_manager

    first = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
    found = font_manager.findSystemFonts()
    names = {Path(path).name: path for path in sorted(found) if _NO_LETTERS not in Path(path).name}
    return [first, *(names[name] for name in sorted(names))]


@functools.cache
def _characters(path: str) -> frozenset[int]:
    """The code points that a font has glyphs for; none if it cannot be read."""
    from matplotlib import font_manager

    try:
        return frozenset(font_manager.get_font(path).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()
