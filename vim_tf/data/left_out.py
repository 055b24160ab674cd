"""What a data set does not use, and why: counts for a line, and all names for a file of the run."""

import os
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from etils import epath

from vim_tf.annotations import StrPath
from vim_tf.files import write_atomically
from vim_tf.messages import shorten


class Kind(NamedTuple):
    """A kind of what is left out, in the words for one and for several."""

    one: str
    many: str


BROKEN = Kind("damaged or unreadable file", "damaged or unreadable files")
CLOSED = Kind("folder that cannot be read", "folders that cannot be read")
SMALL = Kind("image below data.min_side", "images below data.min_side")
LONG = Kind("image above data.max_aspect", "images above data.max_aspect")
SPECIAL = Kind("FIFO, socket or device", "FIFOs, sockets and devices")
OTHER = Kind("file of another kind", "files of other kinds")
HIDDEN = Kind("hidden file", "hidden files")
HIDDEN_FOLDER = Kind("hidden folder", "hidden folders")
LOOP = Kind("link to a folder that it is in", "links to folders that they are in")
EMPTY = Kind("class folder without images", "class folders without images")
_KINDS = (BROKEN, CLOSED, SMALL, LONG, SPECIAL, OTHER, HIDDEN, HIDDEN_FOLDER, LOOP, EMPTY)
FILE = "left_out.tsv"  # in a run
_SHOWN_ENDINGS = 5
_LONGEST_ENDING = 12  # characters; more is rather a part of the name
_LONGEST_NAME = 60  # characters of a name in the line


class LeftOut:
    """The files and folders of a data set that are not used, each with its reason."""

    def __init__(self) -> None:
        self._entries: dict[Kind, list[tuple[str, str]]] = {kind: [] for kind in _KINDS}
        self._endings: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._entries.values()))

    def add(self, kind: Kind, path: str, reason: str) -> None:
        """Notes a file or folder.

        Args:
            kind: one of the kinds of this module.
            path: the file or folder.
            reason: words for the file of names.
        """
        self._entries[kind].append((path, reason))
        if kind == OTHER:
            ending = os.path.splitext(path)[1].lower()
            self._endings["no ending" if ending in ("", ".") else ending] += 1

    def add_lost_folders(self, root: str, names: Iterable[str]) -> None:
        """Notes sub-folders of the first level of which no image is left.

        Args:
            root: the folder.
            names: paths of the images that are left, relative to the root.
        """
        used, lost = {name.split("/")[0] for name in names if "/" in name}, set()
        for path, _ in self.entries(BROKEN, SMALL, LONG):
            top, *inside = os.path.relpath(path, root).split("/")
            if inside and top != ".." and top not in used:
                lost.add(top)
        for top in lost:
            self.add(EMPTY, os.path.join(root, top), "none of its images can be used")

    def entries(self, *kinds: Kind) -> tuple[tuple[str, str], ...]:
        """Returns (path, reason) of everything of some kinds; of all kinds if none is given."""
        return tuple(entry for kind in kinds or _KINDS for entry in sorted(self._entries[kind]))

    def describe(self) -> str:
        """Returns the counts by kind and by ending, as one short text."""
        parts = []
        for kind, entries in self._entries.items():
            if not entries:
                continue
            more = self._describe_endings() if kind == OTHER else ""
            if kind in (BROKEN, CLOSED, EMPTY):
                path, reason = min(entries)
                name = shorten(os.path.basename(path), _LONGEST_NAME)
                more = f" ({'' if len(entries) == 1 else 'the first, '}{name}: {shorten(reason)})"
            words = kind.one if len(entries) == 1 else kind.many
            parts.append(f"{len(entries):,} {words}{more}")
        return ", ".join(parts)

    def line(self) -> str | None:
        """Returns the line for the start of a run; None if nothing was left out."""
        return f"data: {len(self):,} left out: {self.describe()}" if len(self) else None

    def save(self, folder: StrPath) -> epath.Path | None:
        r"""Writes all paths and reasons into `left_out.tsv` of a run.

        The file has a row for each path, with a head. In a name, `\\` is a backslash; characters
        that cannot be printed are written as escapes such as `\n` and `\udcff`, a byte that is not
        UTF-8. If nothing was left out, there is no file.

        Args:
            folder: the run's folder.

        Returns:
            The path of the file; None if nothing was left out.
        """
        path = epath.Path(folder) / FILE
        if not len(self):
            path.unlink(missing_ok=True)
            return None
        rows = (f"{_escape(name)}\t{_escape(reason)}\n" for name, reason in self.entries())
        write_atomically(path, "path\treason\n" + "".join(rows))
        return path

    def _describe_endings(self) -> str:
        order = sorted(self._endings.items(), key=lambda item: (-item[1], item[0]))
        common = order[:_SHOWN_ENDINGS]
        shown = [f"{shorten(ending, _LONGEST_ENDING)} {count:,}" for ending, count in common]
        if len(self._endings) > len(common):
            more = len(self._endings) - len(common)
            shown.append(f"{more:,} more ending{'s' if more > 1 else ''}")
        return f" ({', '.join(shown)})"


def _escape(text: str) -> str:
    text = text.replace("\\", "\\\\")
    return text if text.isprintable() else shorten(text, 10 * len(text))
