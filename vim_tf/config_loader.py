"""YAML files and `--set` overrides to a config of `vim_tf.experiments`, strictly, and back.

Values start from the experiment's own defaults; each file, in order, then each override changes
only the keys it names. Scalars follow YAML 1.2, not PyYAML's 1.1: `1e-4` is a number, `off` and
`yes` are strings, and a key given twice is refused. Imports neither TensorFlow nor Keras.
"""

import dataclasses
import difflib
import inspect
import json
import math
import re
import textwrap
import types
import typing

import yaml
from etils import epath

from vim_tf.config import TRANSFORMER_PRESETS, TransformerConfig
from vim_tf.errors import UserError
from vim_tf.experiments import EXPERIMENTS

_PRESETS = {TransformerConfig: TRANSFORMER_PRESETS}
_NULL = "tag:yaml.org,2002:null"
_BOOL = "tag:yaml.org,2002:bool"
_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}
    yaml_constructors = yaml.SafeLoader.yaml_constructors.copy()


class _Dumper(yaml.SafeDumper):
    """Shares the loader's resolvers, so that it quotes just the strings that need it."""

    yaml_implicit_resolvers = {}
    yaml_representers = yaml.SafeDumper.yaml_representers.copy()


# YAML 1.2's core schema, plus Python's 50_000, less .inf and .nan, which no knob takes.
for _class in (_Loader, _Dumper):
    for _tag, _pattern, _first in (
        (_NULL, r"null|Null|NULL|~|", ["n", "N", "~", ""]),
        (_BOOL, r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        (_INT, r"[-+]?[0-9]+(_[0-9]+)*", list("-+0123456789")),
        (
            _FLOAT,
            r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?",
            list("-+.0123456789"),
        ),
    ):
        _class.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), _first)
# SafeLoader would read 010 as octal 8 and 1:30 as 90.
_Loader.add_constructor(_INT, lambda loader, node: int(loader.construct_scalar(node)))
_Loader.add_constructor(_FLOAT, lambda loader, node: float(loader.construct_scalar(node)))
_Dumper.add_representer(
    list,
    lambda dumper, values: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", values, flow_style=True
    ),
)


# Public -----------------------------------------------------------------------------------------


def load_config(paths, overrides=()):
    """Read a config from YAML files and overrides.

    Args:
        paths: YAML files; a later one wins over an earlier one, key by key.
        overrides: strings `a.b=value`, the last to win. A text field takes the value as it
            stands, so that paths need no quotes; other values are read as YAML.

    Returns:
        An instance of the class of `experiments.EXPERIMENTS` that the key `experiment` names.

    Raises:
        UserError: a file that cannot be read, or an unknown, doubled, ill-typed or
            contradictory key.
    """
    documents = [_read_document(path) for path in paths]
    settings = [_parse_override(text) for text in overrides]
    cls = _experiment_class(documents, settings)
    values = dataclasses.asdict(cls())
    for document in documents:
        _merge_section(values, cls, document, "")
    for keys, text, source in settings:
        if keys != ["experiment"]:
            _merge_override(values, cls, keys, text, source)
    return _build(cls, values, "")


def to_yaml(experiment):
    """Write a config with every key resolved; `load_config` of the text gives an equal config."""
    values = {"experiment": experiment.experiment, **dataclasses.asdict(experiment)}
    # JSON's round trip turns tuples into lists, the only sequences that YAML knows.
    plain = json.loads(json.dumps(values))
    return yaml.dump(
        plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )


def diff(old, new):
    """Lines such as `optimizer.learning_rate: 0.0001 -> 0.0003`, one for each changed key."""
    if type(old) is not type(new):
        return [f"experiment: {old.experiment} -> {new.experiment}"]
    before, after = _flatten(old), _flatten(new)
    return [
        f"{path}: {_text(before[path])} -> {_text(after[path])}"
        for path in before
        if before[path] != after[path]
    ]


def config_help():
    """Every key of every experiment with its type, default and meaning, as text for `--help`."""
    lines = []
    for name, cls in EXPERIMENTS.items():
        lines += ["", f"experiment: {name}"]
        lines += _help_lines(cls, cls(), "")
    return "\n".join(lines[1:]) + "\n"


# Reading ----------------------------------------------------------------------------------------


