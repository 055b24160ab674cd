import os
import subprocess
import sys

import pytest

from vim_tf.errors import UserError
from vim_tf.export.release import SUMS, Release, check_target


def stage(release, export_format, text):
    release.staged(export_format).mkdir()
    (release.staged(export_format) / "file").write_text(text)
    (release.report_dir / "export_report.json").write_text("{}")


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name != SUMS
    }


def test_versions_count_up_and_keep_what_was_there(tmp_path):
    first = Release(tmp_path / "out")
    stage(first, "saved_model", "one")
    first.publish()
    second = Release(tmp_path / "out")
    stage(second, "saved_model", "two")
    stage(second, "tfjs", "page")
    second.publish()
    assert second.published("tfjs") == tmp_path / "out" / "tfjs" / "2"
    assert content(tmp_path / "out") == {
        "vim/1/file": "one",
        "vim/2/file": "two",
        "tfjs/2/file": "page",
        "reports/1/export_report.json": "{}",
        "reports/2/export_report.json": "{}",
    }


def test_hashes_are_those_of_sha256sum(tmp_path):
    release = Release(tmp_path)
    stage(release, "tfjs", "page")
    (release.staged("tfjs") / "deep").mkdir()
    (release.staged("tfjs") / "deep" / "weights").write_bytes(b"abc")
    release.publish()
    folder = release.published("tfjs")
    check = ["sha256sum", "--check", "--quiet", SUMS]
    assert subprocess.run(check, cwd=folder).returncode == 0
    assert (folder / SUMS).read_text().splitlines()[0].endswith("  deep/weights")
    (folder / "deep" / "weights").write_bytes(b"abd")
    assert subprocess.run(check, cwd=folder, capture_output=True).returncode == 1


def test_nothing_is_in_place_before_it_is_published(tmp_path):
    release = Release(tmp_path)
    stage(release, "saved_model", "half")
    assert not (tmp_path / "vim").exists()
    # TF Serving looks for folders with integer names.
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == [
        "reports"
    ]


def test_two_exports_at_once_get_two_versions(tmp_path):
    one, two = Release(tmp_path), Release(tmp_path)
    stage(one, "saved_model", "one")
    stage(two, "saved_model", "two")
    two.publish()
    one.publish()
    assert content(tmp_path / "vim") == {"1/file": "one", "2/file": "two"}


def test_a_folder_that_was_put_there_by_hand_is_counted(tmp_path):
    first = Release(tmp_path)
    stage(first, "saved_model", "one")
    first.publish()
    (tmp_path / "vim" / "7").mkdir()
    assert Release(tmp_path).version == 8


def test_what_fails_leaves_its_report_alone(tmp_path):
    release = Release(tmp_path)
    stage(release, "tflite", "wrong")
    release.discard()
    assert content(tmp_path) == {"reports/1/export_report.json": "{}"}
    assert Release(tmp_path).version == 2


def test_what_breaks_off_leaves_nothing(tmp_path):
    release = Release(tmp_path)
    release.staged("tflite").mkdir()
    release.discard()
    assert content(tmp_path) == {}
    assert Release(tmp_path).version == 1


def test_other_peoples_folders_are_refused(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UserError, match=r"is not empty and holds no earlier export; give a new"):
        check_target(tmp_path)
    with pytest.raises(UserError, match=r"photo.jpg is a file; give a folder"):
        Release(tmp_path / "photo.jpg")
    assert content(tmp_path) == {"photo.jpg": ""}


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"cannot be written \(.*\); give another folder"):
        Release(f"/proc/{tmp_path.name}")


# After a stop ----------------------------------------------------------------------------------

KILLED = """
import sys
from vim_tf.export.release import Release
release = Release(sys.argv[1])
for export_format in ("saved_model", "tflite"):
    release.staged(export_format).mkdir()
    (release.staged(export_format) / "file").write_text(export_format)
if sys.argv[2] == "publish":
    (release.report_dir / "export_report.json").write_text("{}")
    release.publish()
print("staged", flush=True)
sys.stdin.read()
"""


def start(out, what, failpoint=""):
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(out), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "VIM_TF_FAILPOINT": failpoint},
    )


def stop_after_one(out):
    """Leaves an export with one format finished and another begun."""
    release = Release(out, made_from={"weights": "a"})
    for export_format in ("saved_model", "tflite"):
        release.staged(export_format).mkdir()
        (release.staged(export_format) / "file").write_text(export_format)
        if export_format == "saved_model":
            release.finish(export_format, [{"size": 3}])
    release.suspend()


