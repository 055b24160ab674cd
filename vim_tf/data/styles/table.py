"""The images of the data set, with all that is known about them, and their splits."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vim_tf.data import hashing, progress
from vim_tf.data.class_names import natural_order
from vim_tf.data.styles import concepts, rendering
from vim_tf.data.styles.sets import DrawingSet

SPLITS = ("train", "tune", "report", "pairs")
LABELS = ("group", "style", "group_and_style")
REPORT = TUNE = 0.05  # shares of the concepts
PAIRS = 0.05  # share of the (concept, family) pairs among training concepts of several families


@dataclass(frozen=True)
class Row:
    """One image.

    Attributes:
        png: a PNG file.
        style: the set that it is from.
        family: the family of that set.
        licence: SPDX identifier.
        meaning: what it shows.
        split: one of `SPLITS`.
    """

    png: bytes
    style: str
    family: str
    licence: str
    meaning: concepts.Meaning
    split: str = "train"

    def label(self, key: str) -> str:
        """Returns the name of its class for one of `LABELS`; "" if it has none."""
        group = self.meaning.group
        if key == "group_and_style":
            return f"{group}, {self.style}" if group else ""
        return group if key == "group" else self.style


@dataclass(frozen=True)
class Table:
    """All images.

    Attributes:
        rows: sorted by style and name.
        left_out: style -> reason -> number of drawings.
        failures: "style/name: reason" of each drawing that does not render.
        merged: number of concepts that have become part of another one.
    """

    rows: list[Row]
    left_out: Mapping[str, Counter[str]]
    failures: list[str] = field(default_factory=list)
    merged: int = 0

    def class_names(self, key: str) -> list[str]:
        """Returns the classes of one of `LABELS`, in natural order; [] if some image has none."""
        names = list(natural_order({row.label(key) for row in self.rows}))
        return [] if "" in names else names


def make_table(
    drawing_sets: Sequence[DrawingSet], emoji: concepts.Emoji | None, size: int
) -> Table:
    """Renders all drawings.

    Of equal images in one style, the first is kept. Equal images in several styles make their
    concepts one.

    Args:
        drawing_sets: the sets.
        emoji: explains sets of emoji; None if there are none.
        size: height and width of the images, in pixels.

    Raises:
        UserError: see `rendering.import_resvg`.
    """
    rows, pixels, failures = list[Row](), list[bytes](), list[str]()
    left_out = {drawn.style: Counter(drawn.left_out) for drawn in drawing_sets}
    seen: set[tuple[str, bytes]] = set()
    pairs = [(drawn, drawing) for drawn in drawing_sets for drawing in drawn.drawings]
    for drawn, drawing in progress.report(pairs, len(pairs), "drawings rendered"):
        try:
            image = rendering.render(drawing, size)
        except rendering.RenderingError as error:
            failures.append(f"{drawn.style}/{drawing.name}: {error}")
            left_out[drawn.style]["not rendered"] += 1
            continue
        if drawn.emoji and emoji is not None:
            meaning = emoji.explain(drawn.style, drawing)
        else:
            meaning = concepts.explain_icon(drawing)
        hashed = hashlib.sha256(image.tobytes()).digest()
        repeated = (drawn.style, hashed) in seen
        if repeated:
            left_out[drawn.style]["equal pixels"] += 1
        seen.add((drawn.style, hashed))
        png = b"" if repeated else rendering.encode_png(image)
        rows.append(Row(png, drawn.style, drawn.family, drawn.licence, meaning))
        pixels.append(hashed)
    before = {row.meaning.concept for row in rows}
    merged = concepts.merge_equal([row.meaning.concept for row in rows], pixels)
    kept = [
        replace(row, meaning=replace(row.meaning, concept=concept))
        for row, concept in zip(rows, merged, strict=True)
        if row.png
    ]
    return Table(assign_splits(kept), left_out, failures, len(before) - len(set(merged)))


def assign_splits(rows: Iterable[Row]) -> list[Row]:
    """Returns the rows with their splits, by hashes of their concepts and families.

    Each training concept keeps at least one family in `train`.
    """
    rows = list(rows)
    families: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        families[row.meaning.concept].add(row.family)
    names = sorted(families)
    places = dict(zip(names, _uniform(names), strict=True))
    split_of = {
        name: "report" if place < REPORT else "tune" if place < REPORT + TUNE else "train"
        for name, place in places.items()
    }
    pairs = [
        (name, family)
        for name in names
        if split_of[name] == "train" and len(families[name]) > 1
        for family in sorted(families[name])
    ]
    places = _uniform([f"{name}/{family}" for name, family in pairs])
    held_out: dict[str, set[str]] = defaultdict(set)
    for (name, family), place in zip(pairs, places, strict=True):
        if place < PAIRS and len(held_out[name]) + 1 < len(families[name]):
            held_out[name].add(family)
    return [
        replace(
            row,
            split="pairs"
            if row.family in held_out[row.meaning.concept]
            else split_of[row.meaning.concept],
        )
        for row in rows
    ]


def _uniform(names: Sequence[str]) -> list[float]:
    """A number in [0, 1) for each name."""
    if not names:
        return []
    return [int(value) / hashing.ALL[1] for value in hashing.hash_names(list(names)).numpy()]
