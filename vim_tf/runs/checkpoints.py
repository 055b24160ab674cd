"""Checkpoints of a run's whole state. One that was cut short or damaged is never used.

<folder>/step_00001200/
    state.index, state.data-...    the files of tf.train.Checkpoint
    manifest.json                  their sizes and hashes; written last, so it marks a complete one
<folder>/best.json                 step and value of the best evaluation

Paths may be in a bucket, gs://...
"""

import contextlib
import math
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf
from etils import epath

from vim_tf import fingerprints, formats
from vim_tf.annotations import StrPath
from vim_tf.distribution.workers import Workers
from vim_tf.errors import DamagedError, UserError
from vim_tf.failpoints import failpoint
from vim_tf.files import is_in_bucket, measure_file, remove, set_aside, write_atomically
from vim_tf.messages import reason_of
from vim_tf.runs.made_from import MadeFrom
from vim_tf.runs.run import step_of
from vim_tf.versions import installed_versions

MANIFEST, BEST, STATE = "manifest.json", "best.json", "state"
ADVICE = "train again in another workdir"
BEST_ADVICE = "the next evaluation counts as the best, and writes the file again"
_WHOLE = {"type": "integer", "minimum": 0}


def _pair(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "prefixItems": [first, second], "minItems": 2, "maxItems": 2}


MANIFEST_SCHEMA = formats.json_object(
    step=_WHOLE,
    made_from={"oneOf": [{"type": "null"}, fingerprints.MADE_FROM_SCHEMA]},
    # [shape, dtype] and [bytes, SHA-256]
    variables={
        "type": "object",
        "additionalProperties": _pair({"type": "array", "items": _WHOLE}, {"type": "string"}),
    },
    files={"type": "object", "additionalProperties": _pair(_WHOLE, {"type": "string"})},
    versions={"type": "object"},
)
BEST_SCHEMA = formats.json_object(step=_WHOLE, value={"type": "number"})
COMPARED = ("model", "discriminator")  # items with weights that are compared by name


