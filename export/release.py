"""The folder that exports go to: integer versions, whole or not at all, none ever overwritten.

<out>/vim/<version>/      SavedModel; TF Serving takes <out>/vim as the model's base path
<out>/tflite/<version>/   LiteRT files
<out>/tfjs/<version>/     browser decoder and its page
  each with SHA256SUMS, for `sha256sum -c SHA256SUMS`
<out>/reports/<version>/  what was measured, also of an export that was not good enough
<out>/serving/            TF Serving's configuration and a client
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vim_tf import formats
from vim_tf.annotations import StrPath
from vim_tf.errors import UserError
from vim_tf.failpoints import failpoint
from vim_tf.files import hash_file, write_atomically
from vim_tf.locks import Held, locked

FOLDERS = {"saved_model": "vim", "tflite": "tflite", "tfjs": "tfjs"}
REPORTS = "reports"
SUMS = "SHA256SUMS"
_STAGING = ".staging-"
# In the staging folder: its process lives; all limits hold; what is finished, for after a stop.
_LOCK, _MARK, _FINISHED = "lock", "publish", "finished.json"
_FINISHED_SCHEMA = formats.json_object(
    made_from={"type": "object"},
    formats={
        "type": "object",
        "propertyNames": {"enum": [*FOLDERS]},
        "additionalProperties": formats.json_object(
            sums={"type": "string"}, rows={"type": "array", "items": {"type": "object"}}
        ),
    },
)


def check_target(out: StrPath) -> None:
    """Raises UserError if `out` holds anything but earlier exports."""
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give a folder")
    if out.exists() and any(out.iterdir()) and not (out / REPORTS).is_dir():
        raise UserError(
            f"{out} is not empty and holds no earlier export; give a new or empty folder"
        )


class Release:
    """The next version in a folder of exports, until it is published or discarded.

    An export that was stopped or killed has left its finished formats. If it was made from the same
    as this one, this one goes on from them; otherwise they are removed. What was being published is
    published to its end.

    Args:
        out: the folder; made if need be.
        say: called with each line for the user.
        made_from: all that the files depend on, for JSON.

    Raises:
        UserError: it cannot be written to, or holds something else.
    """

    def __init__(
        self,
        out: StrPath,
        say: Callable[[str], object] = lambda line: None,
        made_from: Mapping[str, Any] | None = None,
    ) -> None:
        check_target(out)
        self.out, self._made_from = Path(out), json.loads(json.dumps(made_from or {}))
        self._held = contextlib.ExitStack()
        self._finished: dict[str, Any] = {}
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            for staging in sorted(self.out.glob(f"{_STAGING}*")):
                if staging.is_dir() and staging.name.removeprefix(_STAGING).isdecimal():
                    self._clean_up(staging, say)
            while not self._finished and not self._stage():
                pass
        except OSError as error:
            raise UserError(
                f"{out} cannot be written ({error.strerror}); give another folder"
            ) from None

    def _stage(self):
        """Takes a version and makes its folder; False if another process removed it at once."""
        self.version = self._claim()
        # A dot: TF Serving and web servers look past it until it is renamed.
        self._staging = self.out / f"{_STAGING}{self.version}"
        self._staging.mkdir(exist_ok=True)
        try:
            self._held.enter_context(locked(self._staging / _LOCK))
        except (Held, FileNotFoundError):
            return False
        if (self._staging / _LOCK).exists():
            return True
        self._held.close()
        return False

    def _clean_up(self, staging, say):
        version = int(staging.name.removeprefix(_STAGING))
        with contextlib.suppress(Held, FileNotFoundError), contextlib.ExitStack() as held:
            held.enter_context(locked(staging / _LOCK))
            if (staging / _MARK).exists():
                say(f"version {version} was being published when its export ended; now it is")
                _put_in_place(self.out, staging, version)
                return
            if not self._finished and version == max(self._versions(), default=0):
                self._finished = self._read_finished(staging)
                if self._finished:
                    say(f"version {version} goes on; finished are {', '.join(self._finished)}")
                    self.version, self._staging, self._held = version, staging, held.pop_all()
                    return
            say(f"an export that did not end has left {staging}; it is removed")
            # It may say that all limits hold, of files that nobody has.
            shutil.rmtree(self.out / REPORTS / str(version), ignore_errors=True)
            _remove(self.out, staging, version)

    def _read_finished(self, staging):
        """Returns the finished formats of an export that was made from the same; {} for another."""
        try:
            found = formats.read_json(staging / _FINISHED, "export", "", _FINISHED_SCHEMA)
        except (OSError, UserError):  # nothing was finished; or another vim_tf, or damage
            return {}
        if found["made_from"] != self._made_from:
            return {}
        return {
            name: finished
            for name, finished in found["formats"].items()
            if finished["sums"] == _hash_sums(staging / FOLDERS[name])
        }

    def _claim(self):
        """Takes the next number for this process alone: making a folder succeeds only once."""
        (self.out / REPORTS).mkdir(exist_ok=True)
        version = 1 + max(self._versions(), default=0)
        while True:
            try:
                (self.out / REPORTS / str(version)).mkdir()
                return version
            except FileExistsError:
                version += 1

    def _versions(self):
        for name in (REPORTS, *FOLDERS.values()):
            folder = self.out / name
            names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
            yield from (int(name) for name in names if name.isdecimal())

    @property
    def report_dir(self) -> Path:
        """Where the report of this version lies."""
        return self.out / REPORTS / str(self.version)

    def staged(self, export_format: str) -> Path:
        """Returns the folder in which the files of a format are made."""
        return self._staging / FOLDERS[export_format]

    def published(self, export_format: str) -> Path:
        """Returns the folder in which a format's files are found in the end."""
        return self.out / FOLDERS[export_format] / str(self.version)

    def finished(self, export_format: str) -> list[dict[str, Any]] | None:
        """Returns the rows given to `finish` before a stop; None if the format is to be made."""
        finished = self._finished.get(export_format)
        return finished and finished["rows"]

    def finish(self, export_format: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keeps the staged files of a format over a stop, with `rows` for JSON."""
        sums = _hash_sums(self.staged(export_format))
        self._finished[export_format] = {"sums": sums, "rows": list(rows)}
        content = {"made_from": self._made_from, "formats": self._finished}
        write_atomically(self._staging / _FINISHED, formats.to_json("export", content))

    def publish(self) -> None:
        """Puts everything that was staged in place, one rename a format, with the files' hashes."""
        for export_format in FOLDERS:
            if self.staged(export_format).exists():
                (self.staged(export_format) / SUMS).write_text(_sums(self.staged(export_format)))
        failpoint("before_publication")
        write_atomically(self._staging / _MARK, "")
        _put_in_place(self.out, self._staging, self.version)
        self._held.close()

    def suspend(self) -> None:
        """Keeps the finished formats for the next export that is made from the same."""
        if self._finished and not (self._staging / _MARK).exists():
            self._held.close()
        else:
            self.discard()

    def discard(self) -> None:
        """Deletes what was staged; the version's number stays used if it has a report.

        What is being published is published to its end.
        """
        if (self._staging / _MARK).exists():
            _put_in_place(self.out, self._staging, self.version)
        else:
            _remove(self.out, self._staging, self.version)
        self._held.close()


def _put_in_place(out, staging, version):
    """Renames the folders of the formats that are still there, and removes the staging folder."""
    for folder in FOLDERS.values():
        if (staging / folder).exists():
            (out / folder).mkdir(exist_ok=True)
            os.rename(staging / folder, out / folder / str(version))
            failpoint("in_publication")
    shutil.rmtree(staging)


def _remove(out, staging, version):
    shutil.rmtree(staging, ignore_errors=True)
    with contextlib.suppress(OSError):  # not empty
        (out / REPORTS / str(version)).rmdir()
        (out / REPORTS).rmdir()


def _sums(folder):
    """Returns the hash of every other file of a folder, in the format of coreutils' sha256sum."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / SUMS)
    lines = [f"{hash_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    return "".join(lines)


def _hash_sums(folder):
    return hashlib.sha256(_sums(folder).encode()).hexdigest()
