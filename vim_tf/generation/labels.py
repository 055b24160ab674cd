"""Labels as people give them: class numbers and class names.

One rule holds in Python, on command lines and in the client of a served model:

* An integer is the number of a class, from 0.
* Text is the name of a class, if a class has this name.
* Other text of digits is a number, unless names of classes are such text themselves. With the
  classes 0, 1 and 10, the text `2` is refused: it could mean the third class.
"""

import operator
import re
from collections.abc import Sequence

from vim_tf.errors import UserError
from vim_tf.messages import shorten, show

SHOWN = 20  # classes in an error
# A label, in double quotes or without, and what ends it. Spaces around it do not belong to it.
_LABEL = re.compile(r'\s*(?:"((?:[^"]|"")*)"|(?![\s"])([^,]*?))\s*(,|$)')


def split_labels(text: str) -> list[str]:
    """Splits a list of labels at its commas, as in a CSV file.

    A name with a comma, a quote at its start, or spaces around it stands in double quotes; a double
    quote inside of quotes is doubled: `cats, "dogs, small", "the ""best"" eels"`.

    Args:
        text: labels, separated by commas.

    Returns:
        The labels, without quotes.

    Raises:
        UserError: a quote is not closed, or something follows after it.
    """
    labels, place = [], 0
    while True:
        found = _LABEL.match(text, place)
        if found is None:
            raise UserError(
                f"labels are {shorten(text)}: the double quote after "
                f"{show(text[:place]) if place else 'the start'} is not closed before a comma; "
                'write a name with a comma as "a, b", and a double quote inside of it twice'
            )
        quoted, plain, end = found.groups()
        labels.append(plain if quoted is None else quoted.replace('""', '"'))
        place = found.end()
        if not end:
            return labels


def quote_label(name: str) -> str:
    """Returns a class name as `split_labels` reads it: in double quotes only where needed."""
    if name and name == name.strip() and "," not in name and not name.startswith('"'):
        return name
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def label_number(label: object, class_names: Sequence[str]) -> int:
    """Returns the number of the class that a label means.

    Args:
        label: a number or a name; see the rule above.
        class_names: name of class i at place i.

    Raises:
        UserError: no such class.
    """
    if isinstance(label, str) and label in class_names:
        return class_names.index(label)
    shown = _show(label)
    if not class_names:
        raise UserError(f"label {shown} given, but this model was trained without labels")
    number = _to_integer(label)
    if number is not None and isinstance(label, str) and any(map(_is_number, class_names)):
        raise UserError(
            f"label {shown} is no name of a class, and names of classes are numbers here: "
            f"{_list_classes(class_names)}; give a name, or in Python an integer"
        )
    if number is None or not 0 <= number < len(class_names):
        raise UserError(
            f"label {shown} is none of the model's classes: {_list_classes(class_names)}"
        )
    return number


def _to_integer(label: object) -> int | None:
    if isinstance(label, str):
        return int(label) if _is_number(label) else None
    if isinstance(label, bool):
        return None
    try:
        return operator.index(label)  # pyright: ignore[reportArgumentType]  # it raises TypeError
    except TypeError:
        return None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 7  # see `checks.MOST_CLASSES`


def _show(label: object) -> str:
    if isinstance(label, str):
        return shorten(quote_label(label))
    return shorten(repr(label))


def _list_classes(names: Sequence[str]) -> str:
    shown = ", ".join(f"{i} {quote_label(shorten(name))}" for i, name in enumerate(names[:SHOWN]))
    return shown + (" ..." if len(names) > SHOWN else "")
