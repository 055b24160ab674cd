"""What all command lines share: one line and exit code 2 for a mistake, and quiet TensorFlow."""

import errno
import os
import re
import sys
from pathlib import Path
from typing import get_args

from vim_tf.config import OneProcess
from vim_tf.errors import Interrupted, UserError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again
MOVED_PICTURES = "keys of the run's data, if the pictures have moved: --set data.path=..."
_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission is denied",
    errno.EDQUOT: "the disk quota is used up",
}


def quiet_tensorflow():
    """Keeps TensorFlow's start-up notices off the terminal; call before it is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def add_overrides(parser, text="override single keys, for example --set data.batch_size=64 seed=1"):
    """Adds `--set KEY=VALUE ...`, which may be given more than once; `text` is its help."""
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help=text
    )


def add_strategy(parser, strategies=OneProcess):
    """Adds --strategy, one of a Literal, and --cpu-replicas, for `devices.make_strategy`."""
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
        help="without a GPU, mirrored shares it among N parts of the CPU (default 1)",
    )


def add_sampling(parser):
    """Adds --seed and the settings of `VIM.generate`; `sampling_settings` gives the latter back."""
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default 1)")
    parser.add_argument("--top-k", type=int, default=0, help="0 is off (default)")
    parser.add_argument("--top-p", type=float, default=1.0, help="1 is off (default)")
    parser.add_argument(
        "--guidance-scale", type=float, default=1.0, help="1 is off (default); needs labels"
    )


def sampling_settings(arguments):
    """Returns temperature, top_k, top_p and guidance_scale of parsed arguments, as a dict."""
    names = ("temperature", "top_k", "top_p", "guidance_scale")
    return {name: getattr(arguments, name) for name in names}


def add_rejection(parser):
    """Adds --reject and --acceptance, see `vim_tf.rejection`; `check_rejection` checks them."""
    parser.add_argument(
        "--reject",
        metavar="CLASSIFIER",
        help="draw more samples and keep the best of each class: a run of experiment classifier, "
        "or a .keras file",
    )
    parser.add_argument(
        "--acceptance", type=float, help="share that --reject keeps, for example 0.5"
    )


def check_rejection(arguments):
    """Raises UserError unless --reject and --acceptance are given together, and in range."""
    reject, acceptance = arguments.reject, arguments.acceptance
    if acceptance is not None and not 0 < acceptance <= 1:
        raise UserError(f"--acceptance is {acceptance}; it must be above 0 and at most 1")
    if (reject is None) != (acceptance is None):
        raise UserError(
            "--reject and --acceptance go together: --reject CLASSIFIER --acceptance 0.5"
        )


def check_positive(arguments, *names):
    """Raises UserError for an argument that is given and below 1."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}; it must be 1 or more")


def choose_names(option, text, allowed):
    """Parses an option that names some of `allowed`, separated by commas.

    Returns:
        A list in the order of `allowed`, each once.

    Raises:
        UserError: none is named, or another name is.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in allowed:
            raise UserError(f"{option} has {name}; allowed are {', '.join(allowed)}")
    if not names:
        raise UserError(f"{option} is empty; name some of {', '.join(allowed)}")
    return [name for name in allowed if name in names]


def check_new_file(path, suffix):
    """Returns the path of `--out`, refused before anything is computed.

    Raises:
        UserError: it has another suffix, its folder does not exist, or there is such a file.
    """
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise UserError(f"--out is {path}; give a file name that ends in {suffix}")
    if not path.parent.is_dir():
        raise UserError(f"--out is {path}, but the folder {path.parent} does not exist; make it")
    if path.exists():
        raise UserError(f"--out {path} exists; delete it or give another name")
    return path


def check_new_files(folder, names):
    """Returns {name: path} in the folder of `--out`, which is made if it is not there.

    Raises:
        UserError: it is a file, or holds a file of such a name.
    """
    folder = Path(folder)
    paths = {name: folder / name for name in names}
    for path in paths.values():
        if path.exists():
            raise UserError(f"{path} exists; delete it or give another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--out is {folder}, which is or lies in a file; give a folder") from None
    return paths


def run(main):
    """Runs `main()` and exits: 0; or with one line on standard error 2 for a user's mistake, or 75.

    75 is for a training that was asked to stop and has saved everything.
    """
    quiet_tensorflow()
    try:
        main()
    except UserError as error:
        _stop(str(error))
    except Interrupted as notice:
        sys.stderr.write(f"{notice}\n")
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        mistake = _as_user_error(error)
        if mistake is None:
            raise
        _stop(str(mistake))


def _as_user_error(error):
    """Recognises mistakes that reach us as an error of a library; None for anything else."""
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        where = f"{error.filename}: " if error.filename else ""
        return UserError(f"{where}{_DISK_ERRORS[error.errno]}; free it or choose another folder")
    if "tensorflow" not in sys.modules:
        return None
    from vim_tf.data.images import as_user_error

    mistake = as_user_error(error)
    if mistake is None:  # TensorFlow and h5py put the system's message into theirs
        text = str(error)
        for number, reason in _DISK_ERRORS.items():
            if os.strerror(number) in text:
                return UserError(f"{reason} ({text.splitlines()[0]})")
        bucket = re.search(r"\b(gs|s3)://\S+", text)
        if bucket and type(error).__module__.startswith("tensorflow."):
            return UserError(
                f"{bucket[0]} cannot be reached ({text.splitlines()[0]}); look at its name, the "
                "network and the credentials"
            )
    return mistake


def _stop(message):
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.exit(EXIT_USER_ERROR)
