"""Splits of many concepts, and the rendering of bitmaps."""

import collections
import io

import numpy as np
import pytest
from PIL import Image

from vim_tf.data.styles import rendering, sets
from vim_tf.data.styles.concepts import Meaning, merge_equal, normalize_code
from vim_tf.data.styles.table import Row, assign_splits

CONCEPTS = 4_000


@pytest.fixture(scope="module")
def rows():
    """Two families draw each concept, one of them in two styles; one family draws some more."""
    drawn = [(f"c{number}", style) for number in range(CONCEPTS) for style in ("a1", "a2", "b1")]
    drawn += [(f"single{number}", "a1") for number in range(500)]
    return assign_splits(
        [
            Row(b"", style, style[0], "MIT", Meaning(concept, "", concept, "", ()))
            for concept, style in drawn
        ]
    )


def test_shares_of_the_splits_are_five_percent(rows):
    counts = collections.Counter(row.split for row in rows)
    for split in ("tune", "report"):
        assert abs(counts[split] / len(rows) - 0.05) < 0.01
    held_out = {(row.meaning.concept, row.family) for row in rows if row.split == "pairs"}
    pairs = {
        (row.meaning.concept, row.family)
        for row in rows
        if row.split in ("train", "pairs") and row.meaning.concept.startswith("c")
    }
    assert abs(len(held_out) / len(pairs) - 0.05) < 0.01
    assert held_out <= pairs


def test_every_concept_of_pairs_is_trained_on_in_another_family(rows):
    trained = {row.meaning.concept for row in rows if row.split == "train"}
    held_out = collections.defaultdict(set)
    for row in rows:
        if row.split == "pairs":
            held_out[row.meaning.concept].add(row.family)
            assert row.meaning.concept in trained
    assert all(len(families) == 1 for families in held_out.values())
    other = {row.meaning.concept for row in rows if row.split in ("tune", "report")}
    assert not other & (trained | set(held_out))
    both = [row.split for row in rows if row.style in ("a1", "a2") and row.split == "pairs"]
    assert len(both) % 2 == 0 and both  # both styles of the family are held out


def test_concepts_with_equal_images_become_one_over_several_steps():
    pixels = [b"1", b"2", b"2", b"3", b"3", b"4"]
    assert merge_equal(["b", "b", "c", "c", "a", "d"], pixels) == ["a"] * 5 + ["d"]


@pytest.mark.parametrize(
    ("code", "normal"),
    [
        ("0023-FE0F-20E3", "23-20e3"),
        ("1F3F4-e0067_e0062", "1f3f4-e0067-e0062"),
        ("2764-fe0f-200d-1f525", "2764-200d-1f525"),
    ],
)
def test_codes_have_one_form(code, normal):
    assert normalize_code(code) == normal


def test_a_bitmap_is_put_on_white_and_averaged():
    rgba = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(rgba).save(file, "webp", lossless=True, exact=True)
    found = rendering.render(sets.Drawing("x", file.getvalue()), 16)
    alpha = rgba[..., 3:].astype(float) / 255
    white = rgba[..., :3] * alpha + 255 * (1 - alpha)
    expected = white.reshape(16, 4, 16, 4, 3).mean((1, 3))
    np.testing.assert_allclose(np.array(found), expected, atol=1.3)
