"""Checkpoints: whole or nothing, the last few and the best, and none of another architecture."""

import json
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf.errors import UserError
from vim_tf.trainers.checkpoints import Checkpoints


def make_items(units=3):
    """A network, its optimizer with slots, and a counter; all numbers different."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units, name="dense")])
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    return {"model": model, "optimizer": optimizer, "counters": [tf.Variable(0, dtype=tf.int64)]}


def variables(items):
    return [*items["model"].variables, *items["optimizer"].variables, *items["counters"]]


def fill(items, seed):
    rng = np.random.default_rng(seed)
    for variable in variables(items):
        value = rng.integers(0, 1000, variable.shape)
        variable.assign(value.astype(tf.as_dtype(variable.dtype).as_numpy_dtype))


@pytest.fixture
def saved(tmp_path):
    """A function (*steps, keep=3, items) -> Checkpoints with the state `step` under each step."""

    def save(*steps, keep=3, items=None):
        items = items or make_items()
        found = Checkpoints(items, tmp_path / "checkpoints", keep)
        for step in steps:
            fill(items, step)
            found.save(step)
        return found

    return save


def restored(folder, said=None, **more):
    """(step, the values) of what comes back."""
    items = make_items(**more)
    say = said.append if said is not None else None
    step = Checkpoints(items, folder, 3, say=say).restore()
    return step, [variable.numpy() for variable in variables(items)]


def state(step):
    items = make_items()
    fill(items, step)
    return [variable.numpy() for variable in variables(items)]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_everything_comes_back_and_the_last_few_are_kept(saved, tmp_path):
    assert restored(tmp_path / "checkpoints")[0] is None
    assert saved(1, 20, 300, 4000, keep=2).steps() == [300, 4000]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    step, values = restored(tmp_path / "checkpoints")
    assert step == 4000
    assert same(values, state(4000))
    assert not same(values, state(300))


def test_the_best_is_kept_until_another_is_better(saved):
    found = saved(1)
    assert found.best() is None
    found.mark_best(1, 0.5)
    for step in (2, 3, 4, 5):
        found.save(step)
    assert found.steps() == [1, 3, 4, 5]
    assert found.best() == (1, 0.5)
    found.mark_best(5, 0.75)
    found.save(6)
    assert found.steps() == [4, 5, 6]


def test_a_step_that_is_there_is_not_written_again(saved, tmp_path):
    found = saved(7)
    manifest = (found.path(7) / "manifest.json").stat().mtime
    found.save(7)
    assert (found.path(7) / "manifest.json").stat().mtime == manifest


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def change(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("state.data-00000-of-00001", cut, "has [0-9,]+ of its [0-9,]+ bytes"),
        ("state.data-00000-of-00001", change, "has changed"),
        ("state.index", lambda path: path.unlink(), "state.index is missing"),
        ("manifest.json", cut, "manifest.json is cut short"),
        ("manifest.json", lambda path: path.write_text("{}"), "manifest.json is cut short"),
    ],
)
def test_a_damaged_one_is_skipped_with_a_word_and_can_be_made_again(
    saved, tmp_path, name, damage, message
):
    saved(1, 2)
    damage(tmp_path / "checkpoints" / "step_00000002" / name)
    said = []
    step, values = restored(tmp_path / "checkpoints", said)
    assert step == 1
    assert same(values, state(1))
    (line,) = said
    assert "step_00000002 is damaged" in line
    assert "the one before it is taken" in line
    assert re.search(message, line)
    saved(2)
    step, values = restored(tmp_path / "checkpoints")
    assert (step, same(values, state(2))) == (2, True)


def test_without_its_manifest_there_is_none(saved, tmp_path):
    """What a kill before the manifest leaves; it is not in the way of the next save."""
    found = saved(1, 2)
    (found.path(2) / "manifest.json").unlink()
    (found.path(2) / "left over").write_text("x")
    assert found.steps() == [1]
    assert restored(tmp_path / "checkpoints")[0] == 1
    saved(2)
    assert restored(tmp_path / "checkpoints")[0] == 2
    assert not (found.path(2) / "left over").exists()


def test_another_architecture_is_named_by_its_first_difference(saved, tmp_path):
    saved(1)
    with pytest.raises(UserError) as caught:
        restored(tmp_path / "checkpoints", units=4)
    message = str(caught.value)
    assert "dense/kernel is 2 x 3 of float32 there and 2 x 4 of float32 here" in message
    assert "\n" not in message
    more = make_items()
    more["discriminator"] = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="d")])
    with pytest.raises(UserError, match="discriminator/.*kernel is missing there and 2 x 1"):
        Checkpoints(more, tmp_path / "checkpoints", 3).restore()


def test_a_newer_version_is_refused(saved, tmp_path):
    path = saved(1).path(1) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["format"] += 1
    manifest["versions"]["vim_tf"] = "9.1"
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"was written by a newer vim_tf, 9\.1"):
        restored(tmp_path / "checkpoints")


KILLED = """
import sys
import numpy as np
sys.path.insert(0, {tests!r})
from test_checkpoints import make_items, fill
from vim_tf.trainers.checkpoints import Checkpoints
items = make_items()
checkpoints = Checkpoints(items, {folder!r}, keep=1)
for step in (1, 2):
    fill(items, step)
    checkpoints.save(step)
