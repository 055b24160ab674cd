"""Checkpoints are complete or do not count. The last few and the best are kept.

Those of another architecture are refused.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf import formats
from vim_tf.errors import UserError
from vim_tf.fingerprints import fingerprint
from vim_tf.runs.checkpoints import Checkpoints


def make_items(units=3):
    """A network, its optimizer with slots, and a counter. All numbers are different."""
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
    """A function (*steps, keep=3, items) -> Checkpoints that have state `step` at each step."""

    def save(*steps, keep=3, items=None):
        items = items or make_items()
        found = Checkpoints(items, tmp_path / "checkpoints", keep)
        for step in steps:
            fill(items, step)
            found.save(step)
        return found

    return save


def restored(folder, said=None, **more):
    """(step, values) after a restore."""
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
        ("manifest.json", cut, "manifest.json is damaged: it is no JSON"),
        ("manifest.json", change, "manifest.json is damaged"),
        ("manifest.json", lambda path: path.write_text(""), "manifest.json is damaged"),
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
    assert "the one before it is used" in line
    assert re.search(message, line)
    saved(2)
    step, values = restored(tmp_path / "checkpoints")
    assert (step, same(values, state(2))) == (2, True)


def test_without_its_manifest_there_is_none(saved, tmp_path):
    """A kill before the manifest leaves such a folder. The next save works all the same."""
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


def test_another_format_is_refused(saved, tmp_path, monkeypatch):
    found = saved(1)
    with monkeypatch.context() as patch:
        patch.setitem(formats.NUMBERS, "checkpoint", 99)
        patch.setattr(formats, "WRITTEN_BY", "vim_tf 9.1")
        saved(2)
    with pytest.raises(UserError, match=r"has the format 99 and was written by vim_tf 9\.1"):
        restored(tmp_path / "checkpoints")
    path = found.path(2) / "manifest.json"
    path.write_text(json.dumps({"format": 1, "step": 2, "versions": {"vim_tf": "0.1.0"}}))
    with pytest.raises(UserError, match="has the format 1 and was written by an earlier vim_tf"):
        restored(tmp_path / "checkpoints")


def test_flipped_bits_of_a_manifest_lead_to_the_checkpoint_before(saved, tmp_path):
    found = saved(1, 2)
    path, rng = found.path(2) / "manifest.json", np.random.default_rng(0)
    whole, steps = path.read_bytes(), []
    again = Checkpoints(make_items(), tmp_path / "checkpoints", 3, say=lambda line: None)
    for place in rng.choice(8 * len(whole), 400, replace=False):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        steps.append(again.restore())
        (path.with_name("damaged_manifest.json")).unlink(missing_ok=True)
    assert set(steps) <= {1, 2}
    assert steps.count(1) > 300  # the others are bits of spaces


def test_a_damaged_best_counts_as_none(saved, tmp_path):
    found = saved(1)
    found.mark_best(1, 0.5)
    change(tmp_path / "checkpoints" / "best.json")
    assert found.best() is None


def test_weights_of_the_same_name_are_compared_one_by_one(tmp_path):
    """Keras gives the weights of three tables, or of unnamed layers, the same name."""

    def make(rows):
        layers = [keras.layers.Embedding(count, 4) for count in rows]
        for layer in layers:
            layer.build(())
        model = keras.Sequential(layers)
        return {"model": model}

    Checkpoints(make([2, 3, 5]), tmp_path, 3).save(1)
    assert Checkpoints(make([2, 3, 5]), tmp_path, 3).restore() == 1
    with pytest.raises(UserError, match=r"embeddings \(3\) is 5 x 4 of float32 there and 6 x 4"):
        Checkpoints(make([2, 3, 6]), tmp_path, 3).restore()


class Made:
    """Has the interface of `MadeFrom`."""

    def __init__(self, made):
        self.made = made

    def describe(self):
        return self.made

    def keep(self):
        pass

    def check(self, path, then):
        if then != self.made:
            raise UserError(f"{path} was made from {then}")


def test_a_checkpoint_says_what_it_was_made_from(tmp_path):
    made = {"images": fingerprint(("a",), 2, 1, {}), "tokens": "b" * 64}
    items = make_items()
    Checkpoints(items, tmp_path, 3, made_from=Made(made)).save(1)
    assert Checkpoints(items, tmp_path, 3, made_from=Made(made)).restore() == 1
    other = {**made, "tokens": "c" * 64}
    with pytest.raises(UserError, match="checkpoint .*step_00000001 was made from"):
        Checkpoints(items, tmp_path, 3, made_from=Made(other)).restore()


def test_folders_that_only_look_like_checkpoints_are_left_alone(saved):
    found = saved(30)
    copied = found.path(30).with_name("step_00000030 (copy)")
    shutil.copytree(found.path(30), copied)
    assert found.steps() == [30]


KILLED = """
import sys
import numpy as np
sys.path.insert(0, {tests!r})
from test_checkpoints import make_items, fill
from vim_tf.runs.checkpoints import Checkpoints
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
    """Has the interface of `Workers` on a worker that is not the chief."""

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
    with pytest.raises(UserError, match="is not there on this worker; give a workdir on a disk"):
        elsewhere.restore()