def begin(out, **made_from):
    said = []
    return Release(out, said.append, made_from), said


def test_after_a_stop_the_same_export_goes_on_from_finished_formats(tmp_path):
    stop_after_one(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == [
        "reports"
    ]
    release, said = begin(tmp_path, weights="a")
    assert said == ["version 1 goes on; finished are saved_model"]
    assert (release.version, release.finished("saved_model")) == (1, [{"size": 3}])
    assert release.finished("tflite") is None
    other, said = begin(tmp_path, weights="a")  # the first one holds what is finished
    assert (other.version, other.finished("saved_model"), said) == (2, None, [])
    other.discard()
    release.finish("tflite", [])
    (release.staged("tflite") / SUMS).touch()  # as after a stop at the start of the publication
    release.suspend()
    release, said = begin(tmp_path, weights="a")
    assert said == ["version 1 goes on; finished are saved_model, tflite"]
    release.publish()
    assert content(tmp_path) == {"vim/1/file": "saved_model", "tflite/1/file": "tflite"}
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("case", ["weights", "file", "more", "less", "json", "newer"])
def test_finished_formats_of_another_export_are_removed(tmp_path, case):
    stop_after_one(tmp_path)
    staging = tmp_path / ".staging-1"
    if case == "file":
        (staging / "vim" / "file").write_text("saved_modem")
    elif case == "more":
        (staging / "vim" / "more").touch()
    elif case == "less":
        (staging / "vim" / "file").unlink()
    elif case == "json":
        path = staging / "finished.json"
        path.write_text(path.read_text().replace('"size": 3', '"size": 4'))
    elif case == "newer":  # TF Serving would take the version that was made before
        (tmp_path / "vim" / "2").mkdir(parents=True)
    release, said = begin(tmp_path, weights="b" if case == "weights" else "a")
    assert said == [f"an export that did not end has left {staging}; it is removed"]
    assert release.version == (3 if case == "newer" else 1)
    assert release.finished("saved_model") is None
    assert not release.staged("saved_model").exists()
    release.discard()
    assert content(tmp_path) == {}


def test_a_stop_without_a_finished_format_leaves_nothing(tmp_path):
    release = Release(tmp_path)
    release.staged("tflite").mkdir()
    release.suspend()
    assert content(tmp_path) == {}


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path):
    with start(tmp_path, "stage") as process:
        assert process.stdout.readline() == "staged\n"
        said = []
        with_it = Release(tmp_path, said.append)  # it lives, so its folder stays
        assert (with_it.version, said) == (2, [])
        assert content(tmp_path / ".staging-1")["vim/file"] == "saved_model"
        with_it.discard()
        process.kill()
        process.wait()
    said = []
    release = Release(tmp_path, said.append)
    assert said == [f"an export that did not end has left {tmp_path / '.staging-1'}; it is removed"]
    assert release.version == 1
    assert [path.name for path in tmp_path.glob(".*")] == [".staging-1"]
    release.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_publication_that_was_killed_is_finished(tmp_path):
    with start(tmp_path, "publish", "in_publication:1") as process:
        assert process.wait(20) == -9
    assert content(tmp_path)["vim/1/file"] == "saved_model"
    assert not (tmp_path / "tflite").exists()
    said = []
    release = Release(tmp_path, said.append)
    assert said == ["version 1 was being published when its export ended; now it is"]
    assert release.version == 2
    release.discard()
    assert content(tmp_path) == {
        "vim/1/file": "saved_model",
        "tflite/1/file": "tflite",
        "reports/1/export_report.json": "{}",
    }


def test_a_stop_before_the_publication_publishes_nothing(tmp_path):
    with start(tmp_path, "publish", "before_publication:1") as process:
        assert process.wait(20) == -9
    release = Release(tmp_path)
    assert release.version == 1
    release.discard()
    assert content(tmp_path) == {}


def test_a_staging_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "reports").mkdir()
    (tmp_path / ".staging-mine").mkdir()
    (tmp_path / ".staging-7").write_text("a file")
    Release(tmp_path).discard()
    assert (tmp_path / ".staging-mine").is_dir()
    assert (tmp_path / ".staging-7").read_text() == "a file"
