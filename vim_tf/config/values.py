"""Converts plain values of YAML and JSON to the annotated types of a dataclass, strictly.

`build` makes a dataclass with all its sections from a dict. Imports no TensorFlow, Keras or NumPy.
"""

import dataclasses
import difflib
import math
import types
import typing
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol, TypeAlias, TypeGuard, TypeVar

from vim_tf.errors import UserError
from vim_tf.messages import LONGEST_VALUE, shorten, show

# int, Literal["a", "b"], float | None, tuple[int, int]: typing has no name for all of these.
TypeForm: TypeAlias = Any

WHOLE_NUMBERS = "it must be from -2^63 to 2^63 - 1"


class Section(Protocol):
    """A dataclass: an experiment, or a section of a config."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


AnySection = TypeVar("AnySection", bound=Section)


def build(cls: type[AnySection], values: object, path: str = "", source: str = "") -> AnySection:
    """Makes the dataclass `cls` and its sections, which are dataclasses too, from a plain dict.

    For example `build(ViTVQGANConfig, content["config"], "config", "preset/config.json")`.

    Args:
        cls: a dataclass; its fields have types that `convert` knows, or are dataclasses.
        values: a dict with exactly the fields of `cls`.
        path: the dotted key of `cls`, "" for the top; messages begin with it.
        source: the file with the values, for messages; "" omits it.

    Raises:
        UserError: an unknown key, a missing key, a value of another type, or a value that the
            `__post_init__` of a class refuses.
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
        if is_section(field.type):
            arguments[field.name] = build(field.type, value, place, source)
        else:
            arguments[field.name] = convert(value, field.type, place, source)
    try:
        return cls(**arguments)
    except UserError as error:
        # A class of several sections, such as encoder and decoder, does not know which one it is.
        within = f"in {path}: " if path and not str(error).startswith(f"{path}.") else ""
        raise UserError(f"{_prefix(source)}{within}{error}") from error


def convert(value: Any, kind: TypeForm, path: str, source: str = "") -> Any:
    """Returns a plain value as the type `kind`.

    An int is accepted as a float, a list as a tuple, and one value as a tuple of equal values.
    Nothing else is converted.

    Args:
        value: None, a bool, a number, text or a list.
        kind: bool, int, float, str, a Literal of strings, a tuple of fixed length, or one of these
            with `| None`.
        path: the dotted key, for messages.
        source: where the value is from, for messages; "" leaves it out.

    Raises:
        UserError: the value is of another type, a whole number outside 64 bits, a number that is
            not finite, or text with control characters.
    """
    if _is_optional(kind) and value is None:
        return None
    plain = typing.get_args(kind)[0] if _is_optional(kind) else kind
    origin, parts = typing.get_origin(plain), typing.get_args(plain)
    place = f"{_prefix(source)}{path}"
    given = type(value)
    if given is int and not -(2**63) <= value < 2**63:
        raise UserError(f"{place} is {show(value)}; {WHOLE_NUMBERS}")
    if origin is tuple and given in (list, tuple) and len(value) == len(parts):
        pairs = zip(value, parts, strict=True)
        return tuple(convert(*pair, path, source) for pair in pairs)
    if origin is tuple and given is parts[0]:
        return (value,) * len(parts)
    if origin is typing.Literal and given is str and value in parts:
        return value
    if plain is float and given in (int, float) and math.isfinite(value):
        return float(value)
    if plain is not float and given is plain:
        if plain is str:
            _check_text(value, place)
        return value
    hint = did_you_mean(value, parts) if origin is typing.Literal else ""
    raise UserError(f"{place} is {show(value)}; expected {describe(kind)}{hint}")


def _check_text(text: str, place: str) -> None:
    """Refuses control characters, which a terminal obeys, and surrogates, which UTF-8 lacks."""
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs"):
            raise UserError(
                f"{place} is {show(text)}; text may not hold the character U+{ord(character):04X}"
            )


def field_type(cls: type[Section], key: str, path: str, source: str = "") -> TypeForm:
    """Returns the type of a dataclass's field.

    Args:
        cls: the dataclass.
        key: the field's name.
        path: the dotted key of `cls`, "" for the top, for messages.
        source: where the key is from, for messages; "" leaves it out.

    Raises:
        UserError: there is no such field; the message suggests one.
    """
    kinds = {field.name: field.type for field in dataclasses.fields(cls)}
    if key not in kinds:
        problem = f"unknown key {shorten(join(path, key))}{_suggest_key(key, kinds, path)}"
        raise UserError(f"{_prefix(source)}{problem}")
    return kinds[key]


def _suggest_key(key: str, siblings: Mapping[str, TypeForm], path: str) -> str:
    hint = did_you_mean(key, siblings, path)
    if hint:
        return hint
    # The section's name may be missing: learning_rate for optimizer.learning_rate.
    inside = [
        join(path, f"{name}.{field.name}")
        for name, kind in siblings.items()
        if is_section(kind)
        for field in dataclasses.fields(kind)
        if field.name == key
    ]
    if inside:
        return f"; did you mean {' or '.join(inside)}?"
    return f"; allowed here: {', '.join(siblings)}"


def did_you_mean(word: object, choices: Iterable[str], path: str = "") -> str:
    """Returns "; did you mean ...?" with the choice closest to `word`, or "" if none is close."""
    close = difflib.get_close_matches(str(word)[:LONGEST_VALUE], choices, n=1, cutoff=0.5)
    return f"; did you mean {join(path, close[0])}?" if close else ""


def describe(kind: TypeForm) -> str:
    """Returns in words the values that a dataclass or a type of `convert` takes."""
    if is_section(kind):
        return f"a section with keys {', '.join(field.name for field in dataclasses.fields(kind))}"
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if _is_optional(kind):
        return f"{describe(parts[0])}, or null"
    if origin is tuple:
        return f"a list of {len(parts)}, each {describe(parts[0])}, or one for all"
    if origin is typing.Literal:
        return f"one of {', '.join(parts)}"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind]


def join(path: str, key: object) -> str:
    """Returns the dotted key of `key` within the section `path`, "" for the top."""
    return f"{path}.{key}" if path else str(key)


def is_section(kind: TypeForm) -> TypeGuard[type[Section]]:
    """Whether the type of a field is a dataclass."""
    return dataclasses.is_dataclass(kind)


def _is_optional(kind: TypeForm) -> bool:
    # X | None is the only union in use; typing has its own kind for a Literal.
    return typing.get_origin(kind) in (types.UnionType, typing.Union)


def _prefix(source: str) -> str:
    return f"{source}: " if source else ""
