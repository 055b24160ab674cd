import hashlib
import os
import time

import jsonschema
import numpy as np
import pytest

from vim_tf import fingerprints
from vim_tf.fingerprints import FileTable, difference, fingerprint


@pytest.fixture
def root(tmp_path):
    """Four files in two folders; `table` reads them."""
    root = tmp_path / "images"
    for name in ("cats/a.png", "cats/b.png", "dogs/a.png", "dogs/c.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode() * 10)
    return root


def table(root):
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    return FileTable.of(names, [root / name for name in names])


def of(root, classes=("cats", "dogs"), read=False):
    files = table(root)
    if read:
        files.read_contents()
    return fingerprint(classes, len(files) - 1, 1, {"path": files})


def change(path, data, later=True):
    """Replaces a file's content, with a later time or the same time."""
    found = os.stat(path)
    path.write_bytes(data)
    mtime = found.st_mtime_ns + 10**9 * later
    os.utime(path, ns=(mtime, mtime))


def test_contents_are_sha256(root):
    files = table(root)
    assert not files.known.any()
    files.read_contents()
    assert files.known.all()
    for name, content in zip(files.names, files.contents, strict=True):
        assert content.tobytes() == hashlib.sha256((root / name).read_bytes()).digest()[:16]


def test_a_fingerprint_fits_its_schema_and_equals_itself(root):
    for read in (False, True):
        made = of(root, read=read)
        jsonschema.validate(made, fingerprints.SCHEMA)
        assert difference(made, of(root, read=read)) is None
    assert made["files"]["path"]["folders"].keys() == {"cats/", "dogs/"}
    assert made["files"]["path"]["count"] == 4


def test_the_same_files_elsewhere_are_the_same(root, tmp_path):
    before = of(root, read=True)
    root.rename(tmp_path / "moved")
    assert difference(before, of(tmp_path / "moved", read=True)) is None


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (("birds", "cats", "dogs"), "2 classes then, 3 now; first difference birds/"),
        (("cats",), "2 classes then, 1 now; first difference dogs/"),
        (
            ("zebras", "dogs"),
            "as many images then as now; first difference cats/ then, zebras/ now",
        ),
        (("dogs", "cats"), "as many images then as now; first difference cats/ then, dogs/ now"),
    ],
)
def test_other_classes_are_named(root, classes, words):
    assert difference(of(root), of(root, classes)) == words


def test_another_file_another_name_and_another_size_are_found(root):
    before = of(root)
    (root / "dogs" / "d.png").write_bytes(b"new")
    assert difference(before, of(root)) == ("3 training images then, 4 now; first difference dogs/")
    (root / "dogs" / "c.png").unlink()
    assert difference(before, of(root)) == "as many images then as now; first difference dogs/"
    (root / "dogs" / "d.png").rename(root / "dogs" / "c.png")
    assert difference(before, of(root)) == "as many images then as now; first difference dogs/"
    (root / "dogs" / "c.png").write_bytes(b"dogs/c.png" * 10)
    assert difference(before, of(root)) is None


def test_other_contents_are_found_where_both_know_them(root):
    before = of(root, read=True)
    change(root / "cats" / "b.png", b"CATS/B.PNG" * 10)
    assert difference(before, of(root)) is None
    assert difference(before, of(root, read=True)) == (
        "as many images then as now; first difference cats/, by its contents"
    )


def test_a_split_that_moved_is_found(root):
    files = table(root)
    words = difference(
        fingerprint((), 3, 1, {"path": files}), fingerprint((), 2, 2, {"path": files})
    )
    assert words == "3 training images then, 2 now; 1 validation images then, 2 now"


def keep(root, tmp_path):
    files = table(root)
    files.read_contents()
    fingerprints.save(tmp_path, {"path": files})
    return fingerprints.load(tmp_path)["path"]


def test_kept_tables_come_back(root, tmp_path):
    kept, files = keep(root, tmp_path), table(root)
    files.read_contents()
    assert kept.names == files.names
    for part in ("sizes", "mtimes", "contents", "known"):
        np.testing.assert_array_equal(getattr(kept, part), getattr(files, part))