"""


@pytest.mark.large
@pytest.mark.parametrize(
    ("place", "expected"), [("before_state", 1), ("before_manifest", 1), ("before_removal", 2)]
)
def test_a_kill_inside_a_save_leaves_a_whole_one(place, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("VIM_TF_FAILPOINT", f"{place}:2")
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "checkpoints"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    step, values = restored(tmp_path / "checkpoints")
    assert step == expected
    assert same(values, state(expected))


def test_all_replicas_come_back(two_replicas, tmp_path):
    with two_replicas.scope():
        items = make_items()
    fill(items, 5)
    Checkpoints(items, tmp_path, 3).save(5)
    with two_replicas.scope():
        again = make_items()
    assert Checkpoints(again, tmp_path, 3).restore() == 5
    for variable, value in zip(variables(again), state(5), strict=True):
        variable = variable.value if isinstance(variable, keras.Variable) else variable
        for copy in two_replicas.experimental_local_results(variable):
            np.testing.assert_array_equal(copy, value)


def test_a_bucket(bucket):
    bucket, items = f"{bucket}/checkpoints", make_items()
    found = Checkpoints(items, bucket, keep=2)
    assert found.restore() is None
    for step in (1, 2, 3):
        fill(items, step)
        found.save(step)
    found.mark_best(2, 0.5)
    fill(items, 4)
    found.save(4)
    assert found.steps() == [2, 3, 4]
    assert restored(bucket)[0] == 4
    damaged = f"{bucket}/step_00000004/state.data-00000-of-00001"
    with tf.io.gfile.GFile(damaged, "wb") as file:
        file.write(b"short")
    said = []
    step, values = restored(bucket, said)
    assert (step, same(values, state(3))) == (3, True)
    assert "ram://bucket/checkpoints/step_00000004 is damaged" in said[0]


class SecondWorker:
    """What `Workers` is on a worker that is not the chief."""

    is_chief = False

    def chiefs(self, number):
        return 300

    def wait(self):
        pass


def test_a_worker_reads_what_the_chief_chose_and_writes_nothing(saved, tmp_path):
    saved(300, 4000)
    folder, items = tmp_path / "checkpoints", make_items()
    of_worker = Checkpoints(items, folder, 3, SecondWorker())
    assert of_worker.restore() == 300
    assert same([variable.numpy() for variable in variables(items)], state(300))
    before = sorted(folder.rglob("*"))
    of_worker.save(5000)
    assert sorted(folder.rglob("*")) == before


def test_a_worker_that_does_not_see_the_folder(tmp_path):
    elsewhere = Checkpoints(make_items(), tmp_path / "elsewhere", 3, SecondWorker())
    with pytest.raises(UserError, match="is not there on this worker; give a --workdir on a disk"):
        elsewhere.restore()
