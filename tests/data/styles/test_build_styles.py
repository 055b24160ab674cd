"""Builds images from tiny packages, and the default set from the real ones."""

import collections
import io
import json
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from vim_tf.data import build_styles as command

SPLITS = ("train", "tune", "report", "pairs")


def read(folder):
    """Every record of a built folder: {key: values}, with the image as an array."""
    rows = []
    for path in sorted(folder.glob("*.tfrecord")):
        for data in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            features = tf.train.Example.FromString(data).features.feature
            row = {
                key: list(feature.int64_list.value)
                or [value if "encoded" in key else value.decode() for value in values]
                for key, feature in features.items()
                for values in [feature.bytes_list.value]
            }
            row["pixels"] = np.array(Image.open(io.BytesIO(row["image/encoded"][0])))
            rows.append({**row, "split": path.name.split("-")[0]})
    return rows


def about(folder):
    return json.loads((folder / "styles.json").read_text())


@pytest.fixture(scope="module")
def rows(styles):
    return read(styles)


def named(rows, style, name):
    (row,) = [row for row in rows if row["style"] == [style] and row["name"] == [name]]
    return row


def test_every_drawing_is_an_image_or_counted(styles, rows):
    counts = collections.Counter(row["style"][0] for row in rows)
    assert counts == {
        "noto": 120 + 3,  # and two skin tones and the poo
        "fluent-emoji-flat": 80,
        "fluent-emoji-3d": 62,
        "fxemoji": 103,
    }
    left_out = {entry["style"]: entry["left_out"] for entry in about(styles)["sets"]}
    assert left_out["noto"] == {
        "aliases": 2,
        "hidden": 1,
        "without a drawing": 1,
        "not rendered": 2,
        "equal pixels": 1,
    }
    assert left_out["fluent-emoji-3d"] == {"not rendered": 1}
    failures = about(styles)["failures"]
    assert [failure.split(":")[0] for failure in failures] == [
        "noto/blank",
        "noto/broken",
        "fluent-emoji-3d/1f9ff",
    ]
    assert failures[0].endswith("it draws nothing")


def test_records_have_the_keys_of_imagenet_and_all_that_is_known(rows):
    row = named(rows, "noto", "emoji-0")
    assert row["concept"] == ["1f400"] and row["code"] == ["1f400"]
    assert row["family"] == ["Noto"] and row["licence"] == ["Apache-2.0"]
    assert row["group"] == row["image/class/text"] == ["Animals & Nature"]
    assert row["keywords"] == ["emoji zero", "rodent", "small"]
    assert row["pixels"].shape == (16, 16, 3) and row["pixels"].dtype == np.uint8
    assert (row["pixels"][15, 15] == 255).all()
    assert len({row["image/filename"][0] for row in rows}) == len(rows)


def test_labels_number_the_classes_of_styles_json(styles, rows):
    classes = about(styles)["classes"]
    assert classes["style"] == ["fluent-emoji-3d", "fluent-emoji-flat", "fxemoji", "noto"]
    assert classes["group"] == [
        "Animals & Nature",
        "Flags",
        "Objects",
        "People & Body",
        "Symbols",
    ]
    for row in rows:
        group, style = row["group"][0], row["style"][0]
        assert classes["group"][row["image/class/label"][0]] == group
        assert classes["style"][row["style/label"][0]] == style
        both = classes["group_and_style"][row["group_and_style/label"][0]]
        assert both == f"{group}, {style}"
    assert sorted(classes["group_and_style"]) == classes["group_and_style"]


