"""Sets of emoji and icons: which are allowed, their families and licences, and their drawings."""

import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vim_tf.errors import UserError
from vim_tf.messages import shorten

FLUENT_3D = "fluent-emoji-3d"
# Style -> family: the styles of a family are redrawings of one design.
EMOJI = {
    "noto": "Noto",
    "noto-v1": "Noto",
    "fluent-emoji": "Fluent",
    "fluent-emoji-flat": "Fluent",
    FLUENT_3D: "Fluent",
    "fluent-emoji-high-contrast": "Fluent",
    "fxemoji": "FxEmoji",
    "twemoji": "Twemoji",
    "openmoji": "OpenMoji",
    "emojione": "EmojiOne",
    "emojione-v1": "EmojiOne",
    "emojione-monotone": "EmojiOne",
    "streamline-emojis": "Streamline",
}
DEFAULT = ("noto", "noto-v1", "fluent-emoji", "fluent-emoji-flat", FLUENT_3D, "fxemoji")
FREE = ("MIT", "Apache-2.0", "CC0-1.0", "ISC")  # licences of the sets of --sets icons
# Variants of one icon: its weight, its filling, its size in pixels.
_VARIANT = re.compile(
    r"-(outline|outlined|fill|filled|solid|line|linear|thin|light|regular|medium|bold|duotone|"
    r"twotone|two-tone|sharp|round|rounded|broken|color|alt|\d+(px)?)$"
)
# Sets of logos whose names are left out of the other sets of icons.
BRANDS = ("bxl", "cib", "fa7-brands")
# Logos are trademarks. Most sets of the category Programming draw logos of languages and tools.
_LOGO_CATEGORIES = ("Logos", "Programming")
_LOGO_SET = re.compile(r"brand|logo|crypto|bitcoin")
# Rendered is the first moment of an animation, where nothing or little is drawn.
_ANIMATION = re.compile("<(animate|set)")
_LOGO_ICON = re.compile(r"(^|-)(brand|logo)(-|$)")
_CODE = "[0-9a-fA-F]{1,5}([-_][0-9a-fA-F]{1,5})*"
_CODE_FILE = re.compile(f"assets/({_CODE})[.]webp")
_TEXTS = {"type": "array", "items": {"type": "string"}}
_OBJECTS = {"type": "object", "additionalProperties": {"type": "object"}}
# JSON Schema of the files of the package of icons: collections.json, and a set.
COLLECTIONS_SCHEMA = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "properties": {"author": {"type": "object"}, "license": {"type": "object"}},
        "required": ["author", "license"],
    },
}
SET_SCHEMA = {
    "type": "object",
    "properties": {
        "icons": _OBJECTS,
        "aliases": _OBJECTS,
        "categories": {"type": "object", "additionalProperties": _TEXTS},
        "chars": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "propertyNames": {"pattern": f"^{_CODE}$"},
        },
    },
    "required": ["icons"],
}


@dataclass(frozen=True)
class Drawing:
    """One image before it is rendered.

    Attributes:
        name: its name in the set.
        source: an SVG document, or a bitmap file with transparency.
        code: its code points, such as "1f44b-1f3fb", see `concepts.normalize_code`; or None.
        category: its category in the set, or None.
    """

    name: str
    source: str | bytes
    code: str | None = None
    category: str | None = None


@dataclass(frozen=True)
class DrawingSet:
    """The drawings of one style.

    Attributes:
        style: the name of the set.
        family: the name of its family.
        title: its name for readers.
        author: its author.
        author_url: where it comes from.
        licence: SPDX identifier.
        licence_url: where the licence's text is.
        emoji: whether it draws emoji.
        drawings: sorted by name.
        left_out: reason -> number of the drawings that were left out.
    """

    style: str
    family: str
    title: str
    author: str
    author_url: str
    licence: str
    licence_url: str
    emoji: bool
    drawings: list[Drawing]
    left_out: Counter[str] = field(default_factory=Counter)


