import errno
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
import tensorflow as tf

from vim_tf import command_line
from vim_tf.errors import Interrupted, UserError


def raising(error):
    def main():
        raise error

    return main


def outcome(main, capsys):
    with pytest.raises(SystemExit) as caught:
        command_line.run(main)
    captured = capsys.readouterr()
    assert captured.out == ""
    return caught.value.code, captured.err


def test_a_users_mistake_is_one_line_and_code_2(capsys):
    code, text = outcome(raising(UserError("seed is\n  x; it must be\ny")), capsys)
    assert code == 2
    assert text == "error: seed is x; it must be y\n"


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "the disk is read-only"),
        (errno.EACCES, "permission is denied"),
        (errno.EDQUOT, "the disk quota is used up"),
    ],
)
def test_a_disk_that_takes_nothing(number, reason, capsys):
    code, text = outcome(raising(OSError(number, "raw text", "/runs/x/config.yaml")), capsys)
    assert code == 2
    assert text.startswith(f"error: /runs/x/config.yaml: {reason}; ")
    assert text.count("\n") == 1


def test_a_disk_that_is_full_for_tensorflow(capsys):
    message = "/runs/x/ckpt-1; No space left on device\n\t[[node]] [Op:SaveV2]"
    error = tf.errors.ResourceExhaustedError(None, None, message)
    code, text = outcome(raising(error), capsys)
    assert code == 2
    assert text.startswith("error: the disk is full (/runs/x/ckpt-1")
    assert text.count("\n") == 1


def test_a_bucket_that_cannot_be_reached(capsys):
    message = (
        "Error executing an HTTP request: libcurl code 6\n\t when reading metadata of gs://b/x"
    )
    error = tf.errors.FailedPreconditionError(None, None, message)
    code, text = outcome(raising(error), capsys)
    assert code == 2
    assert text.startswith("error: gs://b/x cannot be reached (Error executing an HTTP request")
    assert text.count("\n") == 1


def test_a_disk_that_is_full_for_h5py(capsys):
    """Keras saves weights with h5py. Its errors may have no number."""
    error = OSError("Unable to write (errno = 28, error message = 'No space left on device')")
    code, text = outcome(raising(error), capsys)
    assert code == 2
    assert text.startswith("error: the disk is full (Unable to write")


def test_a_damaged_record(capsys):
    error = tf.errors.DataLossError(None, None, "corrupted record at 12\nmore")
    code, text = outcome(raising(error), capsys)
    assert code == 2
    assert "corrupted record at 12" in text


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a mistake of ours"),
        OSError(errno.ENOENT, "No such file or directory", "x"),
        ValueError("label 'Permission denied' is none of ours"),
        RuntimeError("No space left on device"),
        KeyError("gs://bucket/x"),
        # Quotes of the system's words: names of classes, of files, values.
        OSError(errno.ENOENT, "No such file or directory", "Permission denied"),
        OSError("label Permission denied is none of ours"),
        tf.errors.InvalidArgumentError(None, None, "x; Permission denied"),
        tf.errors.PermissionDeniedError(None, None, "class Permission denied is unknown"),
        tf.errors.NotFoundError(None, None, "/x/Permission denied; No such file or directory"),
    ],
)
def test_our_own_mistakes_keep_their_traceback(error):
    with pytest.raises(type(error)) as caught:
        command_line.run(raising(error))
    assert caught.value is error


def test_a_disk_that_is_full_when_h5py_closes_a_file(capsys):
    """h5py raises a RuntimeError then. Here one of its own functions raises the same."""
    reason = "Can't decrement id ref count (errno = 28, error message = 'No space left on device')"
    code = compile(f"def close(): raise RuntimeError({reason!r})", "h5f.pyx", "exec")
    inside = {"__name__": "h5py.h5f"}
    exec(code, inside)
    code, text = outcome(inside["close"], capsys)
    assert (code, text) == (2, f"error: the disk is full ({reason})\n")


def test_a_full_disk_of_a_library_is_found_by_its_class(capsys):
    class UnknownError(Exception):
        pass

    UnknownError.__module__ = "etils.epath"
    code, text = outcome(raising(UnknownError("x; Permission denied\nmore")), capsys)
    assert (code, text) == (2, "error: permission is denied (x; Permission denied)\n")


