"""How values from files and command lines are shown in messages: short, without control codes.

A file from a stranger may hold megabytes of text, or codes that a terminal obeys.
"""

import json

LONGEST_VALUE = 200  # characters of one value
LONGEST_MESSAGE = 2_000  # characters of a whole message


def shorten(text, longest=LONGEST_VALUE):
    r"""Returns text that is safe to print: on one line, escaped, and cut where it is long.

    Args:
        text: any text.
        longest: characters that are shown; of longer text the length is added.

    Returns:
        The text, in which `\x1b` or `\u202e` stand for characters that cannot be printed. For
        example "aaa... (28,000,000 characters)".
    """
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text[:longest]
    )
    if len(text) <= longest and len(shown) <= longest:
        return shown
    return f"{shown[:longest]}... ({len(text):,} characters)"


def show(value):
    """Returns a plain value as JSON writes it, by `shorten`: text in quotes, true, null."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (RecursionError, ValueError):  # nested too deeply, or a number of 4,300 digits
        text = f"a value of type {type(value).__name__}, too long to show"
    return shorten(text)


def reason_of(error):
    """Returns the one line that says most of what TensorFlow, Keras or zipfile raised."""
    text = str(error).replace("\x1b[1m", "").replace("\x1b[0m", "")  # Keras writes bold
    lines = [line.strip() for line in text.splitlines()]
    deepest = [line for line in lines if line.startswith("Exception encountered: ")]
    if deepest:  # where Keras puts the reason behind the config of each layer around it
        return shorten(deepest[-1].removeprefix("Exception encountered: "))
    # What Keras and TensorFlow put before it.
    empty = ("Exception encountered", "Graph execution", "Detected at node", "<stack", "File ")
    lines = [line for line in lines if line and not line.startswith(empty)]
    return shorten(lines[0] if lines else type(error).__name__)
