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
from collections.abc import Callable
from pathlib import Path

from vim_tf.annotations import StrPath
from vim_tf.errors import UserError
from vim_tf.failpoints import failpoint
from vim_tf.files import hash_file, write_atomically
from vim_tf.locks import Held, locked

FOLDERS = {"saved_model": "vim", "tflite": "tflite", "tfjs": "tfjs"}
REPORTS = "reports"
SUMS = "SHA256SUMS"
_STAGING = ".staging-"
_LOCK, _MARK = "lock", "publish"  # in the staging folder: its process lives; all limits hold


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

    What an export that was killed has left is removed, unless it was being published: then the rest
    is published.

    Args:
        out: the folder; made if need be.
        say: called with each line for the user.

    Raises:
        UserError: it cannot be written to, or holds something else.
    """

    def __init__(self, out: StrPath, say: Callable[[str], object] = lambda line: None) -> None:
        check_target(out)
        self.out = Path(out)
        self._held = contextlib.ExitStack()
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            for staging in sorted(self.out.glob(f"{_STAGING}*")):
                if staging.is_dir() and staging.name.removeprefix(_STAGING).isdecimal():
                    self._clean_up(staging, say)
            while not self._stage():
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
        with contextlib.suppress(Held, FileNotFoundError), locked(staging / _LOCK):
            if (staging / _MARK).exists():
                say(f"version {version} was being published when its export ended; now it is")
                _put_in_place(self.out, staging, version)
                return
            say(f"an export that did not end has left {staging}; it is removed")
            # It may say that all limits hold, of files that nobody has.
            shutil.rmtree(self.out / REPORTS / str(version), ignore_errors=True)
            _remove(self.out, staging, version)

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

    def publish(self) -> None:
        """Puts everything that was staged in place, one rename a format, with the files' hashes."""
        for export_format in FOLDERS:
            if self.staged(export_format).exists():
                _write_sums(self.staged(export_format))
        failpoint("before_publication")
        write_atomically(self._staging / _MARK, "")
        _put_in_place(self.out, self._staging, self.version)
        self._held.close()

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


def _write_sums(folder):
    """Writes the hash of every file of a folder, in the format of coreutils' sha256sum."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{hash_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    (folder / SUMS).write_text("".join(lines))
