"""Lists the image files of a folder and of its sub-folders.

No file is opened, so a FIFO or a device cannot block.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from vim_tf.annotations import StrPath
from vim_tf.data import left_out
from vim_tf.data.left_out import LeftOut
from vim_tf.errors import UserError
from vim_tf.messages import shorten

MOST_VISITS = 1_000  # of one folder, by links; nested links would double the visits at each level
_Identity = tuple[int, int]  # device and number of a folder


@dataclass(frozen=True)
class _Visit:
    """A folder to read: its path relative to the root, and the folders that it is in."""

    inside: str
    above: frozenset[_Identity]


def list_images(
    root: StrPath, key: str, endings: tuple[str, ...], on_error: str, omitted: LeftOut
) -> tuple[str, ...]:
    """Returns the sorted paths of image files relative to `root`, with forward slashes.

    Links to files and folders are followed. A link to a folder that it is in is left out.

    Args:
        root: a folder.
        key: its config key or argument, for errors.
        endings: the endings of image files, in lower case.
        on_error: "skip" leaves out sub-folders that cannot be read; "stop" refuses them.
        omitted: gets everything that is left out.

    Raises:
        UserError: there is no such folder, it has no images, or a sub-folder cannot be read.
    """
    root = os.fspath(root)
    shown = shorten(root)
    if not os.path.isdir(root):
        kind = "is a file" if os.path.lexists(root) else "does not exist"
        raise UserError(f"{key} is {shown}, which {kind}; give a folder of images")
    found, classes = [], {}
    for name, inside in _walk(root, key, on_error, omitted):
        if inside is None:
            classes.setdefault(name, 0)
            continue
        place = os.path.join(root, inside, name)
        if not name.lower().endswith(endings):
            ending = os.path.splitext(name)[1]
            omitted.add(left_out.OTHER, place, f"the ending {ending or '(none)'} is not read")
            continue
        found.append(f"{inside}/{name}" if inside else name)
        if inside:
            classes[inside.split("/", 1)[0]] = 1
    for name, used in sorted(classes.items()):
        if not used and found:
            omitted.add(left_out.EMPTY, os.path.join(root, name), "no image is in this folder")
    if not found:
        there = f"; in it are {omitted.describe()}" if len(omitted) else ""
        raise UserError(
            f"{key} is {shown}, and no images are in it; files ending in {', '.join(endings)} are "
            f"read{there}"
        )
    return tuple(sorted(found))


def _walk(root: str, key: str, on_error: str, omitted: LeftOut) -> Iterator[tuple[str, str | None]]:
    """Yields (name, folder) of regular files, and (name, None) of each sub-folder of the root."""
    visits: Counter[_Identity] = Counter()
    waiting = [_Visit("", frozenset())]
    while waiting:
        visit = waiting.pop()
        path = os.path.join(root, visit.inside) if visit.inside else root
        try:
            found = os.stat(path)
            entries = list(os.scandir(path))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            if on_error == "stop" or not visit.inside:
                raise UserError(
                    f"folder {shorten(path)} of {key} cannot be read: {reason}; change its "
                    "permissions or remove it"
                    + (", or set data.on_error: skip" if key.startswith("data.") else "")
                ) from None
            omitted.add(left_out.CLOSED, path, reason)
            continue
        identity = found.st_dev, found.st_ino
        if identity in visit.above:
            omitted.add(left_out.LOOP, path, "a link to a folder that it is in")
            continue
        visits[identity] += 1
        if visits[identity] > MOST_VISITS:
            raise UserError(
                f"folder {shorten(os.path.realpath(path))} is reached by over {MOST_VISITS:,} "
                f"links in {key} {shorten(root)}; remove links to it"
            )
        above = visit.above | {identity}
        if visit.inside and "/" not in visit.inside:
            yield visit.inside, None
        for entry in entries:
            inside = f"{visit.inside}/{entry.name}" if visit.inside else entry.name
            folder = _is_folder(entry)
            if entry.name.startswith("."):
                kind = left_out.HIDDEN_FOLDER if folder else left_out.HIDDEN
                omitted.add(kind, entry.path, "its name starts with a dot")
            elif folder:
                waiting.append(_Visit(inside, above))
            elif _may_be_read(entry):
                yield entry.name, visit.inside
            else:
                omitted.add(left_out.SPECIAL, entry.path, "no regular file: a FIFO or a device")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself, or into a folder that may not be read
        return False


def _may_be_read(entry: os.DirEntry[str]) -> bool:
    """Whether opening a file cannot block; a link to nothing is an image that cannot be read."""
    try:
        return entry.is_file() or stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return True
