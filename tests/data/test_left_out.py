import os

from vim_tf.data import left_out
from vim_tf.data.left_out import LeftOut


def test_the_file_has_a_row_for_each_path(tmp_path):
    names = ["a/1.tif", "tab\tline\n.x", "back\\slash", os.fsdecode(b"caf\xe9"), "\x1b[31m"]
    omitted = LeftOut()
    for name in names:
        omitted.add(left_out.OTHER, name, "a reason")
    path = omitted.save(tmp_path)
    assert str(path) == str(tmp_path / "left_out.tsv")
    head, *rows = path.read_text().splitlines()
    assert head == "path\treason"
    cells = [row.split("\t") for row in rows]
    assert {reason for _, reason in cells} == {"a reason"}
    # Python's escapes; unprintable characters and the backslash can be read back.
    back = [name.encode("latin-1").decode("unicode_escape") for name, _ in cells]
    assert back == sorted(names)
    assert [entry.name for entry in tmp_path.iterdir()] == ["left_out.tsv"]


def test_nothing_left_out_makes_no_file_and_removes_an_old_one(tmp_path):
    (tmp_path / "left_out.tsv").write_text("of an earlier start")
    assert LeftOut().save(tmp_path) is None
    assert LeftOut().line() is None
    assert list(tmp_path.iterdir()) == []


def test_one_and_several(tmp_path):
    omitted = LeftOut()
    omitted.add(left_out.BROKEN, "/x/a.png", "cut short")
    assert omitted.line() == "data: 1 left out: 1 damaged or unreadable file (a.png: cut short)"
    omitted.add(left_out.BROKEN, "/x/b.png", "cut short")
    omitted.add(left_out.HIDDEN_FOLDER, "/x/.git", "")
    assert omitted.line() == (
        "data: 3 left out: 2 damaged or unreadable files (the first, a.png: cut short), "
        "1 hidden folder"
    )


def test_long_names_are_kept_whole_in_the_file(tmp_path):
    omitted = LeftOut()
    omitted.add(left_out.OTHER, "\n" * 5000 + "x" * 5000, "")
    row = omitted.save(tmp_path).read_text().splitlines()[1]
    assert row == "\\n" * 5000 + "x" * 5000 + "\t"
