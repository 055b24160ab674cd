import os
import socket

import pytest

from vim_tf.data import left_out
from vim_tf.data.left_out import LeftOut
from vim_tf.data.sources import folder_listing
from vim_tf.errors import UserError

ENDINGS = (".jpg", ".png")


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def listed(root, on_error="stop"):
    """(Names of images, what is left out)."""
    omitted = LeftOut()
    names = folder_listing.list_images(root, "data.path", ENDINGS, on_error, omitted)
    return names, omitted


def reasons(omitted, root):
    """{path relative to the root: reason}"""
    return {os.path.relpath(path, root): reason for path, reason in omitted.entries()}


def test_two_links_to_one_folder_are_two_classes(tmp_path):
    make(tmp_path, "elsewhere/1.png", "data/c/2.png")
    for name in ("a", "b"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere")
    names, omitted = listed(tmp_path / "data")
    assert names == ("a/1.png", "b/1.png", "c/2.png")
    assert len(omitted) == 0


def test_links_to_folders_above_are_left_out(tmp_path):
    make(tmp_path, "a/deep/1.png", "b/2.png")
    (tmp_path / "a" / "deep" / "up").symlink_to("../../a")
    (tmp_path / "a" / "root").symlink_to(tmp_path)
    (tmp_path / "b" / "itself").symlink_to("itself")
    (tmp_path / "b" / "other").symlink_to("../a")
    names, omitted = listed(tmp_path)
    assert names == ("a/deep/1.png", "b/2.png", "b/other/deep/1.png")
    assert {name for name in reasons(omitted, tmp_path) if name != "b/itself"} == {
        *("a/deep/up", "a/root", "b/other/deep/up", "b/other/root")
    }


def test_nested_links_do_not_multiply_without_end(tmp_path):
    make(tmp_path, "d00/1.png")
    for level in range(1, 60):
        folder = tmp_path / f"d{level:02}"
        folder.mkdir()
        for name in "xy":
            (folder / name).symlink_to(f"../d{level - 1:02}")
    with pytest.raises(UserError, match=r"is reached by over 1,000 links in data.path .* remove"):
        listed(tmp_path / "d59")


@pytest.fixture
def closed(monkeypatch):
    """A function that closes a folder, also for the superuser, who may read every folder."""
    scandir, paths = os.scandir, set()

    def scan(path):
        if os.fspath(path) in paths:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    return lambda path: paths.add(str(path))


def test_a_folder_that_may_not_be_read(tmp_path, closed):
    make(tmp_path, "a/1.png", "b/2.png", "c/x/3.png")
    closed(tmp_path / "b")
    closed(tmp_path / "c" / "x")
    with pytest.raises(UserError, match="cannot be read: Permission denied; .*on_error: skip$"):
        listed(tmp_path)
    names, omitted = listed(tmp_path, "skip")
    assert names == ("a/1.png",)
    found = reasons(omitted, tmp_path)
    assert found["b"] == found["c/x"] == "Permission denied"
    closed(tmp_path)
    with pytest.raises(UserError, match="Permission denied"):
        listed(tmp_path, "skip")


@pytest.mark.skipif(os.getuid() == 0, reason="the superuser may read every folder")
def test_permissions_of_the_file_system(tmp_path):
    make(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "b").chmod(0)
    try:
        with pytest.raises(UserError, match="Permission denied"):
            listed(tmp_path)
    finally:
        (tmp_path / "b").chmod(0o700)


def test_files_that_would_block_are_left_out(tmp_path):
    make(tmp_path, "a/1.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "link.png").symlink_to("pipe.png")
    (tmp_path / "a" / "null.jpg").symlink_to("/dev/null")
    here = os.getcwd()
    os.chdir(tmp_path)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("a/socket.png")
    finally:
        os.chdir(here)
    names, omitted = listed(tmp_path)
    assert names == ("a/1.png",)
    assert set(reasons(omitted, tmp_path)) == {
        *("a/pipe.png", "a/link.png", "a/null.jpg", "a/socket.png")
    }
    assert omitted.describe() == "4 FIFOs, sockets and devices"


def test_a_link_to_nothing_is_an_image_that_cannot_be_read(tmp_path):
    make(tmp_path, "1.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    assert listed(tmp_path)[0] == ("1.png", "gone.png")


def test_everything_else_is_counted(tmp_path):
    make(tmp_path, "a/1.PNG", "a/.DS_Store", "a/._1.png", "a/.git/config", "a/notes", "top.txt")
    make(tmp_path, "b/2.tif", "b/3.tif", "b/4.tif", "c/x/y/5.jpg")
    (tmp_path / "empty").mkdir()
    names, omitted = listed(tmp_path)
    assert names == ("a/1.PNG", "c/x/y/5.jpg")
    assert omitted.describe() == (
        "5 files of other kinds (.tif 3, .txt 1, no ending 1), 2 hidden files, 1 hidden folder, "
        "2 class folders without images (the first, b: no image is in this folder)"
    )
    assert len(omitted) == len(omitted.entries()) == 10
    assert reasons(omitted, tmp_path)["b/2.tif"] == "the ending .tif is not read"


def test_a_folder_without_images_says_what_is_there(tmp_path):
    make(tmp_path, "a/1.tif", "a/2.tif")
    with pytest.raises(UserError, match=r"no images are in it; .* 2 files of other .*\(.tif 2\)"):
        listed(tmp_path)


@pytest.mark.parametrize(
    "name", ["a[1]*?", "two\nlines", "esc\x1b[31m", "a,b", " outer ", "~", "$HOME", "'\"", "-x"]
)
def test_odd_names(tmp_path, name):
    make(tmp_path, f"{name}/{name}.png")
    assert listed(tmp_path)[0] == (f"{name}/{name}.png",)
    assert listed(tmp_path / name)[0] == (f"{name}.png",)
    with pytest.raises(UserError) as caught:
        listed(tmp_path / name / f"{name}.png")
    assert str(caught.value).isprintable()


def test_a_million_foreign_files_do_not_make_a_line_long():
    omitted = LeftOut()
    for number in range(10_000):
        omitted.add(left_out.OTHER, f"/x/{number}.k\x1b{number}{'e' * 90}", "")
        omitted.add(left_out.EMPTY, f"/x/{'folder' * 30}{number}", "no image")
    line = omitted.line()
    assert line.startswith("data: 20,000 left out: 10,000 files of other kinds (")
    assert "9,995 more endings" in line
    assert len(line) < 600 and line.isprintable()
