"""A kind of case: how it is drawn, what it changes, and what opens the changed files."""

import functools
import shutil
import stat
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import fuzz_mutations as mutations

LONGEST = 2_050  # allowed characters: vim_tf cuts at 2,000, and adds how many there were
ANYTHING, EQUAL = "any answer", "the answer of the unchanged file"


class Kind(NamedTuple):
    """A kind of file or input, and how its cases are tried.

    Attributes:
        name: its name in the report.
        draw: function (folder of the unchanged files, random generator) -> the case, for JSON.
        change: function (`Live`, case), which changes the files.
        open: function (folder of the changed files, case) -> a list of arrays, or None if there is
            nothing to compare.
        answer: `EQUAL` if it must open as before or be refused; `ANYTHING` if a stranger made it.
        tensorflow: whether opening needs TensorFlow.
        writes: files and folders that opening may change.
    """

    name: str
    draw: Callable[[Path, Any], Any]
    change: Callable[["Live", Any], None]
    open: Callable[[Path, Any], list[Any] | None]
    answer: str = ANYTHING
    tensorflow: bool = False
    writes: tuple[str, ...] = ()


class Wrong(Exception):
    """A case failed.

    Args:
        what: the failure in short, the same for cases with one cause.
        detail: everything else.
    """

    def __init__(self, what: str, detail: str = "") -> None:
        super().__init__(what)
        self.what, self.detail = what, detail


class Live:
    """A copy of the world that cases may change, and that is put right again after each.

    Args:
        world: the folder of `fuzz_world.make_world`.
        folder: a new folder for the copy.
    """

    def __init__(self, world: Path, folder: Path) -> None:
        self.kept, self.folder = folder / "kept", folder / "live"
        shutil.copytree(world, self.kept)
        for path in self.kept.rglob("*.yaml"):
            path.write_text(path.read_text().replace(str(world), str(self.folder)))
        shutil.copytree(self.kept, self.folder)
        self._touched: set[str] = set()

    def read(self, name: str) -> bytes:
        """The bytes of an unchanged file."""
        return (self.kept / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Changes a file."""
        self._touched.add(name)
        (self.folder / name).write_bytes(data)

    def touch(self, name: str) -> Path:
        """Returns the path of a file or folder that the caller changes."""
        self._touched.add(name)
        return self.folder / name

    def restore(self) -> None:
        """Puts everything right that was changed, times too."""
        for name in sorted(self._touched):
            if any(str(above) in self._touched for above in Path(name).parents):
                continue  # comes with the folder
            changed, kept = self.folder / name, self.kept / name
            remove(changed)
            if kept.is_dir():
                shutil.copytree(kept, changed)
            elif kept.exists():
                shutil.copy2(kept, changed)
        self._touched.clear()


def remove(path: Path) -> None:
    """Removes a file, link or folder, also one that may not be read."""
    if path.is_dir() and not path.is_symlink():
        path.chmod(stat.S_IRWXU)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# Common ways of changing ----------------------------------------------------------------------


def damaged(name, path, open_it, **options):
    """The `Kind` of a file of which some bytes are changed."""

    def draw(world, rng):
        return mutations.draw_edits(read_once(world / path), rng)

    def change(live, edits):
        live.write(path, mutations.apply_edits(live.read(path), edits))

    return Kind(name, draw, change, open_it, **options)


def resealed(name, path, kind, open_it, **options):
    """The `Kind` of a JSON document of `formats` with changed values and a right checksum."""

    def draw(world, rng):
        return mutations.draw_changes(read_document(world / path, kind), rng)

    def change(live, changes):
        from vim_tf import formats

        changed = mutations.apply_changes(read_document(live.kept / path, kind), changes)
        live.write(path, formats.to_json(kind, changed).encode())

    return Kind(name, draw, change, open_it, **options)


def archived(name, path, open_it, **options):
    """The `Kind` of a zip archive of which one member is changed and packed again."""

    def draw(world, rng):
        members = members_once(world / path)
        member = rng.choice(sorted(members))
        return [member, mutations.draw_edits(members[member], rng)]

    def change(live, case):
        live.write(path, mutations.edit_member(live.read(path), *case))

    return Kind(name, draw, change, open_it, **options)


@functools.cache
def read_once(path):
    """The bytes of an unchanged file."""
    return path.read_bytes()


@functools.cache
def members_once(path):
    """The members of an unchanged zip archive."""
    return mutations.members_of(read_once(path))


@functools.cache
def read_document(path, kind):
    """The content of an unchanged JSON document."""
    from vim_tf import formats

    return formats.read_json(path, kind, "")


def in_text(text):
    """Bytes for a text that may have lone surrogates."""
    return text.encode(errors="surrogatepass")


# Trying a case --------------------------------------------------------------------------------


def try_case(kind, case, live, expected):
    """Tries a case.

    Args:
        kind: a `Kind`.
        case: of `kind.draw`.
        live: a `Live`.
        expected: the answer of the unchanged files, where the kind needs it.

    Returns:
        "refused", "opened" or "the same".

    Raises:
        Wrong: the case failed.
    """
    from vim_tf.command_line import _as_user_error
    from vim_tf.errors import UserError

    try:
        for name in kind.writes:
            live.touch(name)
        kind.change(live, case)
        found = kind.open(live.folder, case)
    except UserError as error:
        check_message(str(error), place_of(error))
        return "refused"
    except Wrong:
        raise
    except Exception as error:
        mistake = None if ran_out_of_memory(error) else _as_user_error(error)
        if mistake is not None:
            check_message(str(mistake), place_of(error))
            return "refused"
        trace = "".join(traceback.format_exception(error)[-14:])
        raise Wrong(f"{type(error).__name__} at {place_of(error)}", trace) from None
    finally:
        live.restore()
    if kind.answer == ANYTHING or found is None:
        return "opened"
    compare(found, expected)
    return "the same"


def check_message(text, where="?"):
    """Raises Wrong unless a message is one line, without control codes and not too long."""
    if len(text) > LONGEST:
        detail = f"{len(text):,} characters: {text[:500]!r}"
        raise Wrong(f"a message that is too long, of {where}", detail)
    if not text.isprintable():
        raise Wrong(f"a message with control codes or lines, of {where}", repr(text[:500]))


def compare(found, expected):
    """Raises Wrong unless two answers, lists of arrays, are equal bit for bit."""
    import numpy as np

    for number, pair in enumerate(zip(found, expected, strict=False)):  # some open only a part
        if not np.array_equal(*pair):
            raise Wrong("another answer, and not a word", f"array {number}")


def ran_out_of_memory(error):
    """Whether more memory was asked for than there is; a size must be checked before."""
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"


def place_of(error):
    """Returns FILE:FUNCTION of vim_tf, the innermost, in which an exception was raised."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = [f for f in frames if f.f_globals.get("__name__", "").startswith("vim_tf")]
    if not ours:
        return "?"
    return f"{ours[-1].f_globals['__name__']}:{ours[-1].f_code.co_name}"
