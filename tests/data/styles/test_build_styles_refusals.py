"""What `build_styles` refuses, and how it gets packages."""

import errno
import os
import sys

import pytest

from vim_tf.data import build_styles as command
from vim_tf.data.styles import npm, rendering, sets, writing


def refused(capsys, build, folder, *more):
    """The line that the command ends with."""
    with pytest.raises(SystemExit) as stop:
        build(folder, *more)
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert not list(folder.parent.glob(".*unfinished"))
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sets", "marks"], "--sets has marks (Marks), a set of logos or brands"),
        (["--sets", "notto"], "--sets has notto, and there is no such set; did you mean noto"),
        (["--sets", "xyzzy"], "no such set; the package's collections.json has all"),
        (["--sets", "default"], "the package of icons has no set noto-v1; give another version"),
        (["--size", "4"], "--size is 4; it must be from 8 to 256"),
        (["--size", "512"], "--size is 512; it must be from 8 to 256"),
    ],
)
def test_wrong_arguments_are_refused(build_styles, tmp_path, capsys, arguments, message):
    line = refused(capsys, build_styles, tmp_path / "out", *arguments)
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_and_a_file_are_refused(build_styles, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    assert "is not an empty folder" in refused(capsys, build_styles, tmp_path / "full")
    assert (tmp_path / "full" / "x").read_text() == "mine"
    assert "is not an empty folder" in refused(capsys, build_styles, tmp_path / "full" / "x")


def test_another_package_and_none_are_refused(build_styles, style_packages, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "package.json").write_text('{"name": "left-pad", "version": "1.0.0"}')
    line = refused(capsys, build_styles, tmp_path / "out", "--package", str(other))
    assert "is the package left-pad; give @iconify/json, @lobehub" in line
    (other / "package.json").write_text("[]")
    line = refused(capsys, build_styles, tmp_path / "out", "--package", str(other))
    assert "is no npm package: it has no package.json" in line
    (tmp_path / "x.tgz").write_bytes(b"no archive")
    line = refused(capsys, build_styles, tmp_path / "out", "--package", str(tmp_path / "x.tgz"))
    assert "x.tgz cannot be read as a .tgz archive" in line
    twice = str(next(style_packages.glob("cldr*")))
    line = refused(capsys, build_styles, tmp_path / "out", "--package", twice)
    assert "--package has cldr-annotations-full twice" in line


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "(@iconify/json 9) has no file collections.json"),
        ({"collections.json": "{"}, "collections.json is no JSON"),
        ({"collections.json": '{"noto": 1}'}, "collections.json is damaged: $.noto"),
        (
            {
                "collections.json": '{"noto": {"author": {}, "license": {}}}',
                "json/noto.json": '{"icons": {"a": 1}}',
            },
            "json/noto.json is damaged: $.icons.a",
        ),
        (
            {
                "collections.json": '{"noto": {"author": {}, "license": {}}}',
                "json/noto.json": '{"icons": {}, "chars": {"no code": "a"}}',
            },
            "json/noto.json is damaged: $.chars",
        ),
    ],
)
def test_a_damaged_package_is_refused(tmp_path, capsys, files, message):
    files = {"package.json": '{"name": "@iconify/json", "version": "9"}', **files}
    for name, text in files.items():
        (tmp_path / "icons" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "icons" / name).write_text(text)

    def build(folder):
        package = str(tmp_path / "icons")
        command.main(["--out", str(folder), "--sets", "noto", "--package", package])

    assert message in refused(capsys, build, tmp_path / "out")


def test_a_file_of_a_package_may_not_be_huge(style_packages, monkeypatch):
    package = npm.open_package(next(style_packages.glob("*3d*")))
    monkeypatch.setattr(npm, "MOST_BYTES", 10)
    with pytest.raises(ValueError, match="webp has .* bytes; at most 10 are allowed"):
        package.read(lambda name: name.endswith(".webp"))


def test_resvg_and_npm_may_be_missing(build_styles, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="npm is not on the PATH, so @iconify/json@2.2.535 cannot"):
        npm.fetch("@iconify/json", tmp_path / "cache")
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    line = refused(capsys, build_styles, tmp_path / "out")
    assert "resvg-py is not installed" in line and "pip install 'resvg-py>=0.5,<0.6'" in line


def test_npm_fetches_a_package_once(style_packages, tmp_path, monkeypatch, capsys):
    """With a program called npm that packs the tiny package."""
    archive = next(style_packages.glob("cldr*"))
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    text = f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ "$2" = "cldr-annotations-full@48.2.0" ]'
    program.write_text(
        f'{text} || {{ echo "no such\n package" >&2; exit 1; }}\ncp {archive} "$6"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    found = npm.fetch("cldr-annotations-full", tmp_path / "cache")
    assert npm.fetch("cldr-annotations-full", tmp_path / "cache") == found
    assert found.read_bytes() == archive.read_bytes()
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"data: npm fetches cldr-annotations-full@48.2.0 into {tmp_path / 'cache'}"
    assert said[1].startswith("data: cldr-annotations-full@48.2.0 is read from")
    with pytest.raises(ValueError, match="npm pack @iconify/json@2.2.535 failed: no such package;"):
        npm.fetch("@iconify/json", tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [found.name]


def test_a_panic_of_the_library_leaves_the_drawing_out(monkeypatch):
    class Panic(BaseException):
        pass

    def panic(**_):
        raise Panic("index out of bounds")

    monkeypatch.setattr(rendering.import_resvg(), "svg_to_bytes", panic)
    drawing = sets.Drawing("x", "<svg/>")
    with pytest.raises(rendering.RenderingError, match="index out of bounds"):
        rendering.render(drawing, 16)


def test_fonts_of_the_machine_are_not_used():
    text = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><text y="9">A</text></svg>'
    with pytest.raises(rendering.RenderingError, match="it draws nothing"):
        rendering.render(sets.Drawing("x", text), 16)


def test_nothing_is_left_if_the_disk_is_full(build_styles, tmp_path, capsys, monkeypatch):
    def write(folder, *_):
        (folder / "train-00000-of-00001.tfrecord").write_bytes(b"a part")
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    monkeypatch.setattr(writing, "write", write)
    assert "the disk is full" in refused(capsys, build_styles, tmp_path / "out")
    assert not list(tmp_path.iterdir())
