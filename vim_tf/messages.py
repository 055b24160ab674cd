"""Shows values from files and command lines in messages: short, without control codes.

A file from a stranger may hold megabytes of text, or control codes for the terminal.
"""

import json

LONGEST_VALUE = 200  # characters of one value
LONGEST_MESSAGE = 2_000  # characters of a whole message


def shorten(text: str, longest: int = LONGEST_VALUE) -> str:
    r"""Returns text that is safe to print: on one line, escaped, and cut if it is long.

    Args:
        text: any text.
        longest: number of characters to show; after longer text its length is added.

    Returns:
        The text, with escapes such as `\x1b` for characters that cannot be printed. For example
        "aaa... (28,000,000 characters)".
    """
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text[:longest]
    )
    if len(text) <= longest and len(shown) <= longest:
        return shown
    return f"{shown[:longest]}... ({len(text):,} characters)"


def show(value: object) -> str:
    """Returns a plain value as JSON, shortened by `shorten`: text in quotes, true, null."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (RecursionError, ValueError):  # nested too deeply, or a number with over 4,300 digits
        text = f"a value of type {type(value).__name__}, too long to show"
    return shorten(text)


def reason_of(error: BaseException) -> str:
    """Returns the most useful line of an error of TensorFlow, Keras or zipfile."""
    text = str(error).replace("\x1b[1m", "").replace("\x1b[0m", "")  # Keras writes bold
    lines = [line.strip() for line in text.splitlines()]
    deepest = [line for line in lines if line.startswith("Exception encountered: ")]
    if deepest:  # Keras puts the reason there, after the configs of all outer layers
        return shorten(deepest[-1].removeprefix("Exception encountered: "))
    # Lines that Keras and TensorFlow put before the reason.
    empty = ("Exception encountered", "Graph execution", "Detected at node", "<stack", "File ")
    lines = [line for line in lines if line and not line.startswith(empty)]
    return shorten(lines[0] if lines else type(error).__name__)