def _read_document(path):
    try:
        text = epath.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"cannot read config {path}: {reason}") from error
    document = _compose(text, str(path))
    if document is None:
        raise UserError(f"{path}: the file is empty; it needs at least the key experiment")
    if not isinstance(document, yaml.MappingNode):
        raise UserError(f"{_source(document)}: expected keys such as experiment: vit_vqgan")
    return document


def _compose(text, name):
    """Parse to nodes rather than to dicts: nodes keep their lines, and doubled keys."""
    try:
        loader = _Loader(text)
        loader.name = name
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        where = _where(name, error.problem_mark)
        raise UserError(f"{where}: not valid YAML: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"the character U+{error.character:04X} is not allowed"
        raise UserError(f"{name}:{line}: not valid YAML: {problem}") from error


def _value(node):
    try:
        return _Loader("").construct_object(node, deep=True)
    except (yaml.MarkedYAMLError, ValueError) as error:
        problem = getattr(error, "problem", error)
        raise UserError(f"{_source(node)}: not a plain value: {problem}") from error


def _source(node):
    return _where(node.start_mark.name, node.start_mark)


def _where(name, mark):
    # An override goes by its own text, and has no lines.
    return name if name.startswith("--set ") else f"{name}:{mark.line + 1}"


def _parse_override(text):
    path, equals, value = text.partition("=")
    source = f"--set {text}"
    if not (path and equals):
        raise UserError(f"{source}: expected section.key=value")
    if not value:
        raise UserError(f"{source}: the value is missing; to unset a key write {path}=null")
    return path.strip().split("."), value, source


def _experiment_class(documents, settings):
    name, source = None, "the config"
    for document in documents:
        for key, node in document.value:
            if key.value == "experiment":
                name, source = _value(node), _source(node)
    for keys, text, where in settings:
        if keys == ["experiment"]:
            name, source = text, where
    choices = ", ".join(EXPERIMENTS)
    if name is None:
        raise UserError(f"experiment is not set; it must be one of {choices}")
    if not isinstance(name, str) or name not in EXPERIMENTS:
        hint = _did_you_mean(str(name), EXPERIMENTS)
        raise UserError(f"{source}: experiment is {_text(name)}; it must be one of {choices}{hint}")
    return EXPERIMENTS[name]


# Merging ----------------------------------------------------------------------------------------


def _merge_section(values, cls, node, path):
    """Change `values`, the plain dict of a `cls`, by the mapping `node`."""
    seen = set()
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{_source(key_node)}: a key must be a name")
        key = key_node.value
        if key in seen:
            raise UserError(f"{_source(key_node)}: key {path}{key} is given twice")
        seen.add(key)
        if path or key != "experiment":
            _merge_key(values, cls, key, value_node, path, _source(key_node))


def _merge_key(values, cls, key, node, path, source):
    kind = _field_type(cls, key, path, source)
    if not dataclasses.is_dataclass(kind):
        if isinstance(node, yaml.MappingNode):
            raise UserError(f"{source}: {path}{key} is a section; expected {_describe(kind)}")
        values[key] = _convert(_value(node), kind, path + key, source)
    elif isinstance(node, yaml.MappingNode):
        _merge_section(values[key], kind, node, f"{path}{key}.")
    else:
        values[key] = _preset(kind, _value(node), path + key, source)


def _merge_override(values, cls, keys, text, source):
    path = ""
    for key in keys[:-1]:
        kind = _field_type(cls, key, path, source)
        if not dataclasses.is_dataclass(kind):
            raise UserError(f"{source}: {path}{key} is no section; it is {_describe(kind)}")
        values, cls, path = values[key], kind, f"{path}{key}."
    kind = _field_type(cls, keys[-1], path, source)
    if kind is str or (kind == str | None and text != "null"):
        values[keys[-1]] = text
    else:
        node = _compose(text, source)
        if node is None:
            raise UserError(f"{source}: the value is missing; it is only a comment")
        _merge_key(values, cls, keys[-1], node, path, source)


def _field_type(cls, key, path, source):
    kinds = {field.name: field.type for field in dataclasses.fields(cls)}
    if key not in kinds:
        raise UserError(f"{source}: unknown key {path}{key}{_suggest_key(key, kinds, path)}")
    return kinds[key]


def _suggest_key(key, siblings, path):
    hint = _did_you_mean(key, siblings, path)
    if hint:
        return hint
    # A section's name left out: learning_rate for optimizer.learning_rate.
    inside = [
        f"{path}{name}.{field.name}"
        for name, kind in siblings.items()
        if dataclasses.is_dataclass(kind)
        for field in dataclasses.fields(kind)
        if field.name == key
    ]
    if inside:
        return f"; did you mean {' or '.join(inside)}?"
    return f"; allowed here: {', '.join(siblings)}"


def _did_you_mean(word, choices, path=""):
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"; did you mean {path}{close[0]}?" if close else ""


def _preset(cls, value, path, source):
    presets = _PRESETS.get(cls, {})
    if isinstance(value, str) and value in presets:
        return dataclasses.asdict(presets[value])
    keys = ", ".join(field.name for field in dataclasses.fields(cls))
    names = f", or one of {', '.join(presets)}" if presets else ""
    hint = _did_you_mean(str(value), presets)
    raise UserError(
        f"{source}: {path} is {_text(value)}; expected a section with keys {keys}{names}{hint}"
    )


# Types ------------------------------------------------------------------------------------------


def _convert(value, kind, path, source):
    """Return `value` as `kind`; an int passes for a float, nothing else for anything else."""
    if value is None and _is_optional(kind):
        return None
    plain = typing.get_args(kind)[0] if _is_optional(kind) else kind
    origin, parts = typing.get_origin(plain), typing.get_args(plain)
    if origin is tuple and type(value) is list and len(value) == len(parts):
        return tuple(_convert(*pair, path, source) for pair in zip(value, parts, strict=True))
    if origin is tuple and type(value) is parts[0]:
        return (value,) * len(parts)
    if origin is typing.Literal and type(value) is str and value in parts:
        return value
    if plain is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if plain is not float and type(value) is plain:
        return value
    hint = _did_you_mean(str(value), parts) if origin is typing.Literal else ""
    raise UserError(f"{source}: {path} is {_text(value)}; expected {_describe(kind)}{hint}")


def _is_optional(kind):
    return typing.get_origin(kind) is types.UnionType  # X | None, the one union in use


def _describe(kind):
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if _is_optional(kind):
        return f"{_describe(parts[0])}, or null"
    if origin is tuple:
        return f"a list of {len(parts)}, each {_describe(parts[0])}, or one for all"
    if origin is typing.Literal:
        return f"one of {', '.join(parts)}"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind]


