"""The one exception for mistakes a user can mend."""


class UserError(Exception):
    """A wrong config, wrong data or an unusable path.

    The message names the thing, its value, what is allowed and what to do. Command lines print
    it as `error: <message>` without a traceback and exit with code 2.
    """
