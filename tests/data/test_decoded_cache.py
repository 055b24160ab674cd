import dataclasses
import os
import threading

import numpy as np
import pytest
from PIL import Image

from vim_tf.config.sections import DataConfig
from vim_tf.data import decoded_cache
from vim_tf.data.sources import folder as folder_source


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded_cache, "WORTH", 0.0)
    return tmp_path / "cache" / "vim_tf" / "images"


@pytest.fixture
def photos(tmp_path):
    """Images of several sizes, one of them cut short."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, size in enumerate([(40, 30), (20, 50), (64, 64)]):
        pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    data = (folder / "2.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    return folder


def config(path, **more):
    settings = {"image_size": (8, 8), "batch_size": 2, "on_error": "skip", **more}
    return DataConfig(source="folder", path=str(path), **settings)


def open_folder(path, **more):
    """(Names of the readable images, their pixels or None)."""
    opened = folder_source.open_folder(str(path), "data.path", config(path, **more))
    return opened.names, opened.images


@pytest.fixture
def decodings(monkeypatch):
    """A list with the number of images each time that some are decoded."""
    counts, decode = [], folder_source._decode_all
    monkeypatch.setattr(
        folder_source,
        "_decode_all",
        lambda folder, *args: counts.append(len(folder.names)) or decode(folder, *args),
    )
    return counts


def same(one, two):
    return one[0] == two[0] and all(map(np.array_equal, one[1], two[1]))


def test_the_second_start_decodes_only_the_damaged_image_for_its_reason(
    photos, cache_folder, decodings, capsys
):
    first = open_folder(photos)
    assert first[0] == ("0.png", "1.png", "2.png")
    error = capsys.readouterr().err
    assert f"data: the result of decoding 4 images is kept in {cache_folder} for the next" in error
    second = open_folder(photos)
    assert decodings == [4, 1]
    assert same(first, second)
    error = capsys.readouterr().err
    assert error == f"data: the result of decoding 4 images is read from {cache_folder}\n"
    assert [path.suffix for path in cache_folder.iterdir()] == [".images"]


def test_folders_that_are_only_checked(photos, decodings, monkeypatch):
    monkeypatch.setattr(folder_source, "MEMORY", 0)
    names = ("0.png", "1.png", "2.png")
    for _ in range(2):
        assert open_folder(photos) == (names, None)
    assert decodings == [4, 1]


def test_it_can_be_turned_off(photos, cache_folder, decodings):
    for _ in range(2):
        open_folder(photos, cache=False)
    assert decodings == [4, 4]
    assert not cache_folder.exists()


def test_images_that_are_decoded_fast_are_not_kept(photos, cache_folder, monkeypatch):
    monkeypatch.setattr(decoded_cache, "WORTH", 1e6)
    open_folder(photos)
    assert not cache_folder.exists()


def name_of(photos, **more):
    opened = folder_source.Folder(
        str(photos), "data.path", tuple(sorted(os.listdir(photos))), np.zeros([4, 4], np.int64)
    )
    numbers = (opened.headers,)
    return decoded_cache.name_of(opened.names, opened.paths(), numbers, config(photos, **more))


def replace_in_place(photos):
    """Other pixels, the same size and time of the file."""
    path = photos / "0.png"
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda photos: (photos / "0.png").rename(photos / "other.png"),
        lambda photos: (photos / "0.png").unlink(),
        lambda photos: os.utime(photos / "0.png"),
        replace_in_place,
    ],
    ids=["renamed", "removed", "time", "in place"],
)
def test_changed_files_have_another_name(photos, change):
    before = name_of(photos)
    assert before == name_of(photos)
    change(photos)
    assert name_of(photos) != before


def test_what_changes_pixels_changes_the_name(photos, monkeypatch):
    names = [name_of(photos), name_of(photos, image_size=(8, 16))]
    same = {"batch_size": 3, "validation_fraction": 0.5, "max_aspect": 30, "on_error": "stop"}
    assert name_of(photos, **same) == names[0]
    monkeypatch.setattr(decoded_cache, "RULE", decoded_cache.RULE + 1)
    names.append(name_of(photos))
    monkeypatch.setattr(decoded_cache, "_version", lambda package: "0")
    names.append(name_of(photos))
    assert len(set(names)) == 4


def test_every_key_of_the_data_counts_unless_it_is_known_to_have_no_effect():
    keys = {field.name for field in dataclasses.fields(DataConfig)}
    assert set(decoded_cache._WITHOUT_EFFECT) < keys
    assert "image_size" in keys - set(decoded_cache._WITHOUT_EFFECT)


def test_a_file_that_has_gone(photos):
    assert decoded_cache.name_of(["x"], [photos / "x"], (), config(photos)) is None


def test_a_damaged_folder_is_decoded_again(photos, cache_folder, decodings):
    first = open_folder(photos)
    (path,) = cache_folder.iterdir()
    damage(path, -1)
    for _ in range(2):
        assert same(open_folder(photos), first)
    assert decodings == [4, 4, 1]


NAME = f"{0:064x}.images"
SIZES = np.array([[4, 5], [6, 7]])
PIXELS = [np.full([4, 5, 3], 1, np.uint8), np.zeros([0, 0, 3], np.uint8)]


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(data[:-1])
    elif how == "long":
        path.write_bytes(data + b"x")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "fifo":
        path.unlink()
        os.mkfifo(path)
    else:
        data[how] ^= 1
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["cut", "long", "empty", "folder", "fifo", 0, 32, 33, 40, -1])
def test_a_damaged_file_costs_one_line(cache_folder, capsys, how):
    decoded_cache.save(NAME, PIXELS)
    found = decoded_cache.load(NAME, SIZES)
    assert all(map(np.array_equal, found, PIXELS))
    damage(cache_folder / NAME, how)
    capsys.readouterr()
    assert decoded_cache.load(NAME, SIZES) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"data: {cache_folder / NAME}"[:100])
    assert line.endswith("images are decoded again")
    decoded_cache.save(NAME, PIXELS)
    assert decoded_cache.load(NAME, SIZES) is not None or how == "folder"


def test_a_file_of_other_images_is_not_used(cache_folder, capsys):
    decoded_cache.save(NAME, PIXELS)
    for sizes in (SIZES[:1], [[4, 5]] * 3, [[5, 5], [6, 7]]):
        assert decoded_cache.load(NAME, np.array(sizes)) is None


@pytest.mark.parametrize("place", ["file", "/proc/none", "/dev/null/x"])
def test_a_folder_that_cannot_be_written_costs_one_line(tmp_path, monkeypatch, capsys, place):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", os.path.join(tmp_path, place))
    decoded_cache.save(NAME, PIXELS)
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be kept in" in line


def test_the_folder_is_bounded_and_the_oldest_goes_first(cache_folder, monkeypatch, capsys):
    monkeypatch.setattr(decoded_cache, "MOST_BYTES", 3_000)
    pixels = [np.full([10, 30, 3], 7, np.uint8)]  # 900 bytes
    sizes, names = np.array([[10, 30]]), [f"{number:064x}.images" for number in range(4)]
    for age, name in enumerate(names[:3]):
        decoded_cache.save(name, pixels)
        os.utime(cache_folder / name, (1_000 + age, 1_000 + age))
    stranger = cache_folder / "notes.txt"
    stranger.write_bytes(bytes(9_000))
    (cache_folder / f".{names[0]}.abc.tmp").write_bytes(b"left by a killed process")
    os.utime(cache_folder / f".{names[0]}.abc.tmp", (1_000, 1_000))
    (cache_folder / f".{names[1]}.abc.tmp").write_bytes(b"being written")
    assert decoded_cache.load(names[0], sizes) is not None  # the youngest now
    capsys.readouterr()
    decoded_cache.save(names[3], pixels)
    assert {path.name for path in cache_folder.iterdir()} == {
        *(names[0], names[2], names[3], "notes.txt", f".{names[1]}.abc.tmp")
    }
    assert "so its oldest files are removed (1)" in capsys.readouterr().err


def test_processes_may_write_and_read_at_once(cache_folder):
    pixels = [np.full([200, 300, 3], 7, np.uint8)]
    sizes, name, wrong = np.array([[200, 300]]), f"{0:064x}.images", []

    def work():
        for _ in range(20):
            decoded_cache.save(name, pixels)
            found = decoded_cache.load(name, sizes)
            if found is None or not np.array_equal(found[0], pixels[0]):
                wrong.append(found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert [path.name for path in cache_folder.iterdir()] == [name]


def test_without_a_cache_home_it_is_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = tmp_path / ".cache" / "vim_tf" / "images"
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert decoded_cache.folder() == expected
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert decoded_cache.folder() == expected
