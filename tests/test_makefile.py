"""`make demo` with a stand-in for Python that records its calls."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECORDER = """#!/bin/sh
for word in "$@"; do printf '%s\\n' "$word" >> {log}; done
printf -- '----\\n' >> {log}
for word in "$@"; do [ "$word" = --list-classes ] && {{ {classes}; }}; done
exit 0
"""


pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def run_make(tmp_path):
    """Runs make; returns (exit code, standard error, one list of words per Python call).

    `classes` is a shell command, in place of the command that lists the classes.
    """
    venv, log, checkout = tmp_path / "venv", tmp_path / "log", tmp_path / "checkout"
    checkout.mkdir()  # `make demo` deletes the samples of an earlier demo
    for name in ("Makefile", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout)
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    (venv / ".installed").touch()

    # `make test` passes its own flags to every make that it starts.
    outer = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}

    def run(*arguments, classes="echo cats; echo dogs", **environment):
        python.write_text(RECORDER.format(log=log, classes=classes))
        python.chmod(0o755)
        answer = subprocess.run(
            ["make", f"VENV={venv}", *arguments],
            cwd=checkout,
            env=outer | environment,
            capture_output=True,
            text=True,
        )
        calls = log.read_text().split("----\n")[:-1] if log.exists() else []
        return answer.returncode, answer.stderr, [call.splitlines() for call in calls]

    return run


def test_demo_without_data_uses_the_emoji(run_make):
    code, error, calls = run_make("demo", "DATA=")
    assert code == 0, error
    assert [call[1] for call in calls] == [
        "vim_tf.train",
        "vim_tf.train",
        "vim_tf.generate",
        "vim_tf.generate",
    ]
    assert calls[0][2:] == [
        *("--config", "configs/emoji/vit_vqgan.yaml", "--workdir", "runs/demo/vit_vqgan")
    ]
    assert calls[1][2:] == [
        *("--config", "configs/emoji/vim.yaml", "--workdir", "runs/demo/vim"),
        *("--set", "tokenizer.run=runs/demo/vit_vqgan"),
    ]


def test_demo_takes_a_folder_with_a_space_in_the_home_folder(run_make, tmp_path):
    photos = tmp_path / "my $photos: '24'"
    (photos / "cats").mkdir(parents=True)
    code, error, calls = run_make("demo", "DATA=~/my $$photos: '24'/", HOME=str(tmp_path))
    assert code == 0, error
    listing, *calls = calls
    assert listing[1:] == [
        *("vim_tf.train", "--config", "configs/emoji/vim.yaml", "--set", "data.source=folder"),
        *("--set", f"data.path={photos}", "--set", "data.on_error=skip", "--list-classes"),
    ]
    for call in calls[:2]:
        assert f"data.path={photos}" in call
        assert "model.conditional=false" not in call
    assert f"runs/demo-{photos.name}/vim" in calls[1]
    assert f"tokenizer.run=runs/demo-{photos.name}/vit_vqgan" in calls[1]
    assert "--per-class" in calls[3]


def test_demo_without_classes_is_unconditional(run_make, tmp_path):
    photos = tmp_path / "photos"
    (photos / ".hidden").mkdir(parents=True)  # the loader decides what a class is
    code, error, calls = run_make("demo", f"DATA={photos}", classes=":")
    assert code == 0, error
    calls = calls[1:]
    assert "model.conditional=false" not in calls[0]
    assert "model.conditional=false" in calls[1]
    assert not any("--per-class" in call for call in calls)


def test_data_that_cannot_be_read_stop_before_stage_1(run_make, tmp_path):
    code, error, calls = run_make("demo", f"DATA={tmp_path}", classes="echo no images >&2; exit 2")
    assert code == 2
    assert "no images" in error
    assert len(calls) == 1


def test_demo_refuses_a_missing_folder(run_make, tmp_path):
    code, error, calls = run_make("demo", f"DATA={tmp_path}/nowhere")
    assert code == 2
    assert f"error: DATA is {tmp_path}/nowhere; that is no folder" in error
    assert calls == []


def test_an_old_python_is_named(run_make, tmp_path):
    old = tmp_path / "python3.10"
    old.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 1\necho Python 3.10.13\n')
    old.chmod(0o755)
    code, error, _ = run_make("check-python", f"PYTHON={old}")
    assert code == 2
    assert "is Python 3.10.13; vim_tf needs 3.11 to 3.13" in error


def test_judges_get_the_environment_of_their_runtimes(run_make, tmp_path):
    requirements = tmp_path / "checkout" / "tests" / "reference" / "requirements.txt"
    requirements.parent.mkdir(parents=True)
    requirements.touch()
    log, reference = tmp_path / "reference", tmp_path / "venv-reference"
    installer = tmp_path / "python3.11"  # makes an environment whose Python only records its calls
    installer.write_text(
        f"#!/bin/sh\nmkdir -p {reference}/bin\n"
        f"printf '#!/bin/sh\\necho \"$@\" >> {log}\\n' > {reference}/bin/python\n"
        f"chmod +x {reference}/bin/python\n"
    )
    installer.chmod(0o755)
    for _ in range(2):  # the second time it is there
        code, error, calls = run_make("judges", f"REFERENCE_PYTHON={installer}")
        assert code == 0, error
    assert calls[-1] == ["benchmarks/build_judges.py", "--out", "runs/judges"]
    installed = log.read_text().splitlines()
    assert len(installed) == 2
    assert installed[1].endswith("install --quiet -r tests/reference/requirements.txt")
