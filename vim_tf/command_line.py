"""Shared by all command lines: options, their checks, one-line errors and exit codes."""

import argparse
import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, get_args

from vim_tf import stopping
from vim_tf.annotations import StrPath
from vim_tf.config import checks
from vim_tf.config.sections import OneProcess
from vim_tf.config.values import TypeForm
from vim_tf.errors import Interrupted, UserError
from vim_tf.files import nearest_existing
from vim_tf.messages import LONGEST_MESSAGE, shorten

EXIT_USER_ERROR = 2
MOVED_IMAGES = "override keys of the run's data if the images have moved: --set data.path=..."
# TensorFlow's classes for the numbers below; etils passes them on.
_TENSORFLOWS = ("PermissionDeniedError", "ResourceExhaustedError", "UnknownError")
_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission is denied",
    errno.EDQUOT: "the disk quota is used up",
    errno.ENAMETOOLONG: "the name is too long",
}


class Parser(argparse.ArgumentParser):
    """A parser whose messages are short and hold no control codes, whatever the arguments are."""

    def error(self, message: str) -> NoReturn:
        """Prints the usage and the message, and exits with code 2."""
        self.print_usage(sys.stderr)
        self.exit(EXIT_USER_ERROR, f"{self.prog}: error: {_one_line(message)}\n")


def quiet_tensorflow() -> None:
    """Hides TensorFlow's start-up notices; call it before TensorFlow is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def add_overrides(
    parser: argparse.ArgumentParser,
    text: str = "override single keys, for example --set data.batch_size=64 seed=1",
) -> None:
    """Adds `--set KEY=VALUE ...`; it may be given more than once. `text` is its help."""
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help=text
    )


def add_other_images(parser: argparse.ArgumentParser) -> None:
    """Adds --other-images, see `trained_run.open_run`."""
    parser.add_argument(
        "--other-images",
        action="store_true",
        help="allow images that the run was not trained on; without it they are refused",
    )


def add_strategy(parser: argparse.ArgumentParser, strategies: TypeForm = OneProcess) -> None:
    """Adds --strategy and --cpu-replicas, the arguments of `strategies.make_strategy`.

    `strategies` is a Literal of the allowed values of --strategy.
    """
    parser.add_argument(
        "--strategy",
        choices=get_args(strategies),
        default="one_device",
        help="mirrored shares the work among all GPUs (default one_device)",
    )
    parser.add_argument(
        "--cpu-replicas",
        type=int,
        default=1,
        metavar="N",
        help="without a GPU, mirrored shares the work among N parts of the CPU (default 1)",
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Adds --seed and the settings of `VIM.generate`; `sampling_settings` reads these settings."""
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default 1)")
    parser.add_argument("--top-k", type=int, default=0, help="0 is off (default)")
    parser.add_argument("--top-p", type=float, default=1.0, help="1 is off (default)")
    parser.add_argument(
        "--guidance-scale", type=float, default=1.0, help="1 is off (default); needs labels"
    )


def sampling_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns {name: value} of temperature, top_k, top_p and guidance_scale."""
    names = ("temperature", "top_k", "top_p", "guidance_scale")
    return {name: getattr(arguments, name) for name in names}


def add_rejection(parser: argparse.ArgumentParser) -> None:
    """Adds --reject and --acceptance, see `generation.rejection`; `check_rejection` checks them."""
    parser.add_argument(
        "--reject",
        metavar="CLASSIFIER",
        help="draw more samples and keep the best of each class, as this classifier says: a run of "
        "experiment classifier, or a .keras file",
    )
    parser.add_argument(
        "--acceptance", type=float, help="share of the samples that --reject keeps, for example 0.5"
    )


def check_rejection(options: Mapping[str, Any]) -> None:
    """Raises UserError unless --reject and --acceptance are given together, and in range."""
    checks.rejection(options["reject"], options["acceptance"])


def add_decoder(parser: argparse.ArgumentParser) -> None:
    """Adds --decoder, for commands that decode a VIM's tokens."""
    parser.add_argument(
        "--decoder",
        metavar="RUN",
        help="folder of a run of experiment decoder for the same tokens, whose decoder makes the "
        "images (default: the tokenizer's own)",
    )


def check_replicas(options: Mapping[str, Any]) -> None:
    """Raises UserError if --cpu-replicas is below 1 or above `checks.MOST_CPU_REPLICAS`."""
    check_positive(options, "cpu_replicas")
    if options["cpu_replicas"] > checks.MOST_CPU_REPLICAS:
        raise UserError(
            f"--cpu-replicas is {options['cpu_replicas']}; at most {checks.MOST_CPU_REPLICAS} is "
            "allowed"
        )


def take_devices(options: dict[str, Any]) -> dict[str, Any]:
    """Removes --strategy and --cpu-replicas from options; returns them for `make_strategy`."""
    return {name: options.pop(name) for name in ("strategy", "cpu_replicas")}


def check_positive(options: Mapping[str, Any], *names: str) -> None:
    """Raises UserError if one of the named options is given and below 1."""
    for name in names:
        checks.at_least_one(**{f"--{name.replace('_', '-')}": options.get(name)})


