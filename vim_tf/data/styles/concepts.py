"""Concepts: which drawings of several sets show the same emoji or icon, and their groups and words.

The concept of an emoji is its code points without skin tone. Sets that name no code points are
matched by name. Other drawings are a concept of their name.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vim_tf.data.styles import sets
from vim_tf.data.styles.fxemoji_names import NAMES

_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
_TONE_WORDS = re.compile(r"-(light|medium-light|medium|medium-dark|dark)(-skin-tone)?$")
_FLAG = re.compile(r"1f1[ef][0-9a-f]-1f1[ef][0-9a-f]|1f3f4-e0067-.*")
# The groups of Unicode, and the sets' own names for them.
_GROUPS = {
    "Activities": ("Activity",),
    "Animals & Nature": ("Animals Nature", "Nature"),
    "Flags": (),
    "Food & Drink": ("Food Drink", "Food"),
    "Objects": (),
    "People & Body": ("People Body", "People", "Modifiers", "Smiley People"),
    "Smileys & Emotion": (),
    "Symbols": ("Extras Unicode",),
    "Travel & Places": ("Travel Places", "Travel", "Places"),
}
_GROUP_OF = {name: group for group, names in _GROUPS.items() for name in (group, *names)}
_TEXTS = {"type": "array", "items": {"type": "string"}}
_WORDS = {"type": "object", "properties": {"default": _TEXTS, "tts": _TEXTS}}
# The JSON Schema of the annotations of CLDR.
ANNOTATIONS_SCHEMA = {
    "type": "object",
    "properties": {
        "annotations": {
            "type": "object",
            "properties": {"annotations": {"type": "object", "additionalProperties": _WORDS}},
            "required": ["annotations"],
        }
    },
    "required": ["annotations"],
}


@dataclass(frozen=True)
class Meaning:
    """What a drawing shows.

    Attributes:
        name: for example "waving-hand".
        code: its code points, with skin tone; "" if it has none.
        concept: the same for all drawings of an emoji or icon, in all sets.
        group: one of the nine groups of emoji; "" for an icon.
        keywords: words for it, sorted.
    """

    name: str
    code: str
    concept: str
    group: str
    keywords: tuple[str, ...]


class Emoji:
    """Names, groups and keywords of emoji."""

    def __init__(
        self, contents: Iterable[Mapping[str, Any]], annotations: Mapping[str, Any]
    ) -> None:
        """Collects the tables.

        Args:
            contents: parsed sets of the package of icons that name the code points of their icons;
                the first has priority.
            annotations: {emoji: {"default": keywords, "tts": [name]}} of CLDR.
        """
        self._codes: dict[str, str] = {}  # name without hyphens -> code
        self._names: dict[str, str] = {}  # code -> name
        self._groups: dict[str, str] = {}  # code -> group
        self._keywords: dict[str, tuple[str, ...]] = {}  # code -> keywords
        for content in contents:
            self._add_set(content)
        known = sorted(self._names)
        for characters, words in sorted(annotations.items()):
            code = "-".join(f"{ord(character):x}" for character in characters)
            code = normalize_code(code)
            self._keywords[code] = tuple(sorted({*words.get("default", ()), *words.get("tts", ())}))
            for title in words.get("tts", ())[:1]:
                if code in self._names:
                    self._codes.setdefault(_squash(title), code)
        for code in known:
            if "-" not in code:
                self._codes.setdefault(_squash(unicodedata.name(chr(int(code, 16)), code)), code)

    def _add_set(self, content: Mapping[str, Any]) -> None:
        categories, codes = sets.categories_of(content), {}
        for code, name in sets.codes_of(content):
            code = codes[name] = normalize_code(code)
            self._codes.setdefault(_squash(name), code)
            self._names.setdefault(code, name)
            if categories.get(name) in _GROUP_OF:
                self._groups.setdefault(code, _GROUP_OF[categories[name]])
        for alias, target in sorted(content.get("aliases", {}).items()):
            if set(target) == {"parent"} and str(target["parent"]) in codes:
                self._codes.setdefault(_squash(alias), codes[str(target["parent"])])

    def explain(self, style: str, drawing: sets.Drawing) -> Meaning:
        """Returns what a drawing of a set of emoji shows."""
        if drawing.code is not None:
            code = normalize_code(drawing.code)
        else:
            usual = NAMES.get(drawing.name, drawing.name) if style == "fxemoji" else drawing.name
            usual = usual.removeprefix("flag-for-")
            code = self._codes.get(_squash(usual), "")
        name = drawing.name
        if drawing.name == drawing.code:
            name = self._names.get(code) or _flag_name(code)
        if code:
            concept = base_code(code)
        else:
            concept = f"name:{_squash(_TONE_WORDS.sub('', drawing.name))}"
        group = self._groups.get(code) or self._groups.get(concept)
        if group is None:
            flag = bool(_FLAG.fullmatch(concept))
            group = "Flags" if flag else _GROUP_OF.get(drawing.category or "", "Symbols")
        keywords = self._keywords.get(concept) or _words(name)
        return Meaning(name, code, concept, group, keywords)


def explain_icon(drawing: sets.Drawing) -> Meaning:
    """Returns what an icon shows, by its name without the words for its variant."""
    name = sets.plain_name(drawing.name)
    return Meaning(drawing.name, "", f"icon:{name}", "", _words(name))


def normalize_code(code: str) -> str:
    """Returns code points in lower case, joined by "-", without variation selectors.

    Args:
        code: for example "0023-FE0F-20E3", which gives "23-20e3"; "_" also separates.
    """
    parts = [part.lower().lstrip("0") for part in re.split("[-_]", code)]
    return "-".join(part for part in parts if part != "fe0f")


def base_code(code: str) -> str:
    """Returns code points without those of skin tones; a skin tone alone is its own base."""
    parts = [part for part in code.split("-") if part not in _TONES]
    return "-".join(parts) or code


def merge_equal(concepts: Sequence[str], pixels: Sequence[bytes]) -> list[str]:
    """Returns the concepts after those with equal images have become one.

    Args:
        concepts: the concept of each image.
        pixels: a hash of the pixels of each image.

    Returns:
        For each image the first, in alphabetical order, of all concepts that became one.
    """
    merged: dict[str, str] = {}

    def find(concept: str) -> str:
        while concept in merged:
            concept = merged[concept]
        return concept

    owner: dict[bytes, str] = {}
    for concept, hashed in zip(concepts, pixels, strict=True):
        pair = sorted({find(concept), find(owner.setdefault(hashed, concept))})
        if len(pair) == 2:
            merged[pair[1]] = pair[0]
    return [find(concept) for concept in concepts]


def _flag_name(code: str) -> str:
    if re.fullmatch(r"1f1[ef][0-9a-f]-1f1[ef][0-9a-f]", code):
        letters = [chr(int(part, 16) - 0x1F1E6 + ord("a")) for part in code.split("-")]
        return f"flag-{''.join(letters)}"
    return code


def _squash(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _words(name: str) -> tuple[str, ...]:
    return tuple(sorted({word for word in re.split("[^a-z0-9]+", name.lower()) if word}))
