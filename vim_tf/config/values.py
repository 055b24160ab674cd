"""Plain values, as YAML and JSON have them, to the annotated types of a dataclass, strictly.

`build` makes a dataclass with all its sections of a dict. Imports neither TensorFlow nor Keras nor
NumPy.
"""

import dataclasses
import difflib
import math
import types
import typing
import unicodedata

from vim_tf.errors import UserError
from vim_tf.messages import LONGEST_VALUE, shorten, show

WHOLE_NUMBERS = "it must be from -2^63 to 2^63 - 1"


def build(cls, values, path="", source=""):
    """Makes the dataclass `cls` and its sections, which are dataclasses too, of a plain dict.

    For example `build(ViTVQGANConfig, content["config"], "config", "preset/config.json")`.

    Args:
        cls: a dataclass whose fields are of types that `convert` knows, or dataclasses.
        values: a dict with exactly the fields of `cls`.
        path: the dotted key of `cls`, "" for the top; messages begin with it.
        source: the file that the values are from, for messages; "" leaves it out.

    Raises:
        UserError: an unknown key, a missing key, a value of another type, or a value that a class
            refuses in its `__post_init__`.
    """
    if not isinstance(values, dict):
        place = f"{_prefix(source)}{path or cls.__name__}"
        raise UserError(f"{place} is {show(values)}; expected {describe(cls)}")
    for key in values:
        field_type(cls, key, path, source)
    arguments = {}
    for field in dataclasses.fields(cls):
        place = join(path, field.name)
        if field.name not in values:
            problem = f"key {place} is missing; expected {describe(field.type)}"
            raise UserError(f"{_prefix(source)}{problem}")
        value = values[field.name]
        if dataclasses.is_dataclass(field.type):
            arguments[field.name] = build(field.type, value, place, source)
        else:
            arguments[field.name] = convert(value, field.type, place, source)
    try:
        return cls(**arguments)
    except UserError as error:
        # A class that serves several sections (encoder and decoder) cannot know which it is.
        within = f"in {path}: " if path and not str(error).startswith(f"{path}.") else ""
        raise UserError(f"{_prefix(source)}{within}{error}") from error


def convert(value, kind, path, source=""):
    """Returns a plain value as the type `kind`.

    An int passes for a float, a list for a tuple, and one value for a tuple of equal ones; nothing
    else passes for anything else.

    Args:
        value: None, a bool, a number, text or a list.
        kind: bool, int, float, str, a Literal of texts, a tuple of fixed length, or one of these
            with `| None`.
        path: the dotted key, for messages.
        source: where the value is from, for messages; "" leaves it out.

    Raises:
        UserError: the value is of another type, a whole number outside 64 bits, a number that is
            not finite, or text with control characters.
    """
    if value is None and _is_optional(kind):
        return None
    plain = typing.get_args(kind)[0] if _is_optional(kind) else kind
    origin, parts = typing.get_origin(plain), typing.get_args(plain)
    place = f"{_prefix(source)}{path}"
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise UserError(f"{place} is {show(value)}; {WHOLE_NUMBERS}")
    if origin is tuple and type(value) in (list, tuple) and len(value) == len(parts):
        pairs = zip(value, parts, strict=True)
        return tuple(convert(*pair, path, source) for pair in pairs)
    if origin is tuple and type(value) is parts[0]:
        return (value,) * len(parts)
    if origin is typing.Literal and type(value) is str and value in parts:
        return value
    if plain is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if plain is not float and type(value) is plain:
        if plain is str:
            _check_text(value, place)
        return value
    hint = did_you_mean(value, parts) if origin is typing.Literal else ""
    raise UserError(f"{place} is {show(value)}; expected {describe(kind)}{hint}")


def _check_text(text, place):
    """No file system and no UTF-8 file takes such text; a terminal would obey it."""
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs"):
            raise UserError(
                f"{place} is {show(text)}; text may not hold the character U+{ord(character):04X}"
            )


def field_type(cls, key, path, source=""):
    """Returns the type of a dataclass's field.

    Args:
        cls: the dataclass.
        key: the field's name.
        path: the dotted key of `cls`, "" for the top, for messages.
        source: where the key is from, for messages; "" leaves it out.

    Raises:
        UserError: there is no such field; the message says which one may be meant.
    """
    kinds = {field.name: field.type for field in dataclasses.fields(cls)}
    if key not in kinds:
        problem = f"unknown key {shorten(join(path, key))}{_suggest_key(key, kinds, path)}"
        raise UserError(f"{_prefix(source)}{problem}")
    return kinds[key]


def _suggest_key(key, siblings, path):
    hint = did_you_mean(key, siblings, path)
    if hint:
        return hint
    # A section's name left out: learning_rate for optimizer.learning_rate.
    inside = [
        join(path, f"{name}.{field.name}")
        for name, kind in siblings.items()
        if dataclasses.is_dataclass(kind)
        for field in dataclasses.fields(kind)
        if field.name == key
    ]
    if inside:
        return f"; did you mean {' or '.join(inside)}?"
    return f"; allowed here: {', '.join(siblings)}"


def did_you_mean(word, choices, path=""):
    """Returns "; did you mean ...?" with the choice most like `word`, or "" if none is like it."""
    close = difflib.get_close_matches(str(word)[:LONGEST_VALUE], choices, n=1, cutoff=0.5)
    return f"; did you mean {join(path, close[0])}?" if close else ""


def describe(kind):
    """Returns what a type of `convert`, or a dataclass, takes, in words."""
    if dataclasses.is_dataclass(kind):
        return f"a section with keys {', '.join(field.name for field in dataclasses.fields(kind))}"
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if _is_optional(kind):
        return f"{describe(parts[0])}, or null"
    if origin is tuple:
        return f"a list of {len(parts)}, each {describe(parts[0])}, or one for all"
    if origin is typing.Literal:
        return f"one of {', '.join(parts)}"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind]


def join(path, key):
    """Returns the dotted key of `key` within the section `path`, "" for the top."""
    return f"{path}.{key}" if path else str(key)


def _is_optional(kind):
    return typing.get_origin(kind) is types.UnionType  # X | None, the one union in use


def _prefix(source):
    return f"{source}: " if source else ""