def choose_styles(names: Iterable[str], collections: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the styles that `--sets` names, without repeats, in the order given.

    Args:
        names: names of sets; "default" means `DEFAULT`, and "icons" all sets under a licence of
            `FREE` that draw neither emoji nor logos.
        collections: the parsed collections.json of the package of icons.

    Raises:
        UserError: there is no such set, or it is one of logos.
    """
    chosen: dict[str, None] = {}
    for name in names:
        if name == "default":
            chosen.update(dict.fromkeys(DEFAULT))
        elif name == "icons":
            chosen.update(dict.fromkeys(_free_icons(collections)))
        elif name != FLUENT_3D and name not in collections:
            known = sorted({*collections, FLUENT_3D, "default", "icons"})
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}" if near else "the package's collections.json has all"
            raise UserError(f"--sets has {shorten(name)}, and there is no such set; {hint}")
        elif name in collections and is_of_logos(name, collections[name]):
            raise UserError(
                f"--sets has {name} ({shorten(_text(collections[name], 'name'))}), a set of logos "
                "or brands; logos are trademarks and are never used: leave it out"
            )
        else:
            chosen[name] = None
    absent = [name for name in chosen if name != FLUENT_3D and name not in collections]
    if absent:
        raise UserError(
            f"the package of icons has no set {absent[0]}; give another version with --package, or "
            "choose other --sets"
        )
    return tuple(chosen)


def is_of_logos(style: str, about: Mapping[str, Any]) -> bool:
    """Whether a set is one of logos, by its category, its name and its title.

    Args:
        style: the set's name.
        about: its entry in collections.json.
    """
    name = f"{style} {_text(about, 'name')}".lower()
    return about.get("category") in _LOGO_CATEGORIES or bool(_LOGO_SET.search(name))


def plain_name(name: str) -> str:
    """Returns the name of an icon without the words for its variant: "home-fill-24" is "home"."""
    while (shorter := _VARIANT.sub("", name)) != name:
        name = shorter
    return name


def read_icon_set(
    style: str,
    content: Mapping[str, Any],
    about: Mapping[str, Any],
    brands: Collection[str] = (),
) -> DrawingSet:
    """Returns a set of vector drawings.

    Hidden and animated icons and those of brands are left out and counted, and so are aliases,
    which name the drawing of another icon.

    Args:
        style: the set's name.
        content: the parsed json/<style>.json of the package of icons.
        about: the set's entry in collections.json.
        brands: names of brands, in a set of icons.
    """
    author, licence = about["author"], about["license"]
    drawings, left_out = [], Counter[str]()
    if content.get("aliases"):
        left_out["aliases"] = len(content["aliases"])
    codes = {name: code for code, name in codes_of(content)}
    categories = categories_of(content)
    box = {key: content[key] for key in ("left", "top", "width", "height") if key in content}
    for name, icon in sorted(content["icons"].items()):
        reason = _reason_against(name, icon, () if style in EMOJI else brands)
        if reason is None:
            try:
                svg = make_svg({**box, **icon})
                drawings.append(Drawing(name, svg, codes.get(name), categories.get(name)))
            except (TypeError, ValueError):
                reason = "without a drawing"
        if reason is not None:
            left_out[reason] += 1
    return DrawingSet(
        style=style,
        family=EMOJI.get(style) or _text(author, "name"),
        title=_text(about, "name"),
        author=_text(author, "name"),
        author_url=_text(author, "url"),
        licence=_text(licence, "spdx"),
        licence_url=_text(licence, "url"),
        emoji=style in EMOJI,
        drawings=drawings,
        left_out=left_out,
    )


def make_fluent_3d(images: Mapping[str, bytes]) -> DrawingSet:
    """Returns the set of 3D emoji.

    Args:
        images: {name: contents} of the files for which `is_fluent_3d`.
    """
    codes = {
        found[1]: data for name, data in images.items() if (found := _CODE_FILE.fullmatch(name))
    }
    return DrawingSet(
        style=FLUENT_3D,
        family=EMOJI[FLUENT_3D],
        title="Fluent Emoji 3D",
        author="Microsoft Corporation, packed by LobeHub",
        author_url="https://github.com/microsoft/fluentui-emoji",
        licence="MIT",
        licence_url="https://github.com/microsoft/fluentui-emoji/blob/main/LICENSE",
        emoji=True,
        drawings=[Drawing(code, data, code) for code, data in sorted(codes.items())],
    )


def is_fluent_3d(name: str) -> bool:
    """Whether a file of the package of 3D emoji is an image, named by its code points."""
    return _CODE_FILE.fullmatch(name) is not None


def codes_of(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields (code points, name of the icon) of a set that knows them."""
    yield from sorted(content.get("chars", {}).items())


def categories_of(content: Mapping[str, Any]) -> dict[str, str]:
    """Returns {name of an icon: its category} of a set."""
    categories = content.get("categories", {})
    return {name: category for category, names in sorted(categories.items()) for name in names}


def make_svg(icon: Mapping[str, Any]) -> str:
    """Returns the SVG document of an icon, which is centred in a square.

    Args:
        icon: "body", and optionally "left", "top", "width" and "height" (0, 0, 16, 16).

    Raises:
        TypeError, ValueError: one of them is missing or is no number.
    """
    left, top = float(icon.get("left", 0)), float(icon.get("top", 0))
    width, height = float(icon.get("width", 16)), float(icon.get("height", 16))
    side = max(width, height)
    box = f"{left - (side - width) / 2:g} {top - (side - height) / 2:g} {side:g} {side:g}"
    if not isinstance(icon.get("body"), str):
        raise TypeError("no body")
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}">{icon["body"]}</svg>'
    )


def _reason_against(name: str, icon: Mapping[str, Any], brands: Collection[str]) -> str | None:
    """Why an icon is left out before it is looked at as a drawing; None if it is not."""
    if icon.get("hidden"):
        return "hidden"
    if _LOGO_ICON.search(name) or plain_name(name) in brands:
        return "logos"
    return "animated" if _ANIMATION.search(str(icon.get("body"))) else None


def _free_icons(collections: Mapping[str, Any]) -> list[str]:
    return [
        style
        for style, about in sorted(collections.items())
        if style not in EMOJI
        and not is_of_logos(style, about)
        and _text(about["license"], "spdx") in FREE
    ]


def _text(values: Mapping[str, Any], key: str) -> str:
    return str(values.get(key) or "unknown")
