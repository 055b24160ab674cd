"""Run folders in which files are missing, of the wrong kind, linked, or too many."""

import functools
import os

import fuzz_mutations as mutations
from fuzz_kinds import Kind

NAMES = (
    *("step_00000030 (copy)", "step_00000099", "step_99999999999999999999", ".hidden", "nul\nl"),
    *("preset.new", "preset.old", "preset_best", "lock", "images", "é", "\x1b[31mred", "x" * 200),
)
RUN = ("vim", "vit_vqgan")


@functools.cache
def entries(world, tops):
    """All files and folders below some folders, as relative paths."""
    found = [top for top in tops]
    for top in tops:
        found += [path.relative_to(world).as_posix() for path in (world / top).rglob("*")]
    return sorted(found)


def drawer(tops):
    """The function that draws changes of the trees below some folders."""

    def draw(world, rng):
        places = entries(world, tops)
        changes = []
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            place, kind = rng.choice(places), rng.choice(sorted(_CHANGES))
            more = {"link": [rng.choice([*places, "nowhere"])], "add": [rng.choice(NAMES)]}
            if kind == "write":
                more["write"] = [
                    rng.choice(["", "\0", "{}", "[" * 5000, "step", "NaN\n", "process"])
                ]
            changes.append([kind, place, *more.get(kind, [])])
        return changes

    return draw


def change_tree(live, changes):
    """Changes the tree; a change that cannot be made any more is left out."""
    for kind, place, *rest in changes:
        live.touch(place.split("/")[0])
        path = live.folder / place
        try:
            _CHANGES[kind](live, path, *rest)
        except OSError:
            continue


def _remove(live, path):
    from fuzz_kinds import remove

    remove(path)


def _instead(make):
    def change(live, path, *rest):
        _remove(live, path)
        make(live, path, *rest)

    return change


def _add(live, path, name):
    folder = path if path.is_dir() else path.parent
    if name.endswith(")") or name.startswith("step"):
        (folder / name).mkdir()
        (folder / name / "manifest.json").write_text("{}")
    else:
        (folder / name).write_text("x")


_CHANGES = {
    "remove": _remove,
    "folder": _instead(lambda live, path: path.mkdir()),
    "pipe": _instead(lambda live, path: os.mkfifo(path)),
    "link": _instead(lambda live, path, to: path.symlink_to(live.folder / to)),
    "loop": _instead(lambda live, path: path.symlink_to(path)),
    "write": _instead(lambda live, path, text: path.write_text(text)),
    "empty": _instead(lambda live, path: path.write_bytes(b"")),
    "cut": _instead(lambda live, path: path.write_bytes(_half(live, path))),
    "add": _add,
}


def _half(live, path):
    data = live.read(path.relative_to(live.folder).as_posix())
    return mutations.apply_edits(data, [["cut", len(data) // 2]])


def open_run_folder(live, case):
    import fuzz_targets

    return fuzz_targets.open_everything(live, [""])


def open_checkpoints(live, case):
    import fuzz_targets

    fuzz_targets.open_checkpoint(live)
    fuzz_targets.open_best(live)


TF = {"tensorflow": True}
TREES = [
    Kind("run folder", drawer(RUN), change_tree, open_run_folder, **TF),
    Kind(
        "checkpoint folder",
        drawer(("checkpoints",)),
        change_tree,
        open_checkpoints,
        writes=("checkpoints",),
        **TF,
    ),
]
