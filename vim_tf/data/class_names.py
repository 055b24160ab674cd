"""The rules for names and numbers of classes, for all sources."""

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from vim_tf.errors import UserError
from vim_tf.messages import shorten

SHOWN = 5  # names in a line
# Control characters, bytes that are no UTF-8, and separators of lines and paragraphs.
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")


@functools.lru_cache(maxsize=2**16)
def clean(text: str) -> str:
    r"""Returns the name of a class as it is shown, typed and stored everywhere.

    Equal texts in different Unicode normal forms give the same name: an accent is a part of its
    letter (NFC) or a separate character (NFD, for example in file names of macOS). Characters
    that would break a line or change a terminal are written as escapes, such as `\n` and `\x1b`.
    A byte of a file name that is not UTF-8 is written as `\xe9`.
    """
    shown = []
    for character in unicodedata.normalize("NFC", text):
        if unicodedata.category(character) not in _UNPRINTABLE:
            shown.append(character)
        elif "\udc80" <= character <= "\udcff":  # os.fsdecode's code for a byte
            shown.append(f"\\x{ord(character) - 0xDC00:02x}")
        else:
            shown.append(character.encode("unicode_escape").decode())
    return "".join(shown)


def natural_order(names: Iterable[str]) -> tuple[str, ...]:
    """Returns names in natural order: 2 comes before 10, and a2 before a10.

    Each run of digits counts as a number; other characters have the order of their code points.
    """
    return tuple(sorted(names, key=_natural_key))


def _natural_key(name: str) -> tuple[str, str]:
    # The number of digits before the digits makes their order that of the numbers.
    def padded(found: re.Match[str]) -> str:
        digits = found[0].lstrip("0")
        return f"{len(digits):09}{digits}"

    return re.sub("[0-9]+", padded, name), name


def number_labels(found: Iterable[int], what: str) -> np.ndarray:
    """Returns the labels that are classes, in order: class i has the label at place i.

    Every class has an image: labels from 1 become classes from 0, and gaps are closed.

    Args:
        found: the labels of the images, at least one.
        what: the data set's name in an error.

    Returns:
        int64 [classes], sorted.

    Raises:
        UserError: a label is negative, or more than half of the numbers between the first and the
            last label are missing.
    """
    labels = np.unique(np.fromiter(found, np.int64))
    first, last = int(labels[0]), int(labels[-1])
    if first < 0:
        raise UserError(
            f"{what}: the label {first} is negative; labels count from 0 or from 1. Number the "
            "classes again"
        )
    # From 0 or 1: labels 2 and 3 alone are two of three classes.
    span = last - min(first, 1) + 1
    if 2 * len(labels) < span:
        raise UserError(
            f"{what}: its labels are {len(labels):,} different numbers from {first:,} to {last:,}, "
            "so most classes would have no image; number the classes again, from 0 without gaps"
        )
    return labels


def check_labels(labels: np.ndarray, numbers: np.ndarray, what: str, of: str) -> None:
    """Raises UserError if a label of `what` is none of `numbers`, the classes of `of`."""
    unknown = np.setdiff1d(labels, numbers)
    if len(unknown):
        raise UserError(
            f"{what} has the labels {name_some([str(label) for label in unknown.tolist()])}, which "
            f"no image of {of} has; give images of the same classes"
        )


def describe_numbers(labels: np.ndarray, what: str) -> str | None:
    """Returns the line that says how labels became classes; None if they are equal."""
    last = len(labels) - 1
    if labels[-1] == last:
        return None
    if labels[0] == 1 and labels[-1] == last + 1:
        return f"data: labels of {what} count from 1; label 1 is class 0, and so on"
    return (
        f"data: {len(labels):,} different labels of {what}, from {labels[0]:,} to {labels[-1]:,}, "
        f"are classes 0 to {last:,} in their order; numbers without images are no classes"
    )


def describe_thin(
    class_names: Sequence[str], train_labels: np.ndarray, validation_labels: np.ndarray
) -> str | None:
    """Returns the line that names classes of few images; None if there is none.

    Args:
        class_names: names of the classes; () without labels.
        train_labels: [n] integers, of the training images.
        validation_labels: [m] integers, of the validation images.
    """
    classes = len(class_names)
    train, validation = (
        np.bincount(labels, minlength=classes) for labels in (train_labels, validation_labels)
    )
    parts = []
    for words, members in (
        ("no training image", train == 0),
        ("a single training image", train == 1),
        ("no validation image", validation == 0),
    ):
        names = [class_names[label] for label in np.flatnonzero(members[:classes]).tolist()]
        if names:
            verb = "has" if len(names) == 1 else "have"
            parts.append(f"{len(names):,} {verb} {words} ({name_some(names)})")
    return f"data: of {classes:,} classes, {', '.join(parts)}" if parts else None


def name_some(names: Sequence[str]) -> str:
    """Returns the first names, and the number of further ones."""
    shown = ", ".join(shorten(name, 60) for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN:,} more"
