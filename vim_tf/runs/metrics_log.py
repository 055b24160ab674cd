"""metrics.jsonl: one JSON object per report. It has no step twice, and no damage stops a run."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from vim_tf.files import append_line, is_in_bucket, set_aside, write_atomically

EVALUATION = "evaluation"
_MOST_STEPS = 10**18


class MetricsLog:
    """The file of a run's numbers.

    Args:
        path: the file, on a disk or in a bucket; need not exist yet.
        say: called with each line for the user; None writes it to stderr.
    """

    def __init__(self, path: epath.Path, say: Callable[[str], object] | None = None) -> None:
        self.path = path
        self._say = say or (lambda line: sys.stderr.write(f"{line}\n"))
        self._said = 0  # lines that the user knows of

    def append(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Adds one line.

        Args:
            step: the step.
            kind: "train" or "evaluation".
            values: {name: number}.
        """
        append_line(self.path, json.dumps({"step": step, "kind": kind, **values}))

    def read(self) -> list[dict[str, Any]]:
        """Returns the records as dicts, by step; of a repeated step, the last one.

        Lines that cannot be read are left out; the first call says so.
        """
        records, unread = {}, []
        for number, line in enumerate(self._lines(), 1):
            record = _parse(line)
            if record is None:
                unread += [number] if line.strip() else []
            else:
                records[record["step"], record["kind"]] = record
        if len(unread) > self._said:
            self._say(
                f"{self.path}: {len(unread)} lines cannot be read and are left out, the first is "
                f"line {unread[0]}"
            )
            self._said = len(unread)
        return sorted(records.values(), key=lambda record: record["step"])

    def start(self) -> None:
        """Prepares the file for a training from its first step.

        The numbers of an earlier training that saved no checkpoint are kept in another file.
        """
        self._set_wrong_kind_aside()
        if self.path.exists() and self.path.stat().length:
            aside = self._set_aside()
            self._say(
                f"an earlier training in this folder saved no checkpoint; its numbers are now in "
                f"{aside}"
            )

    def resume(self, step: int, evaluates: bool) -> None:
        """Prepares the file for a training from `step` on: removes what is computed again.

        Args:
            step: the step of the checkpoint.
            evaluates: whether the evaluation of this step is repeated.
        """
        self._set_wrong_kind_aside()
        lines = self._lines()
        kept, repeated = [], 0
        for line in lines:
            record = _parse(line)
            if record is None:
                kept.append(line)
            elif record["step"] > step or (
                evaluates and (record["step"], record["kind"]) == (step, EVALUATION)
            ):
                repeated += 1
            else:
                kept.append(line)
        if lines and not self.path.read_bytes().endswith(b"\n") and _parse(lines[-1]) is None:
            kept.pop()  # a run was killed while it wrote this line
        if len(kept) < len(lines):
            write_atomically(self.path, b"".join(line + b"\n" for line in kept))
        if repeated:
            lines = f"{repeated} line is" if repeated == 1 else f"{repeated:,} lines are"
            self._say(f"{self.path}: {lines} removed, because the steps are repeated")

    def _lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines() if self._is_file() else []

    def _is_file(self) -> bool:
        if is_in_bucket(self.path):
            return self.path.exists()
        return os.path.isfile(self.path)  # epath takes a pipe for a file

    def _set_wrong_kind_aside(self) -> None:
        if not is_in_bucket(self.path) and os.path.lexists(self.path) and not self._is_file():
            self._say(f"{self.path} is no file; it is now {set_aside(self.path)}")

    def _set_aside(self) -> epath.Path:
        if not is_in_bucket(self.path):
            return epath.Path(set_aside(self.path))
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.aside-{number}")).exists():
            number += 1
        aside.write_bytes(self.path.read_bytes())
        self.path.unlink()
        return aside


def _parse(line: bytes) -> dict[str, Any] | None:
    """Returns the record of a line; None if it is not what `append` writes."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    step, kind = record.get("step"), record.get("kind")
    if type(step) is not int or not 0 <= step < _MOST_STEPS or not isinstance(kind, str):
        return None
    numbers = [value for name, value in record.items() if name not in ("step", "kind")]
    try:
        # Not a bool, nor a number that is too large for a float.
        return record if all(type(n) in (int, float) and [float(n)] for n in numbers) else None
    except OverflowError:
        return None