def split_names(text: str) -> list[str]:
    """Returns the names in "fid, kid" as a list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def check_new_file(path: StrPath, suffix: str, otherwise: str = "") -> Path:
    """Checks the path of `--out` before anything is computed, and returns it.

    Args:
        path: the path.
        suffix: that the file name must have.
        otherwise: what else may be given, for the error.

    Raises:
        UserError: it has another suffix, its folder does not exist, or the file exists.
    """
    path = Path(path)
    if path.suffix.lower() != suffix:
        also = f", {otherwise}" if otherwise else ""
        raise UserError(f"--out is {path}; give a file name that ends in {suffix}{also}")
    if not path.parent.is_dir():
        raise UserError(f"--out is {path}, but the folder {path.parent} does not exist; make it")
    if path.exists():
        raise UserError(f"--out {path} exists; delete it or give another name")
    return path


def check_png_or_folder(text: str) -> tuple[Path, bool]:
    """Returns the path of `--out`, and whether it is a folder for single images.

    Raises:
        UserError: it is neither a new PNG file nor an empty or new folder.
    """
    out = Path(text)
    if out.suffix and not text.endswith("/") and not out.is_dir():
        return check_new_file(out, ".png", "or a folder, such as images/"), False
    return check_new_folder(out), True


def check_new_folder(path: StrPath) -> Path:
    """Returns the folder of `--out`; UserError if it is a file or holds anything."""
    path = Path(path)
    above = nearest_existing(path)
    if not above.is_dir():
        raise UserError(f"--out is {path}, but {above} is a file; give a folder")
    if path.exists() and any(path.iterdir()):
        raise UserError(f"--out {path} is a folder that is not empty; give a new one")
    return path


def check_new_files(folder: StrPath, names: Iterable[str]) -> dict[str, Path]:
    """Returns {name: path} in the folder of `--out`; makes the folder if it does not exist.

    Raises:
        UserError: the folder is a file, or holds a file with one of the names.
    """
    folder = Path(folder)
    paths = {name: folder / name for name in names}
    for path in paths.values():
        if path.exists():
            raise UserError(f"{path} exists; delete it or give another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(
            f"--out is {folder}, which is a file or inside a file; give a folder"
        ) from None
    return paths


def run(main: Callable[[], None], any_backend: bool = False) -> None:
    """Runs `main()`; prints one line on standard error and exits if it raises.

    The exit code is 2 for a user's mistake. For SIGTERM, SIGHUP and Ctrl-C it is 75 if the same
    command goes on from what is finished, and 130 if it starts again; see `stopping`. With the
    environment variable VIM_TF_DEBUG=1 a mistake is raised unchanged, with its traceback.

    Args:
        main: the command.
        any_backend: whether it may run on other backends of Keras than TensorFlow.
    """
    quiet_tensorflow()
    try:
        with stopping.raising():
            if not any_backend:
                _choose_backend()
            main()
    except stopping.Stop as stop:  # its line is written
        sys.exit(stop.exit_code)
    except Interrupted as notice:
        sys.stderr.write(f"{_one_line(notice)}\n")
        sys.exit(stopping.EXIT_GOES_ON)
    except Exception as error:
        mistake = error if isinstance(error, UserError) else _as_user_error(error)
        if mistake is None or os.environ.get("VIM_TF_DEBUG") == "1":
            raise
        sys.stderr.write(f"error: {_one_line(mistake)}\n")
        sys.exit(EXIT_USER_ERROR)


def _choose_backend() -> None:
    """Sets Keras to TensorFlow, whatever ~/.keras/keras.json says; UserError if the user did not.

    The models alone run on other backends, in Python; data, training and export do not.
    """
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise UserError(
            f"KERAS_BACKEND is {shorten(backend)}; the command lines of vim_tf need tensorflow: "
            "unset the variable"
        )


def _as_user_error(error: Exception) -> UserError | None:
    """Turns a library's error into a UserError if a user can fix its cause; otherwise None."""
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        where = f"{error.filename}: " if error.filename else ""
        return UserError(f"{where}{_DISK_ERRORS[error.errno]}; fix this or choose another folder")
    if "tensorflow" in sys.modules:
        from vim_tf.data.images import as_user_error

        mistake = as_user_error(error)
        if mistake is not None:
            return mistake
    first_line = shorten(next(iter(str(error).splitlines()), ""))
    number = _disk_error(error)
    if number is not None:
        return UserError(f"{_DISK_ERRORS[number]} ({first_line})")
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return UserError(
            f"not enough memory{': ' if first_line else ''}{first_line}; lower data.batch_size or "
            "the model's size, or see docs/memory.md"
        )
    bucket = re.search(r"\b(gs|s3)://\S+", str(error))
    if bucket and type(error).__module__.startswith("tensorflow."):
        return UserError(
            f"{shorten(bucket[0])} cannot be reached ({first_line}); check its name, the "
            "network and the credentials"
        )
    return None


def _disk_error(error: Exception) -> int | None:
    """Returns the number of the system's error behind an error of TensorFlow, etils or h5py.

    The text of any error may quote "Permission denied", for example as the name of a class. So the
    text counts only where such a library puts the system's words: TensorFlow and etils at the end
    of the first line, after "; ", and h5py with the number, as "errno = 28".
    """
    if isinstance(error, OSError) and error.errno is not None:
        return None  # the number decided already
    first_line = next(iter(str(error).splitlines()), "")
    module = type(error).__module__.split(".")[0]
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    raised_in = frames[-1].f_globals.get("__name__", "") if frames else ""
    if module in ("tensorflow", "etils") and type(error).__name__ in _TENSORFLOWS:
        for number in _DISK_ERRORS:
            words = re.escape(os.strerror(number))
            if re.search(rf"; {words}( \[Op:\w+\])?$", first_line):
                return number
    # h5py raises OSError and, when it closes a file, RuntimeError.
    if type(error) is OSError or raised_in.split(".")[0] == "h5py":
        found = re.search(r"\berrno = (\d+), error message = '", str(error))
        return int(found[1]) if found and int(found[1]) in _DISK_ERRORS else None
    return None


def _one_line(message: object) -> str:
    return shorten(" ".join(str(message).split()), LONGEST_MESSAGE)
