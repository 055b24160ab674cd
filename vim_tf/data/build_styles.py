"""Builds the images of `data.source: styles`: emoji that several sets draw, or icons.

    pip install -e '.[styles]'
    python -m vim_tf.data.build_styles --out data/styles --size 64
    python -m vim_tf.data.build_styles --out data/icons --size 32 --sets icons

npm fetches the packages, or --package gives their archives. The same packages give the same bytes.
docs/data.md describes the images, their licences and their splits.
"""

import os
import pathlib
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vim_tf import command_line
from vim_tf.data.styles import concepts, npm, rendering, sets
from vim_tf.errors import UserError
from vim_tf.files import cache_folder

SMALLEST, LARGEST = 8, 256  # pixels
_SHOWN = 10  # failures that are printed
# They name the code points of their emoji.
_NAMING = ("noto", "fluent-emoji-flat", "twemoji")


def build(
    out: pathlib.Path,
    size: int,
    names: Sequence[str],
    given: Iterable[pathlib.Path],
    cache: pathlib.Path,
) -> dict[str, Any]:
    """Builds the data set.

    Args:
        out: a folder that does not exist or is empty. It appears when it is complete.
        size: height and width of the images, in pixels.
        names: see `sets.choose_styles`.
        given: archives or folders of packages; those that are missing are fetched.
        cache: folder for fetched archives.

    Returns:
        The content of styles.json, see `writing.SCHEMA`.

    Raises:
        UserError: an argument is wrong, or a package cannot be fetched or read.
    """
    if not SMALLEST <= size <= LARGEST:
        raise UserError(f"--size is {size}; it must be from {SMALLEST} to {LARGEST}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} exists and is not an empty folder; delete it or give another")
    rendering.import_resvg()
    packages = _open_packages(given)
    drawing_sets, emoji = _read_sets(names, packages, cache)
    for drawn in drawing_sets:
        sys.stdout.write(
            f"{drawn.style}: {drawn.title}, {len(drawn.drawings):,} drawings, {drawn.licence}\n"
        )

    from vim_tf.data.styles import table, writing

    made = table.make_table(drawing_sets, emoji, size)
    if not made.rows:
        raise UserError("none of the drawings renders; choose other --sets")
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.unfinished")
    unfinished.mkdir()
    try:
        about = writing.write(unfinished, made, size, drawing_sets, packages.values())
        os.replace(unfinished, out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return about


def _open_packages(given: Iterable[pathlib.Path]) -> dict[str, npm.Package]:
    packages: dict[str, npm.Package] = {}
    for path in given:
        package = npm.open_package(path)
        if package.name not in npm.VERSIONS:
            raise UserError(
                f"--package {path} is the package {package.name}; "
                f"give {', '.join(sorted(npm.VERSIONS))}"
            )
        if package.name in packages:
            raise UserError(f"--package has {package.name} twice; give it once")
        if package.version != npm.VERSIONS[package.name]:
            sys.stderr.write(
                f"data: {package.name} is version {package.version}; the counts of docs/data.md "
                f"are those of {npm.VERSIONS[package.name]}\n"
            )
        packages[package.name] = package
    return packages


def _complete(packages: dict[str, npm.Package], name: str, cache: pathlib.Path) -> npm.Package:
    """Returns the package `name`, which is fetched and added to `packages` if it is missing."""
    if name not in packages:
        archive = npm.fetch(name, cache)
        package = npm.open_package(archive)
        if (package.name, package.version) != (name, npm.VERSIONS[name]):
            raise UserError(
                f"{archive} is {package.name} {package.version}, not {name} {npm.VERSIONS[name]}; "
                "delete it"
            )
        packages[name] = package
    return packages[name]


def _read_sets(
    names: Sequence[str], packages: dict[str, npm.Package], cache: pathlib.Path
) -> tuple[list[sets.DrawingSet], concepts.Emoji | None]:
    icons = _complete(packages, npm.ICONS, cache)
    collections = npm.read_json(icons, "collections.json", sets.COLLECTIONS_SCHEMA)
    styles = sets.choose_styles(names, collections)
    has_emoji = any(style in sets.EMOJI for style in styles)
    naming = [style for style in _NAMING if has_emoji and style in collections]
    brands = [style for style in sets.BRANDS if style in collections]
    wanted = sorted({*styles, *naming, *brands} - {sets.FLUENT_3D})
    files = npm.read_jsons(icons, [f"json/{style}.json" for style in wanted], sets.SET_SCHEMA)
    contents = dict(zip(wanted, files.values(), strict=True))
    names_of_brands = {name for style in brands for name in contents[style]["icons"]}
    drawing_sets = []
    for style in styles:
        if style == sets.FLUENT_3D:
            images = _complete(packages, npm.FLUENT_3D, cache).read(sets.is_fluent_3d)
            drawing_sets.append(sets.make_fluent_3d(images))
        else:
            given = contents[style], collections[style], names_of_brands
            drawing_sets.append(sets.read_icon_set(style, *given))
    if not has_emoji:
        return drawing_sets, None
    package = _complete(packages, npm.ANNOTATIONS, cache)
    words = npm.read_json(package, "annotations/en/annotations.json", concepts.ANNOTATIONS_SCHEMA)
    named = [contents[style] for style in naming]
    return drawing_sets, concepts.Emoji(named, words["annotations"]["annotations"])


def _report(about: Mapping[str, Any], out: pathlib.Path) -> None:
    for failure in about["failures"][:_SHOWN]:
        sys.stderr.write(f"left out: {failure}\n")
    if len(about["failures"]) > _SHOWN:
        rest = len(about["failures"]) - _SHOWN
        sys.stderr.write(f"left out: {rest:,} more, see {out}/styles.json\n")
    for drawn in about["sets"]:
        reasons = [f"{count:,} {reason}" for reason, count in drawn["left_out"].items() if count]
        more = f"; left out: {', '.join(reasons)}" if reasons else ""
        sys.stdout.write(f"{drawn['style']}: {drawn['images']:,} images{more}\n")
    counts = ", ".join(f"{count:,} {split}" for split, count in about["images"].items())
    total = sum(about["images"].values())
    sys.stdout.write(
        f"{out}: {total:,} images of {about['concepts']:,} concepts in "
        f"{len(about['classes']['style'])} styles ({counts})\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = command_line.Parser(
        prog="python -m vim_tf.data.build_styles",
        description="Builds the images of data.source: styles.",
    )
    parser.add_argument("--out", required=True, type=pathlib.Path, help="a new folder")
    parser.add_argument("--size", type=int, default=64, help="height and width (default 64)")
    parser.add_argument(
        "--sets",
        nargs="+",
        default=["default"],
        metavar="SET",
        help="names of sets; default: six sets of emoji under MIT and Apache-2.0; icons: all sets "
        "of icons under MIT, Apache-2.0, CC0 and ISC",
    )
    parser.add_argument(
        "--package",
        nargs="+",
        action="extend",
        default=[],
        type=pathlib.Path,
        metavar="FILE_OR_FOLDER",
        help="an archive of npm pack, or the folder it unpacks to; others are fetched",
    )
    parser.add_argument(
        "--cache",
        type=pathlib.Path,
        default=cache_folder("npm"),
        help="folder for fetched archives",
    )
    options = parser.parse_args(arguments)
    out = options.out.expanduser()
    command_line.run(
        lambda: _report(build(out, options.size, options.sets, options.package, options.cache), out)
    )


if __name__ == "__main__":
    main()