def _build(cls, values, path):
    """Make the dataclass `cls` of a plain dict; its sections first."""
    arguments = {}
    for field in dataclasses.fields(cls):
        value = values[field.name]
        if dataclasses.is_dataclass(field.type):
            value = _build(field.type, value, f"{path}{field.name}.")
        elif field.type is float:
            value = float(value)  # a default may be written as an int
        arguments[field.name] = value
    try:
        return cls(**arguments)
    except UserError as error:
        # A class that serves several sections (encoder and decoder) cannot know which it is.
        if str(error).startswith(path):
            raise
        raise UserError(f"in {path[:-1]}: {error}") from error


# Writing ----------------------------------------------------------------------------------------


def _flatten(section, path=""):
    flat = {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            flat |= _flatten(value, f"{path}{field.name}.")
        else:
            flat[path + field.name] = value
    return flat


def _text(value):
    return json.dumps(value, ensure_ascii=False, default=str)


def _help_lines(cls, defaults, path):
    comments = dict(re.findall(r"^    (\w+): .*?  # (.+)$", inspect.getsource(cls), re.M))
    values, sections = [], []
    for field in dataclasses.fields(cls):
        name, value = field.name, getattr(defaults, field.name)
        if dataclasses.is_dataclass(value):
            summary = f"{path}{name}: {' '.join(inspect.getdoc(value).split())}"
            sections += [
                "",
                *textwrap.wrap(summary, 98, initial_indent="  ", subsequent_indent="  "),
            ]
            sections += _help_lines(field.type, value, f"{path}{name}.")
        else:
            meaning = f"; {comments[name]}" if name in comments else ""
            line = f"{path}{name}: {_text(value)}  ({_describe(field.type)}{meaning})"
            values += textwrap.wrap(line, 98, initial_indent="    ", subsequent_indent=" " * 8)
    return values + sections