def test_only_files_of_another_time_are_read_again(root, tmp_path, monkeypatch):
    kept = keep(root, tmp_path)
    os.utime(root / "dogs" / "a.png", ns=(1, 1))
    read = []
    monkeypatch.setattr(
        fingerprints,
        "hash_contents",
        lambda path: read.append(path) or hashlib.sha256(path.read_bytes()).digest(),
    )
    files = table(root)
    assert files.recall(kept) is None
    assert read == [root / "dogs" / "a.png"]
    assert files.known.all()
    np.testing.assert_array_equal(files.contents, kept.contents)


def test_a_changed_file_is_named(root, tmp_path):
    kept = keep(root, tmp_path)
    change(root / "cats" / "b.png", b"CATS/B.PNG" * 10)
    assert table(root).recall(kept) == "cats/b.png"
    change(root / "cats" / "a.png", b"longer" * 100)
    assert table(root).recall(kept) == "cats/a.png"


def test_files_that_one_of_the_two_lacks_are_not_recalled(root, tmp_path):
    kept = keep(root, tmp_path)
    (root / "cats" / "b.png").unlink()
    (root / "dogs" / "b.png").write_bytes(b"new")
    files = table(root)
    assert files.recall(kept) is None
    assert files.names == ("cats/a.png", "dogs/a.png", "dogs/b.png", "dogs/c.png")
    assert files.known.tolist() == [True, True, False, True]


def test_a_file_that_cannot_be_read_is_as_one_without_content(root):
    files = table(root)
    (root / "cats" / "a.png").unlink()
    files.read_contents()
    assert files.contents[0].tobytes() == hashlib.sha256().digest()[:16]


def test_reading_stops_when_it_is_asked_to(root):
    files = table(root)
    answers = iter([False])  # then True; the threads that read ask at any time
    files.read_contents(stopped=lambda: next(answers, True))
    assert files.known.sum() == 1
    files.read_contents()
    assert files.known.all()


def test_a_damaged_table_counts_as_none(root, tmp_path):
    keep(root, tmp_path)
    path = tmp_path / fingerprints.IMAGES_FILE
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for data in (b"", b"no zip", whole[:-40], whole[:100]):
        path.write_bytes(data)
        assert fingerprints.load(tmp_path) == {}
    for _ in range(200):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        fingerprints.load(tmp_path)  # any result, but never an exception
    path.unlink()
    assert fingerprints.load(tmp_path) == {}


def test_a_table_that_unpacks_to_gigabytes_is_not_read(tmp_path):
    np.savez_compressed(tmp_path / fingerprints.IMAGES_FILE, **{"path.names": np.zeros(10**6)})
    assert fingerprints.load(tmp_path) == {}


def test_the_folder_that_holds_all():
    assert fingerprints.common_folder(["/a/b/c-1", "/a/b/c-2"]) == ("/a/b/", ["c-1", "c-2"])
    assert fingerprints.common_folder(["gs://a/x/1", "gs://a/y/1"]) == ("gs://a/", ["x/1", "y/1"])


def test_names_of_a_stranger_are_shown_short_and_escaped():
    for name in ("x" * 5_000, "\x1b[2J"):
        then = fingerprint((name, "dogs"), 1, 1, {})
        found = difference(then, fingerprint(("cats", "dogs"), 1, 1, {}))
        assert len(found) < 400
        assert found.isprintable()


@pytest.mark.large
def test_a_million_names_are_compared_in_seconds(tmp_path):
    """Compared with stat of as many paths, which opening always needs."""
    names = [f"class_{i // 1000:04}/image_{i:07}.jpg" for i in range(1_000_000)]
    rng = np.random.default_rng(0)
    path = tmp_path / "one"
    path.touch()

    def make():
        return FileTable(names, names, np.arange(len(names)), np.full(len(names), 7))

    kept = make()
    kept.contents = rng.integers(0, 256, kept.contents.shape, "uint8")
    kept.known[:] = True
    fingerprints.save(tmp_path, {"path": kept})
    then = fingerprint((), 1, 1, {"path": kept})
    started = time.perf_counter()
    for _ in names:
        os.stat(path)
    reading = time.perf_counter() - started
    started = time.perf_counter()
    now = make()
    assert difference(then, fingerprint((), 1, 1, {"path": now})) is None
    assert now.recall(fingerprints.load(tmp_path)["path"]) is None
    assert difference(then, fingerprint((), 1, 1, {"path": now})) is None
    comparing = time.perf_counter() - started
    print(f"{comparing:.2f} s to compare, {reading:.2f} s for as many calls of stat")
    assert comparing < 5 * reading
