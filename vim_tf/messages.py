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
