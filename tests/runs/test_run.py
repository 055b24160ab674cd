import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from vim_tf.config import loader
from vim_tf.errors import UserError
from vim_tf.files import write_atomically
from vim_tf.runs.run import Run, find_preset


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


def test_a_file_is_the_old_one_or_the_whole_new_one(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")
    write_atomically(path, b"bytes")
    assert path.read_bytes() == b"bytes"

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new and longer")
    assert path.read_bytes() == b"bytes"


def test_the_config_is_kept_and_read_back(run, tiny):
    experiment = tiny("vit_vqgan", "seed=7")
    run.start(experiment)
    assert run.load_experiment() == experiment
    assert loader.load_config([run.config_path]) == experiment
    run.start(experiment)  # resuming


def test_another_config_is_refused_with_the_difference(run, tiny):
    run.start(tiny("vit_vqgan"))
    (run.checkpoint_dir / "step_00000003").mkdir(parents=True)
    before = run.config_path.read_text()
    with pytest.raises(UserError) as caught:
        run.start(tiny("vit_vqgan", "optimizer.learning_rate=3e-4", "seed=1"))
    message = str(caught.value)
    assert "optimizer.learning_rate: 0.001 -> 0.0003" in message
    assert "seed: 0 -> 1" in message
    assert message.count("->") == 2
    assert str(run.path) in message
    assert run.config_path.read_text() == before
    with pytest.raises(UserError, match='experiment: "vit_vqgan" -> "vim"'):
        run.start(tiny("vim"))


def test_a_config_that_never_trained_is_replaced(run, tiny):
    """Otherwise a folder would be useless after an error in opening the data."""
    run.start(tiny("vit_vqgan", "data.path=/nowhere"))
    run.start(tiny("vit_vqgan"))
    assert run.load_experiment() == tiny("vit_vqgan")


def test_a_foreign_folder_is_refused_and_left_alone(run, tiny):
    run.path.mkdir()
    run.start(tiny("vim"))  # an empty folder is accepted
    other = Run(run.path.parent / "other")
    other.path.mkdir()
    (other.path / "thesis.tex").write_text("text")
    with pytest.raises(UserError, match=f"{other.path} exists and is no run"):
        other.start(tiny("vim"))
    assert [path.name for path in other.path.iterdir()] == ["thesis.tex"]


def test_a_file_instead_of_the_folder_is_refused(run, tiny):
    run.path.write_text("text")
    with pytest.raises(UserError, match="no run of vim_tf"):
        run.start(tiny("vim"))
    assert run.path.read_text() == "text"


def test_a_folder_that_cannot_be_made_is_named(run, tiny):
    """Uses a file instead of a folder, as root may write into read-only folders."""
    run.path.write_text("text")
    inner = Run(run.path / "inner")
    with pytest.raises(UserError, match=r"inner cannot be written \(Not a directory\)"):
        inner.start(tiny("vim"))


def test_a_full_disk_leaves_nothing_that_is_in_the_way(run, tiny, monkeypatch):
    with monkeypatch.context() as patch:

        def fail(descriptor):
            raise OSError(28, "No space left on device")

        patch.setattr("os.fsync", fail)
        with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
            run.start(tiny("vim"))
    run.start(tiny("vim"))
    assert run.load_experiment() == tiny("vim")


def test_no_run_no_config(run):
    with pytest.raises(UserError, match="no run"):
        run.load_experiment()


def test_metrics_are_lines_of_json_and_the_last_of_a_step_counts(run, tiny):
    run.start(tiny("vim"))
    assert run.read_metrics() == []
    run.append_metrics(2, "train", {"nats": 3.0})
    run.append_metrics(4, "train", {"nats": 2.0})
    run.append_metrics(2, "evaluation", {"nats": 5.0})
    run.append_metrics(4, "train", {"nats": 1.0})  # after resuming at step 2
    lines = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    assert lines[0] == {"step": 2, "kind": "train", "nats": 3.0}
    assert len(lines) == 4
    with open(run.metrics_path, "a") as file:
        file.write('{"step": 6, "kind": "tr')  # killed while writing
    records = {(r["step"], r["kind"]): r["nats"] for r in run.read_metrics()}
    assert records == {(2, "train"): 3.0, (2, "evaluation"): 5.0, (4, "train"): 1.0}
    assert [record["step"] for record in run.read_metrics()] == [2, 2, 4]


def test_lines_after_a_broken_one_are_whole(run, tiny):
    run.start(tiny("vim"))
    run.metrics_path.write_text('{"step": 6, "kind": "tr')
    run.append_metrics(6, "train", {"nats": 1.0})
    assert run.read_metrics() == [{"step": 6, "kind": "train", "nats": 1.0}]


def save(text):
    def save(folder):
        folder.mkdir()
        (folder / "config.json").write_text(text)

    return save


def test_a_preset_is_replaced_as_a_whole(run, tiny):
    run.start(tiny("vim"))
    run.save_preset(save("1"))
    run.save_preset(save("2"))
    assert (run.preset_dir / "config.json").read_text() == "2"
    assert find_preset(run.path) == find_preset(run.preset_dir) == run.preset_dir

    def fail(folder):
        folder.mkdir()
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        run.save_preset(fail)
    assert (find_preset(run.path) / "config.json").read_text() == "2"
    run.save_preset(save("3"))
    assert (run.preset_dir / "config.json").read_text() == "3"
    assert sorted(path.name for path in run.path.glob("preset*")) == ["preset"]


def test_the_old_preset_serves_if_a_run_was_killed_between(run, tiny):
    run.start(tiny("vim"))
    run.save_preset(save("1"))
    run.preset_dir.rename(run.path / "preset.old")
    assert (find_preset(run.path) / "config.json").read_text() == "1"


def test_no_preset_is_said(run, tiny, tmp_path):
    with pytest.raises(UserError, match="neither a run nor a preset"):
        find_preset(tmp_path / "nowhere")
    run.start(tiny("vim"))
    with pytest.raises(UserError, match="no preset yet"):
        find_preset(run.path)


# The lock ---------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from vim_tf.runs.run import Run
with Run({path!r}).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(run):
    """A process that holds the lock of the run."""
    code = HOLDER.format(path=str(run.path))
    given = [sys.executable, "-c", code]
    with subprocess.Popen(given, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_until_the_first_is_gone(run, holder):
    with pytest.raises(UserError) as caught, run.lock():
        pass
    message = str(caught.value)
    assert f"is being trained by process {holder.pid} on {socket.gethostname()}" in message
    assert "\n" not in message
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with run.lock():  # the text of the killed process was still there
        assert run.lock_path.read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"


def test_the_lock_is_free_after_use_and_after_a_mistake(run, tiny):
    with pytest.raises(ZeroDivisionError), run.lock():
        raise ZeroDivisionError
    assert run.lock_path.read_text() == ""
    run.start(tiny("vit_vqgan"))  # a folder with only a lock is no other run
    with run.lock():
        pass


def test_the_best_preset_is_next_to_the_last(run):
    run.path.mkdir()
    for name, best in (("old", True), ("best", True), ("last", False)):
        run.save_preset(lambda folder, name=name: (folder.mkdir(), (folder / name).touch()), best)
    assert [path.name for path in run.best_preset_dir.iterdir()] == ["best"]
    assert [path.name for path in run.preset_dir.iterdir()] == ["last"]
    assert {path.name for path in run.path.iterdir()} == {"preset", "preset_best"}


@pytest.mark.parametrize("best", [False, True])
def test_a_kill_between_two_renames_loses_no_preset(run, tiny, monkeypatch, best):
    """The next save is killed at each of its points, twice; a whole preset is found each time."""
    run.start(tiny("vim"))
    place = run.best_preset_dir if best else run.preset_dir
    run.save_preset(save("1"), best)

    class Killed(BaseException):
        pass

    def kill(name):
        if name == point:
            raise Killed

    monkeypatch.setattr("vim_tf.runs.run.failpoint", kill)
    deaths = (("2", "between_presets"), ("3", "before_preset"), ("4", "before_preset"))
    for text, point in deaths:  # noqa: B007, `kill` reads it
        with pytest.raises(Killed):
            run.save_preset(save(text), best)
        assert (find_preset(place) / "config.json").read_text() == "1"
    point = None
    run.save_preset(save("5"), best)
    assert (find_preset(place) / "config.json").read_text() == "5"
    assert [path.name for path in run.path.glob("preset*")] == [place.name]


def test_what_lies_in_the_way_of_a_preset_is_replaced(run, tiny, tmp_path):
    run.start(tiny("vim"))
    (run.path / "preset.new").write_text("a file")
    run.save_preset(save("1"))
    os.symlink(tmp_path / "elsewhere", run.path / "preset.old")
    os.symlink(tmp_path, run.path / "preset.new")
    run.save_preset(save("2"))
    assert (run.preset_dir / "config.json").read_text() == "2"
    assert [path.name for path in run.path.glob("preset*")] == ["preset"]
    assert tmp_path.is_dir()


@pytest.mark.parametrize("make", ["mkdir", "link", "garbage"])
def test_a_lock_of_the_wrong_kind_stops_no_run(run, tmp_path, capsys, make):
    run.path.mkdir()
    if make == "mkdir":
        run.lock_path.mkdir()
        (run.lock_path / "inside").touch()
    elif make == "link":
        os.symlink(tmp_path / "target", run.lock_path)
    else:
        run.lock_path.write_bytes(bytes(range(256)))
    with run.lock():
        assert run.lock_path.read_text().startswith("process ")
    said = capsys.readouterr().err
    if make == "garbage":
        assert said == ""
    else:
        aside = run.path / "lock.aside-1"
        assert said == f"{run.lock_path} is no lock file; it is now {aside}\n"
        assert os.path.islink(aside) or (aside / "inside").exists()
    assert not (tmp_path / "target").exists()