def test_one_emoji_is_one_concept_in_all_sets_and_skin_tones(rows):
    concepts = collections.defaultdict(set)
    for row in rows:
        concepts[row["concept"][0]].add((row["style"][0], row["name"][0]))
    assert concepts["1f407"] == {
        ("noto", "emoji-7"),
        ("noto", "emoji-7-light"),
        ("noto", "emoji-7-dark"),
        ("fluent-emoji-flat", "emoji-7"),
        ("fxemoji", "emoji7"),
    }
    assert concepts["1f4a9"] == {("noto", "pile-of-poo"), ("fxemoji", "poo")}
    assert ("fxemoji", "also0") in concepts["1f400"]  # by an alias
    assert concepts["name:unknown"] == {("fxemoji", "unknown")}
    assert named(rows, "fxemoji", "unknown")["group"] == ["People & Body"]
    flag = named(rows, "fluent-emoji-3d", "flag-de")
    assert flag["code"] == ["1f1e9-1f1ea"] and flag["group"] == ["Flags"]
    assert named(rows, "fluent-emoji-3d", "23-20e3")["group"] == ["Symbols"]


def test_no_concept_is_in_two_splits_and_pairs_are_never_trained_on(styles, rows):
    splits, trained, families = (collections.defaultdict(set) for _ in range(3))
    for row in rows:
        concept, family = row["concept"][0], row["family"][0]
        splits[concept].add("train" if row["split"] == "pairs" else row["split"])
        families[concept].add(family)
        trained[row["split"]].add((concept, family))
    assert all(len(found) == 1 for found in splits.values())
    assert trained["pairs"] and not trained["pairs"] & trained["train"]
    assert {concept for concept, _ in trained["pairs"]} <= {name for name, _ in trained["train"]}
    assert all(len(families[concept]) > 1 for concept, _ in trained["pairs"])
    images = [{row["pixels"].tobytes() for row in rows if row["split"] == s} for s in SPLITS[:3]]
    assert not images[0] & images[1] and not images[0] & images[2] and not images[1] & images[2]
    counts = collections.Counter(row["split"] for row in rows)
    assert about(styles)["images"] == {split: counts[split] for split in SPLITS}
    by_style = about(styles)["images_by_style"]
    assert by_style["noto"]["train"] == len(
        [row for row in rows if row["style"] == ["noto"] and row["split"] == "train"]
    )


def test_splits_are_a_hash_of_the_concept(rows):
    for row in rows:
        place = int(tf.strings.to_hash_bucket_fast(row["concept"][0], 2**30)) / 2**30
        split = "report" if place < 0.05 else "tune" if place < 0.1 else "train"
        assert row["split"] == split or (split == "train" and row["split"] == "pairs")
    shares = collections.Counter(row["split"] for row in rows)
    assert all(0 < shares[split] < 0.12 * len(rows) for split in SPLITS[1:])


def test_drawings_are_rendered_on_white(rows):
    pixels = named(rows, "noto", "emoji-0")["pixels"]
    assert tuple(pixels[3, 3]) == (0, 0, 0)  # the centre of a black circle of radius 3
    inside = (pixels < 128).all(-1).sum()
    assert abs(inside - np.pi * 9) < 4
    half_seen = named(rows, "fluent-emoji-3d", "emoji-0")["pixels"]
    np.testing.assert_allclose(half_seen[2, 2], [127, 177, 255], atol=2)  # alpha 128 on white
    assert (half_seen[8:] == 255).all()


def test_a_wide_icon_is_centred_and_black(build_styles, tmp_path):
    rows = read(build_styles(tmp_path / "icons", "--sets", "lines"))
    pixels = named(rows, "lines", "wide")["pixels"]
    assert (pixels[6:10] == 0).all() and (pixels[:6] == 255).all() and (pixels[10:] == 255).all()


def test_icons_have_no_groups_and_leave_out_logos_and_animations(build_styles, tmp_path, capsys):
    folder = build_styles(tmp_path / "icons", "--sets", "icons")
    rows = read(folder)
    assert {row["style"][0] for row in rows} == {"lines", "dots"}  # neither marks nor shared
    assert about(folder)["classes"] == {
        "group": [],
        "style": ["dots", "lines"],
        "group_and_style": [],
    }
    assert all("image/class/label" not in row and "group" not in row for row in rows)
    assert named(rows, "dots", "tree-24")["concept"] == ["icon:tree"]
    assert named(rows, "lines", "home-outline")["concept"] == ["icon:home"]
    merged = {
        named(rows, *name)["concept"][0] for name in [("dots", "house"), ("lines", "arrow-left")]
    }
    assert merged == {"icon:arrow-left"} and about(folder)["merged_concepts"] == 1
    assert about(folder)["sets"][1]["left_out"] == {"animated": 1, "logos": 2}
    assert "lines: 4 images; left out: 1 animated, 2 logos" in capsys.readouterr().out


