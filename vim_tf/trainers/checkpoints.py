"""Checkpoints of a run's whole state. One that was cut short or damaged never counts.

<folder>/step_00001200/
    state.index, state.data-...    tf.train.Checkpoint's files
    manifest.json                  what they must be; written last, and without it they are nothing
<folder>/best.json                 step and value of the best evaluation

Paths may be in a bucket, gs://...
"""

import hashlib
import json
import sys
import tempfile

import tensorflow as tf
from etils import epath

import vim_tf
from vim_tf.errors import UserError
from vim_tf.failpoints import failpoint
from vim_tf.runs import write_atomically
from vim_tf.versions import installed_versions as versions
from vim_tf.workers import Workers

FORMAT = 1  # of the manifest and of what is in a checkpoint
MANIFEST, BEST, STATE = "manifest.json", "best.json", "state"
COMPARED = ("model", "discriminator")  # items whose weights a checkpoint must have, each by name
_PART = 2**24  # bytes read at once


class Checkpoints:
    """The checkpoints in a folder: the last few, and that of the best evaluation.

    The chief of several workers writes them. The others take part in `save` and `restore`.

    Args:
        items: {name: Keras model, optimizer, tf.Variable or list of these}, the state.
        folder: where they are; need not exist yet.
        keep: how many of the last are kept.
        workers: the `Workers`; None for those of the strategy in scope.
        say: function of a line for the user.
    """

    def __init__(self, items, folder, keep, workers=None, say=None):
        self._items, self._keep = items, keep
        self._workers = workers or Workers(tf.distribute.get_strategy())
        self._checkpoint = tf.train.Checkpoint(**items)
        self._folder = epath.Path(folder)
        self._say = say or (lambda line: sys.stderr.write(f"{line}\n"))

    def steps(self):
        """Returns the steps of all complete checkpoints, ascending."""
        found = self._folder.glob(f"step_*/{MANIFEST}")
        return sorted(int(path.parent.name.removeprefix("step_")) for path in found)

    def save(self, step):
        """Saves the state under a step, unless it is there already; removes old ones."""
        step = int(step)
        is_new = not (self.path(step) / MANIFEST).exists()
        if self._workers.chiefs(is_new):
            if self._workers.is_chief:
                self._write(step)
            else:
                # What it writes is not needed, but the chief's counters are sums over all workers.
                with tempfile.TemporaryDirectory() as folder:
                    self._checkpoint.write(f"{folder}/{STATE}")
        if self._workers.is_chief:
            failpoint("before_removal")
            self._remove_old()
        self._workers.wait()

    def _write(self, step):
        folder = self.path(step)
        if folder.exists():  # a save that was cut short
            folder.rmtree()
        folder.mkdir(parents=True)
        failpoint("before_state")
        self._checkpoint.write(str(folder / STATE))
        failpoint("before_manifest")
        manifest = {
            "format": FORMAT,
            "step": step,
            "variables": self._shapes(),
            "files": {path.name: _identity(path) for path in folder.iterdir()},
            "versions": versions(),
        }
        write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")

    def restore(self):
        """Restores the newest checkpoint that is whole.

        Returns:
            Its step; None if there is none.

        Raises:
            UserError: it is of another architecture, or of a newer version of vim_tf.
        """
        step = self._find_newest() if self._workers.is_chief else None
        step = self._workers.chiefs(-1 if step is None else step)
        if step < 0:
            return None
        self._read(self.path(step))
        return step

    def _find_newest(self):
        """The step of the newest checkpoint that is whole; None if there is none."""
        for step in reversed(self.steps()):
            folder = self.path(step)
            try:
                manifest = json.loads((folder / MANIFEST).read_text())
                if manifest["format"] > FORMAT:
                    raise UserError(
                        f"checkpoint {folder} was written by a newer vim_tf, "
                        f"{manifest['versions']['vim_tf']}; this is {vim_tf.__version__}: install "
                        "that one"
                    )
                damage = _find_damage(folder, manifest)
            except (ValueError, KeyError, TypeError):
                damage = f"{MANIFEST} is cut short"
            if not damage:
                return step
            self._say(f"checkpoint {folder} is damaged ({damage}); the one before it is taken")
            # It does not count any more, and its step can be saved again.
            (folder / MANIFEST).replace(folder / f"damaged_{MANIFEST}")
        return None

    def best(self):
        """Returns (step, value) of the best evaluation so far, or None."""
        try:
            best = json.loads((self._folder / BEST).read_text())
            return best["step"], best["value"]
        except (FileNotFoundError, ValueError, KeyError):
            return None

    def mark_best(self, step, value):
        """Keeps the checkpoint of a step until another is better."""
        best = {"step": int(step), "value": value}
        write_atomically(self._folder / BEST, json.dumps(best) + "\n")

    def path(self, step):
        """Returns the folder of the checkpoint of a step."""
        return self._folder / f"step_{step:08}"

    def _remove_old(self):
        best = self.best()
        for step in self.steps()[: -self._keep]:
            if best is None or step != best[0]:
                # The manifest first: half of a checkpoint must not look like one.
                (self.path(step) / MANIFEST).unlink()
                self.path(step).rmtree()

    def _shapes(self):
        """{name of a weight: [shape, dtype]} of the networks."""
        return {
            # Without the model's own name, which counts the models of the process.
            f"{item}/{weight.path.partition('/')[2]}": [list(weight.shape), weight.dtype]
            for item in COMPARED
            if item in self._items
            for weight in self._items[item].weights
        }

    def _read(self, folder):
        if not folder.exists():
            raise UserError(
                f"the chief's checkpoint {folder} is not there on this worker; give a --workdir on "
                "a disk that all workers share"
            )
        ours = self._shapes()
        theirs = json.loads((folder / MANIFEST).read_text())["variables"]
        for name in dict.fromkeys([*ours, *theirs]):
            if ours.get(name) != theirs.get(name):
                described = [
                    f"{' x '.join(map(str, found[name][0])) or 'a number'} of {found[name][1]}"
                    if name in found
                    else "missing"
                    for found in (theirs, ours)
                ]
                raise UserError(
                    f"checkpoint {folder} is of another architecture: {name} is {described[0]} "
                    f"there and {described[1]} here; give another --workdir, or the config and the "
                    "version of vim_tf that it was made with"
                )
        self._checkpoint.read(str(folder / STATE)).assert_consumed()


def _identity(path):
    """[bytes, SHA-256] of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while part := file.read(_PART):
            digest.update(part)
            size += len(part)
    return [size, digest.hexdigest()]


def _find_damage(folder, manifest):
    """What is wrong with a checkpoint's files, in words; None if nothing is."""
    for name, identity in manifest["files"].items():
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        size, sha256 = _identity(path)
        if size != identity[0]:
            return f"{name} has {size:,} of its {identity[0]:,} bytes"
        if sha256 != identity[1]:
            return f"{name} has changed"
    return None
