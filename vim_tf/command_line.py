"""What all command lines share: one line and exit code 2 for a mistake, and quiet TensorFlow."""

import errno
import os
import sys

from vim_tf.errors import UserError

EXIT_USER_ERROR = 2
_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission is denied",
    errno.EDQUOT: "the disk quota is used up",
}


def quiet_tensorflow():
    """Keeps TensorFlow's start-up notices off the terminal; call before it is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def run(main):
    """Runs `main()` and exits: 0, or 2 with one line on standard error for a user's mistake."""
    quiet_tensorflow()
    try:
        main()
    except UserError as error:
        _stop(str(error))
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
    return mistake


def _stop(message):
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.exit(EXIT_USER_ERROR)
