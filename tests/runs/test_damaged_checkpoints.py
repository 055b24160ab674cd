"""What lies among the checkpoints and is none stops no run."""

import os

import numpy as np
import pytest
import tensorflow as tf

from vim_tf import formats
from vim_tf.runs.checkpoints import Checkpoints


@pytest.fixture
def said():
    return []


@pytest.fixture
def items():
    return {"counters": [tf.Variable(0, dtype=tf.int64)]}


@pytest.fixture
def saved(tmp_path, said, items):
    """Checkpoints of a folder whose path has special characters of globs."""
    found = Checkpoints(items, tmp_path / "exp[1]*" / "checkpoints", keep=2, say=said.append)
    for step in (1, 2):
        items["counters"][0].assign(step)
        found.save(step)
    return found


def test_a_folder_with_special_characters_resumes(saved, items):
    items["counters"][0].assign(0)
    assert saved.steps() == [1, 2]
    assert saved.restore() == 2
    assert items["counters"][0].numpy() == 2
    saved.save(3)
    assert saved.steps() == [2, 3]


def test_other_folders_and_files_are_left_alone(saved):
    folder = saved.path(2).parent
    for name in ("step_00000030 (copy)", "step_30", "step_0000003x"):
        (folder / name).mkdir()
        (folder / name / "manifest.json").write_text("{}")
    (folder / "step_00000040").write_text("a file")
    (folder / "step_00000050" / "manifest.json").mkdir(parents=True)
    assert saved.steps() == [1, 2]
    assert saved.restore() == 2
    saved.save(40)
    assert saved.steps() == [2, 40]
    assert (folder / "step_00000030 (copy)" / "manifest.json").exists()


def test_of_a_link_only_the_link_is_removed(saved, tmp_path):
    """Checkpoints may have been moved to another disk."""
    for step in (1, 2):
        saved.path(step).rename(tmp_path / f"moved_{step}")
        os.symlink(tmp_path / f"moved_{step}", saved.path(step))
    os.symlink("nowhere", saved.path(3))
    assert saved.restore() == 2
    saved.save(3)
    saved.save(4)
    assert saved.steps() == [3, 4]
    assert not os.path.lexists(saved.path(1))
    for step in (1, 2):
        assert (tmp_path / f"moved_{step}" / "manifest.json").exists()


def test_two_names_of_one_damaged_checkpoint(saved, said):
    saved.path(1).rename(saved.path(0))
    os.symlink(saved.path(2), saved.path(1))
    (saved.path(2) / "manifest.json").write_text("{")
    assert saved.restore() == 0
    assert len(said) == 1


def damage(path, kind):
    texts = {
        "nan": formats.to_json("checkpoint", {"step": 1, "value": float("nan")}),
        "another format": '{"format": 99, "step": 1, "value": 2.0}',
        "a list": "[1, 2]",
        "binary": b"\xff\x00",
    }
    if kind == "a folder":
        os.mkdir(path)
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a link to nothing":
        os.symlink("nowhere", path)
    else:
        text = texts[kind]
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


KINDS = ["nan", "another format", "a list", "binary", "a folder", "a pipe", "a link to nothing"]


@pytest.mark.parametrize("kind", KINDS)
def test_any_best_json_is_replaced_by_the_next_evaluation(saved, said, kind):
    path = saved.path(1).with_name("best.json")
    damage(path, kind)
    assert saved.best() is saved.best() is None
    assert len(said) == (0 if kind == "a link to nothing" else 1)
    assert all(str(path) in line and "the best evaluation is not known" in line for line in said)
    saved.save(3)  # removes old ones, and asks for the best
    saved.mark_best(3, np.float64(2.5))
    assert saved.best() == (3, 2.5)


def test_the_best_is_forgotten(saved):
    saved.forget_best()
    saved.mark_best(2, 1.0)
    saved.forget_best()
    assert saved.best() is None
