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
