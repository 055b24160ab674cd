"""Installed files: only the packages listed by name, including the emoji."""

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import vim_tf

ROOT = Path(__file__).parents[1]

needs_sources = pytest.mark.skipif(
    not (ROOT / "vim_tf").is_dir(), reason="outside a checkout there is nothing to build"
)


@pytest.fixture(scope="module")
def setup():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


@needs_sources
def test_every_package_of_the_checkout_is_listed(setup):
    folders = [path.parent for top in ("vim_tf", "export") for path in ROOT.glob(f"{top}/**/*.py")]
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    on_import = {re.sub("^export", "vim_tf.export", name) for name in names}
    assert set(setup["options"]["packages"].split()) == on_import
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


def test_every_requirement_says_why(setup):
    lines = (ROOT / "setup.cfg").read_text().splitlines()
    start = lines.index("install_requires =")
    section = lines[start + 1 : lines.index("", start)]
    bare = [
        line.strip()
        for before, line in zip(["", *section], section, strict=False)
        if not line.strip().startswith("#") and not before.strip().startswith("#")
    ]
    assert not bare


def test_the_version_is_the_same_everywhere(setup):
    assert setup["metadata"]["version"] == "attr: vim_tf.versions.VERSION"
    version = vim_tf.__version__
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert version in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.large
@needs_sources
def test_the_wheel_holds_vim_tf_alone(setup, tmp_path):
    """Built as for a release: first the source distribution, then the wheel from it."""
    source = tmp_path / "source"
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "site", "*.egg-info", "__pycache__")

    def ignored(folder, names):
        at_root = {"runs"} if Path(folder) == ROOT else set()  # vim_tf/runs is a package
        return unwanted(folder, names) | at_root

    shutil.copytree(ROOT, source, ignore=ignored)
    build = [sys.executable, "-m", "build", "--outdir", str(tmp_path / "dist"), str(source)]
    answer = subprocess.run(build, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    [wheel] = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())

    about = f"vim_tf-{vim_tf.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"vim_tf", about}
    modules = {
        re.sub("^export/", "vim_tf/export/", path.relative_to(source).as_posix())
        for top in ("vim_tf", "export")
        for path in source.glob(f"{top}/**/*.py")
    }
    assert {name for name in names if name.endswith(".py")} == modules
    emoji = {
        path.relative_to(source).as_posix()
        for path in (source / "vim_tf/data/sources/emoji").iterdir()
    }
    assert any(name.endswith(".tfrecord") for name in emoji)
    assert any("LICENSE" in name for name in emoji)
    assert emoji <= names
    assert f"{about}/licenses/LICENSE" in names