def test_what_tensorflow_and_h5py_really_say(capsys):
    def by_tensorflow():
        tf.io.write_file("/dev/full", "x" * 100_000)

    def by_h5py():
        try:
            h5py.File("/dev/full", "w")
        except OSError as error:  # it has a number here, which it has not in every version
            raise OSError(str(error).removeprefix("[Errno 28] ")) from None

    for write in (by_tensorflow, by_h5py):
        code, text = outcome(write, capsys)
        assert code == 2
        assert text.startswith("error: the disk is full (")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "not enough memory; lower "),
        (MemoryError("Unable to allocate 7 GiB"), "not enough memory: Unable to allocate 7 GiB; "),
        (
            tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\n\tmore"),
            "not enough memory: OOM when allocating tensor; ",
        ),
    ],
)
def test_memory_that_does_not_suffice(error, reason, capsys):
    code, text = outcome(raising(error), capsys)
    assert code == 2
    assert text.startswith(f"error: {reason}")
    advice = "lower data.batch_size or the model's size, or see docs/memory.md\n"
    assert text.endswith(advice)
    assert text.count("\n") == 1


def test_memory_that_numpy_does_not_get(capsys):
    code, text = outcome(lambda: np.empty(2**60, np.uint8), capsys)
    assert code == 2
    assert text.startswith("error: not enough memory: Unable to allocate 1.00 EiB")


@pytest.mark.parametrize("error", [UserError("seed is x"), MemoryError("7 GiB")])
def test_a_mistake_keeps_its_traceback_for_those_who_ask(error, monkeypatch):
    monkeypatch.setenv("VIM_TF_DEBUG", "1")
    with pytest.raises(type(error)) as caught:
        command_line.run(raising(error))
    assert caught.value is error


@pytest.mark.parametrize(("kind", "code"), [(UserError, 2), (Interrupted, 75)])
def test_no_message_is_endless_or_holds_control_codes(kind, code, capsys):
    found, text = outcome(raising(kind("\x1b]0;title\x07 \u202e" + "x" * 28_000_000)), capsys)
    assert found == code
    text = text.removeprefix("error: ")
    assert text.startswith(r"\x1b]0;title\x07 \u202exxx")
    assert text.endswith("x... (28,000,012 characters)\n")
    assert len(text) < 2_100
    assert text[:-1].isprintable()


def test_a_message_of_2000_characters_is_not_cut(capsys):
    _, text = outcome(raising(UserError("x" * 2_000)), capsys)
    assert text == f"error: {'x' * 2_000}\n"


def test_nothing_is_said_when_all_is_well(capsys):
    command_line.run(lambda: None)
    assert capsys.readouterr().err == ""


# Keras' backend -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jax", "torch", "nonsense"])
def test_another_backend_is_refused(name, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", name)
    code, text = outcome(lambda: None, capsys)
    message = f"error: KERAS_BACKEND is {name}; the command lines of vim_tf need tensorflow: unset "
    assert (code, text) == (2, f"{message}the variable\n")


def test_the_backend_is_tensorflow_whatever_kerass_file_says(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    code = (
        "from vim_tf import command_line\n"
        "def main():\n import keras\n print(keras.backend.backend())\n"
        "command_line.run(main)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    environment |= {"KERAS_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout == b"tensorflow\n"


# Files of a folder ------------------------------------------------------------------------------


def test_new_files_lie_in_a_folder_that_is_made(tmp_path):
    folder = tmp_path / "a" / "b"
    paths = command_line.check_new_files(folder, ["x.png", "y.json"])
    assert paths == {"x.png": folder / "x.png", "y.json": folder / "y.json"}
    assert folder.is_dir()
    (folder / "other.png").write_text("")
    assert command_line.check_new_files(folder, ["x.png"])


def test_a_file_that_exists_is_refused_by_name(tmp_path):
    (tmp_path / "y.json").write_text("mine")
    with pytest.raises(UserError, match=r"y\.json exists; delete it or give another --out"):
        command_line.check_new_files(tmp_path, ["x.png", "y.json"])


@pytest.mark.parametrize("below", ["", "deeper", "deeper/still"])
def test_a_file_is_no_folder(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="which is a file or inside a file; give a folder"):
        command_line.check_new_files(tmp_path / "file" / below, ["x.png"])