class Checkpoints:
    """The checkpoints in a folder: the last few, and the one of the best evaluation.

    The chief of several workers writes them. The other workers take part in `save` and `restore`.

    Args:
        items: {name: Keras model, optimizer, tf.Variable or list of these}, the state.
        folder: their folder; need not exist yet.
        keep: number of the last checkpoints to keep.
        workers: the workers; None for those of the strategy in scope.
        say: called with each line for the user; None writes it to stderr.
        made_from: the `MadeFrom` of the training; None keeps and compares nothing.
    """

    def __init__(
        self,
        items: Mapping[str, Any],
        folder: StrPath,
        keep: int,
        workers: Workers | None = None,
        say: Callable[[str], object] | None = None,
        made_from: MadeFrom | None = None,
    ) -> None:
        self._items, self._keep = items, keep
        self._workers = workers or Workers(tf.distribute.get_strategy())
        self._checkpoint = tf.train.Checkpoint(**items)
        self._folder = epath.Path(folder)
        self._say = say or (lambda line: sys.stderr.write(f"{line}\n"))
        self._made_from = made_from
        self._said_best = False

    def steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints, ascending."""
        # Not by glob: the path of the folder may have its special characters, as in "exp[1]".
        folders = self._folder.iterdir() if self._folder.is_dir() else ()
        found = (step_of(folder.name) for folder in folders if (folder / MANIFEST).is_file())
        return sorted(step for step in found if step is not None)

    def save(self, step: int) -> None:
        """Saves the state of a step, unless it is saved already; removes old checkpoints."""
        step = int(step)
        is_new = not (self.path(step) / MANIFEST).is_file()
        if self._workers.chiefs(is_new):
            if self._workers.is_chief:
                self._write(step)
            else:
                # The files are not needed, but the chief's counters are sums over all workers.
                with tempfile.TemporaryDirectory() as folder:
                    self._checkpoint.write(f"{folder}/{STATE}")
        if self._workers.is_chief:
            failpoint("before_removal")
            self._remove_old()
        self._workers.wait()

    def _write(self, step: int) -> None:
        place, folder = self._folder, self.path(step)
        if not is_in_bucket(place) and os.path.lexists(place) and not os.path.isdir(place):
            self._say(f"{place} is no folder; it is now {set_aside(place)}")
        _remove(folder)  # a save that was cut short
        folder.mkdir(parents=True)
        failpoint("before_state")
        self._checkpoint.write(str(folder / STATE))
        failpoint("before_manifest")
        if self._made_from is not None:
            self._made_from.keep()
        manifest = {
            "step": step,
            "made_from": self._made_from and self._made_from.describe(),
            "variables": self._shapes(),
            "files": {path.name: measure_file(path) for path in folder.iterdir()},
            "versions": installed_versions(),
        }
        write_atomically(folder / MANIFEST, formats.to_json("checkpoint", manifest))

    def restore(self) -> int | None:
        """Restores the newest complete checkpoint.

        Returns:
            Its step; None if there is none.

        Raises:
            UserError: it has another architecture or another format, or was made from other images
                or by another tokenizer than those in use.
        """
        step = self._find_newest() if self._workers.is_chief else None
        step = self._workers.chiefs(-1 if step is None else step)
        if step < 0:
            return None
        self._read(self.path(step))
        return step

    def restore_from(self, folder: StrPath) -> list[str]:
        """Restores the newest complete checkpoint of another run, which is only read.

        Parts that the other run does not have, such as a discriminator, keep their first values.

        Args:
            folder: the folder of the other run's checkpoints.

        Returns:
            Lines for the user.

        Raises:
            UserError: there is no complete checkpoint, it has another architecture or another kind
                of optimizer, or it was trained on tokens of another tokenizer.
        """
        other = Checkpoints(self._items, folder, self._keep, self._workers, self._say)
        step = other._find_newest(keep=True) if self._workers.is_chief else None
        step = self._workers.chiefs(-1 if step is None else step)
        if step < 0:
            raise UserError(f"{folder} has no complete checkpoint to go on from")
        place = other.path(step)
        lines = [f"goes on from {place}"]
        made_from = _read_manifest(place)["made_from"]
        if self._made_from is not None and made_from is not None:
            run_folder = other._folder.parent
            lines += self._made_from.compare(f"checkpoint {place}", made_from, run_folder)
        with _readable(place) as path:
            names = tf.train.load_checkpoint(f"{path}/{STATE}").get_variable_to_shape_map()
        kept = {name.split("/", 1)[0] for name in names}
        is_empty = {name: isinstance(item, list) and not item for name, item in self._items.items()}
        new = [name for name in self._items if name not in kept and not is_empty[name]]
        if new:
            lines.append(f"the checkpoint has no {', '.join(new)}; these start anew")
        other._items = {name: item for name, item in self._items.items() if name in kept}
        other._checkpoint = tf.train.Checkpoint(**other._items)
        try:
            other._read(place, partly=True)
        # The slots of another optimizer are missing, or have other shapes.
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"checkpoint {place} has another kind of optimizer than the config "
                f"({reason_of(error)}); keep second_moment of the optimizers, and the parts of the "
                "model"
            ) from None
        return lines

    def _find_newest(self, keep: bool = False) -> int | None:
        """Returns the step of the newest complete checkpoint; None if there is none.

        Args:
            keep: whether to leave damaged checkpoints as they are.
        """
        for step in reversed(self.steps()):
            folder = self.path(step)
            try:
                damage = _find_damage(folder, _read_manifest(folder))
            except DamagedError as error:
                damage = str(error)
            except FileNotFoundError:  # a link to a folder whose manifest has just been renamed
                continue
            if not damage:
                return step
            self._say(f"checkpoint {folder} is damaged ({damage}); the one before it is used")
            if keep:
                continue
            # Without a manifest it is not used any more, and its step can be saved again.
            (folder / MANIFEST).replace(folder / f"damaged_{MANIFEST}")
        return None

    def best(self) -> tuple[int, float] | None:
        """Returns (step, value) of the best evaluation so far, or None."""
        path = self._folder / BEST
        try:
            best = formats.read_json(path, "checkpoint", BEST_ADVICE, BEST_SCHEMA)
            if not math.isfinite(best["value"]):
                raise DamagedError(f"{path} is damaged: value is {best['value']}; {BEST_ADVICE}")
        except FileNotFoundError:
            return None
        except (OSError, UserError) as error:
            if not self._said_best:
                self._say(f"the best evaluation is not known, as {path} cannot be used: {error}")
                self._said_best = True
            return None
        return best["step"], best["value"]

    def mark_best(self, step: int, value: float) -> None:
        """Marks the checkpoint of a step as the best, to keep it until another is better."""
        path, best = self._folder / BEST, {"step": int(step), "value": value}
        if not is_in_bucket(path) and os.path.isdir(path) and not os.path.islink(path):
            self._say(f"{path} is a folder; it is now {set_aside(path)}")
        write_atomically(path, formats.to_json("checkpoint", best))

    def forget_best(self) -> None:
        """Forgets the best evaluation, of a training that left no checkpoint to go on from."""
        path = self._folder / BEST
        if path.is_file():
            path.unlink()

    def path(self, step: int) -> epath.Path:
        """Returns the folder of the checkpoint of a step."""
        return self._folder / f"step_{step:08}"

    def _remove_old(self) -> None:
        best = self.best()
        for step in self.steps()[: -self._keep]:
            if best is None or step != best[0]:
                _remove(self.path(step))

    def _shapes(self) -> dict[str, list[Any]]:
        """Returns {unique name of a weight: [shape, dtype]} of the networks."""
        shapes: dict[str, list[Any]] = {}
        seen: Counter[str] = Counter()
        for item in COMPARED:
            for weight in self._items[item].weights if item in self._items else ():
                # Keras numbers the layers of a process; the numbers are removed.
                path = "/".join(re.sub(r"_\d+$", "", part) for part in weight.path.split("/"))
                name = f"{item}/{path}"
                seen[name] += 1
                name += f" ({seen[name]})" if seen[name] > 1 else ""
                shapes[name] = [list(weight.shape), weight.dtype]
        return shapes

    def _read(self, folder: epath.Path, partly: bool = False) -> None:
        """Reads the checkpoint; `partly` leaves out the items of it that are not ours."""
        if not folder.exists():
            raise UserError(
                f"the chief's checkpoint {folder} is not there on this worker; give a workdir on "
                "a disk that all workers share"
            )
        manifest = _read_manifest(folder)
        if self._made_from is not None and manifest["made_from"] is not None:
            self._made_from.check(f"checkpoint {folder}", manifest["made_from"])
        ours, theirs = self._shapes(), manifest["variables"]
        if partly:
            theirs = {name: x for name, x in theirs.items() if name.split("/")[0] in self._items}
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
                    f"there and {described[1]} here; give another workdir, or the config and the "
                    "version of vim_tf that it was made with"
                )
        with _readable(folder) as place:
            status = self._checkpoint.read(f"{place}/{STATE}")
            if partly:
                status.assert_existing_objects_matched().expect_partial()
            else:
                status.assert_consumed()


def _remove(folder: epath.Path) -> None:
    """Removes a checkpoint, or what lies in its place; of a link not what it leads to."""
    # The manifest first: a partly removed checkpoint must not look complete.
    if not os.path.islink(folder) and (folder / MANIFEST).is_file():
        (folder / MANIFEST).unlink()
    if not is_in_bucket(folder):
        remove(folder)
    elif folder.is_dir():
        folder.rmtree()


@contextlib.contextmanager
def _readable(folder: epath.Path) -> Iterator[str]:
    """Gives a path of a folder that TensorFlow can read: it takes "[" for a pattern."""
    if "[" not in str(folder) or is_in_bucket(folder):
        yield str(folder)
        return
    with tempfile.TemporaryDirectory() as place:
        os.symlink(os.path.abspath(folder), f"{place}/checkpoint")
        yield f"{place}/checkpoint"


def _read_manifest(folder: epath.Path) -> dict[str, Any]:
    return formats.read_json(folder / MANIFEST, "checkpoint", ADVICE, MANIFEST_SCHEMA)


def _find_damage(folder: epath.Path, manifest: Mapping[str, Any]) -> str | None:
    """Returns the damage of a checkpoint's files, in words; None if there is none."""
    for name, identity in manifest["files"].items():
        path = folder / name
        # epath takes a pipe on a disk for a file, and reading a pipe waits.
        if not (path.is_file() if is_in_bucket(path) else os.path.isfile(path)):
            return f"{name} is missing"
        size, sha256 = measure_file(path)
        if size != identity[0]:
            return f"{name} has {size:,} of its {identity[0]:,} bytes"
        if sha256 != identity[1]:
            return f"{name} has changed"
    return None
