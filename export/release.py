"""The folder that exports go to: integer versions, whole or not at all, none ever overwritten.

<out>/vim/<version>/      SavedModel; TF Serving takes <out>/vim as the model's base path
<out>/tflite/<version>/   LiteRT files
<out>/tfjs/<version>/     browser decoder and its page
  each with SHA256SUMS, for `sha256sum -c SHA256SUMS`
<out>/reports/<version>/  what was measured, also of an export that was not good enough
<out>/serving/            TF Serving's configuration and a client
"""

import contextlib
import os
import shutil
from pathlib import Path

from vim_tf.annotations import StrPath
from vim_tf.errors import UserError
from vim_tf.files import hash_file

FOLDERS = {"saved_model": "vim", "tflite": "tflite", "tfjs": "tfjs"}
REPORTS = "reports"
SUMS = "SHA256SUMS"


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

    Args:
        out: the folder; made if need be.

    Raises:
        UserError: it cannot be written to, or holds something else.
    """

    def __init__(self, out: StrPath) -> None:
        check_target(out)
        self.out = Path(out)
        try:
            (self.out / REPORTS).mkdir(parents=True, exist_ok=True)
            self.version = self._claim()
            # A dot: TF Serving and web servers look past it until it is renamed.
            self._staging = self.out / f".staging-{self.version}"
            self._staging.mkdir()
        except OSError as error:
            raise UserError(
                f"{out} cannot be written ({error.strerror}); give another folder"
            ) from None

    def _claim(self):
        """Takes the next number for this process alone: making a folder succeeds only once."""
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

    def publish(self) -> None:
        """Puts everything that was staged in place, one rename a format, with the files' hashes."""
        for export_format in FOLDERS:
            if self.staged(export_format).exists():
                _write_sums(self.staged(export_format))
                target = self.published(export_format)
                target.parent.mkdir(exist_ok=True)
                os.rename(self.staged(export_format), target)
        shutil.rmtree(self._staging)

    def discard(self) -> None:
        """Deletes what was staged; the version's number stays used if it has a report."""
        shutil.rmtree(self._staging, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty
            self.report_dir.rmdir()
            self.report_dir.parent.rmdir()


def _write_sums(folder):
    """Writes the hash of every file of a folder, in the format of coreutils' sha256sum."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{hash_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    (folder / SUMS).write_text("".join(lines))
