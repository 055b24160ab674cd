"""The exceptions that command lines turn into one line and an exit code."""


class UserError(ValueError):
    """A wrong config, wrong data or an unusable path.

    The message names the thing, its value, what is allowed and what to do. Command lines print
    it as `error: <message>` without a traceback and exit with code 2.
    """


class DamagedError(UserError):
    """A file that vim_tf wrote was cut short or changed; an older copy may still be usable."""


class Interrupted(Exception):
    """A run was asked to stop and has saved everything; the same command resumes it.

    Command lines print the message and exit with code 75, EX_TEMPFAIL of sysexits.h.
    """
