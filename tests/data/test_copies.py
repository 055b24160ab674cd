import numpy as np

from vim_tf import fingerprints
from vim_tf.data import copies
from vim_tf.fingerprints import FileTable


def make_table(folder, contents):
    folder.mkdir(exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    names = sorted(contents)
    return FileTable.of(names, [folder / name for name in names])


def test_equal_contents_have_the_number_of_the_first(tmp_path):
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, 20_000, np.uint8)
    middle, start, end = base.copy(), base.copy(), base.copy()
    middle[10_000] ^= 1
    start[0] ^= 1
    end[-1] ^= 1
    contents = {
        **{"a": base, "b": middle, "c": base, "d": start, "e": end, "f": middle},
        **{"g": base[:-1], "h": np.zeros(0, np.uint8), "i": np.zeros(0, np.uint8)},
        **{"j": base[:5], "k": base[:5], "l": base[:5000], "m": base[:5000]},
    }
    table = make_table(tmp_path, {name: data.tobytes() for name, data in contents.items()})
    first = copies.find_first([table])
    # By the definition: compare all bytes.
    data = list(contents.values())
    expected = [
        next(i for i in range(n + 1) if np.array_equal(data[i], data[n])) for n in range(len(data))
    ]
    expected[8] = 8  # empty files are no images
    assert first.tolist() == expected


def test_several_tables_are_compared_with_each_other(tmp_path):
    one = make_table(tmp_path / "one", {"a": b"same", "b": b"else"})
    two = make_table(tmp_path / "two", {"c": b"new", "d": b"same", "e": b"newer"})
    assert copies.find_first([one, two]).tolist() == [0, 1, 2, 0, 4]


def test_only_files_with_equal_ends_are_read_whole(tmp_path, monkeypatch):
    read, original = [], fingerprints.hash_contents
    monkeypatch.setattr(
        fingerprints, "hash_contents", lambda path: read.append(path.name) or original(path)
    )
    filler = bytes(50_000)
    table = make_table(
        tmp_path,
        {"a": b"1" + filler, "b": b"2" + filler, "c": filler + b"1", "d": filler + b"2"}
        | {"x": filler, "y": filler, "z": filler + b"12"},
    )
    assert copies.find_first([table]).tolist() == [0, 1, 2, 3, 4, 4, 6]
    assert sorted(read) == ["x", "y"]
    assert table.known.tolist() == [False] * 4 + [True] * 2 + [False]
    table.read_contents()
    assert sorted(read) == ["a", "b", "c", "d", "x", "y", "z"]  # none is read twice


def test_a_file_that_has_gone_is_a_copy_of_none(tmp_path):
    table = make_table(tmp_path, {"a": b"same", "b": b"same", "c": b"same"})
    (tmp_path / "a").unlink()
    (tmp_path / "b").unlink()
    assert copies.find_first([table]).tolist() == [0, 1, 2]


def test_copies_are_counted():
    def describe(*first, labels=(0,) * 6):
        return copies.describe(np.array(first), np.array(labels[: len(first)]))

    assert describe(0, 1, 2) is None
    assert describe(0, 1, 1) == "data: 1 image is a copy of another"
    line = "data: 3 images are copies of others"
    assert describe(0, 1, 0, 0, 1) == line
    labels = (0, 1, 0, 1, 1, 1)
    assert describe(0, 1, 0, 0, 1, labels=labels) == f"{line}, 1 of them in another class"


def test_without_files():
    table = FileTable([], [], [], [])
    assert copies.find_first([table]).tolist() == []