def test_a_set_under_another_licence_is_named_by_it(build_styles, tmp_path, capsys):
    folder = build_styles(tmp_path / "shared", "--sets", "shared")
    assert "shared: Shared, 3 drawings, GPL-3.0" in capsys.readouterr().out
    assert {row["licence"][0] for row in read(folder)} == {"GPL-3.0"}


def test_credits_name_every_set_and_hold_the_packages_licences(styles):
    text = (styles / "LICENSES.txt").read_text()
    for entry in about(styles)["sets"]:
        assert f"{entry['style']}: {entry['title']}, by {entry['author']}" in text
    assert "licence Apache-2.0: https://example.com/licence" in text
    assert "the licence of the package" in text and "UNICODE LICENSE V3" in text
    assert "npm package @lobehub/fluent-emoji-3d 1.1.0" in text


def test_archives_and_folders_give_the_same_bytes(styles, style_packages, tmp_path):
    folders = []
    for number, path in enumerate(sorted(style_packages.glob("*.tgz"))):
        with tarfile.open(path) as archive:
            archive.extractall(tmp_path / str(number), filter="data")
        folders.append(str(tmp_path / str(number)))
    (tmp_path / "out").mkdir()  # an empty folder may be there
    sets = ["noto", "fluent-emoji-flat", "fluent-emoji-3d", "fxemoji"]
    given = ["--out", str(tmp_path / "out"), "--size", "16", "--sets", *sets]
    command.main([*given, "--package", *folders])
    names = {path.name for path in styles.iterdir()}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (styles / name).read_bytes(), name
    assert not list(tmp_path.glob(".*"))


# The real packages ------------------------------------------------------------------------------


@pytest.mark.large
def test_the_default_sets_have_the_counts_of_the_pages(real_styles):
    folder = real_styles / "styles"
    assert "in 6 styles" in (real_styles / "printed.txt").read_text()
    found = about(folder)
    counts = {entry["style"]: entry["images"] for entry in found["sets"]}
    left_out = collections.Counter()
    for entry in found["sets"]:
        left_out.update(entry["left_out"])
        drawn = entry["images"] + entry["left_out"].get("equal pixels", 0)
        counts[entry["style"]] = drawn + entry["left_out"].get("not rendered", 0)
    assert counts == {  # without aliases and hidden ones
        "noto": 3729,
        "noto-v1": 2162,
        "fluent-emoji": 3120,
        "fluent-emoji-flat": 3139,
        "fluent-emoji-3d": 3391,
        "fxemoji": 1034,
    }
    assert 16_200 < sum(found["images"].values()) < 16_400
    assert len(found["classes"]["group"]) == 9
    assert {entry["family"] for entry in found["sets"]} == {"Noto", "Fluent", "FxEmoji"}
    assert {entry["licence"] for entry in found["sets"]} == {"MIT", "Apache-2.0"}
    rows = read(folder)
    test_no_concept_is_in_two_splits_and_pairs_are_never_trained_on(folder, rows)
    tones = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
    concepts = collections.defaultdict(set)
    for row in rows:
        if "code" in row:
            parts = row["code"][0].split("-")
            base = "-".join(part for part in parts if part not in tones)
            concepts[base or row["code"][0]].add(row["concept"][0])
    assert len(concepts) > 1_800
    assert all(len(names) == 1 for names in concepts.values())
    families = collections.defaultdict(set)
    for row in rows:
        families[row["concept"][0]].add(row["family"][0])
    assert sum(len(names) == 3 for names in families.values()) > 850
