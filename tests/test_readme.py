"""The snippets of README.md run unchanged, one after the other."""

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.large
def test_python_snippets_run(tmp_path, monkeypatch, tiny_runs):
    text = (ROOT / "README.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) >= 2
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    # The run of the command lines before the snippets. It has two classes instead of the emoji's.
    shutil.copytree(tiny_runs["vim"], tmp_path / "runs" / "vim")
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in snippets:
        snippet = snippet.replace("labels=[3, 7]", "labels=[0, 1]").replace("top_k=200", "top_k=8")
        exec(compile(snippet, "README.md", "exec"), names)
    assert names["images"].shape == (2, 16, 16, 3)
    assert names["tokens"].shape == (4, 64)
    assert names["reconstructions"].shape == (4, 32, 32, 3)


def test_every_file_it_names_exists():
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(((?!http|#)[^)]+)\)", text)
    configs = re.findall(r"--config (\S+)", text)
    assert links
    for name in links + configs:
        assert (ROOT / name).exists(), name


def test_it_installs_the_clone_in_place():
    # In a clone's root, Python finds the clone's vim_tf first. Only an editable install finds
    # export/.
    commands = re.findall(r"^pip install .*", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 2 and all(" -e " in command for command in commands)


def test_nothing_is_installed_that_no_index_has_and_nothing_is_served_to_the_network():
    """vim-tf is on no index; `python -m http.server` alone binds all interfaces."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "export").rglob("*.html")]
    sources = [path for name in ("vim_tf", "export") for path in (ROOT / name).rglob("*.py")]
    for path in (*pages, *sources):
        text = path.read_text()
        assert not re.search(r"pip install '?vim[-_]tf", text), path
        for command in re.findall(r".*http\.server.*", text):
            assert "--bind 127.0.0.1" in command, path


def test_the_export_it_names_needs_only_what_it_installs():
    text = (ROOT / "README.md").read_text()
    assert "pip install -e '.[export]'" in text
    assert re.findall(r"vim_tf\.export .*--formats (\S+)", text) == ["saved_model,tflite"]
