"""Reads YAML files and `--set` overrides into a config of `experiments`, strictly, and writes it.

Values start from the experiment's defaults. Each file, in order, then each override changes only
the keys that it names. A key given twice is refused. `yaml_nodes` defines the allowed text,
`values` the allowed values. Imports neither TensorFlow nor Keras.
"""

import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from vim_tf import formats
from vim_tf.annotations import StrPath
from vim_tf.config import yaml_nodes
from vim_tf.config.experiments import EXPERIMENTS, Experiment
from vim_tf.config.old_keys import Setting, refuse_old_keys
from vim_tf.config.sections import TRANSFORMER_PRESETS, TransformerConfig
from vim_tf.config.values import (
    Section,
    TypeForm,
    build,
    convert,
    describe,
    did_you_mean,
    field_type,
    is_section,
    join,
)
from vim_tf.errors import UserError
from vim_tf.messages import shorten, show

MOST_DIFFERENCES = 20  # `diff` lists no more

_PRESETS: dict[TypeForm, dict[str, Any]] = {TransformerConfig: TRANSFORMER_PRESETS}
_FORMAT_KEYS = ("format", "written_by")  # in a run's config, next to the keys of the experiment


# Public -----------------------------------------------------------------------------------------


def load_config(
    paths: Sequence[StrPath], overrides: Iterable[str] = (), of_run: bool = False
) -> Experiment:
    """Reads a config from YAML files and overrides.

    Args:
        paths: YAML files; a later one wins over an earlier one, key by key.
        overrides: strings `a.b=value`; a later one wins. A text field takes the value unchanged,
            so that paths need no quotes; other values are read as YAML.
        of_run: the files are configs that runs wrote, and must have the current format.

    Returns:
        An instance of the class of `experiments.EXPERIMENTS` that the key `experiment` names.

    Raises:
        UserError: a file cannot be read, a key is unknown, given twice, of another type or in
            conflict with others, or a run's config has another format.
    """
    documents = [_read_document(path) for path in paths]
    for path, document in zip(paths, documents, strict=True):
        _check_format(path, document, of_run)
    settings = [_parse_override(text) for text in overrides]
    cls = _experiment_class(documents, settings)
    refuse_old_keys(documents, settings)
    values = dataclasses.asdict(cls())
    for document in documents:
        _merge_section(values, cls, document, "")
    for keys, text, source in settings:
        if keys != ["experiment"]:
            _merge_override(values, cls, keys, text, source)
    return build(cls, values)


def to_yaml(experiment: Experiment, of_run: bool = False) -> str:
    """Returns a config as YAML with all keys; `load_config` of the text gives an equal config.

    Args:
        experiment: the config.
        of_run: add the format and the writer, as in the config that a run keeps.
    """
    about = {"format": formats.NUMBERS["run"], "written_by": formats.WRITTEN_BY} if of_run else {}
    values = {**about, "experiment": experiment.experiment, **dataclasses.asdict(experiment)}
    # The round trip through JSON turns tuples into lists, the only sequences of YAML.
    return yaml_nodes.dump(json.loads(json.dumps(values)))


def diff(old: Experiment, new: Experiment) -> list[str]:
    """Compares two configs.

    Returns:
        Lines such as `optimizer.learning_rate: 0.0001 -> 0.0003`, one for each changed key. After
        `MOST_DIFFERENCES` of them, one last line gives the number of the others.
    """
    return describe_changes(find_changes(old, new))


def describe_changes(changes: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Returns the lines of `diff` for the result of `find_changes`."""
    lines = [f"{key}: {show(before)} -> {show(after)}" for key, (before, after) in changes.items()]
    rest = len(lines) - MOST_DIFFERENCES
    return lines if rest <= 0 else [*lines[:MOST_DIFFERENCES], f"and {rest} more"]


def find_changes(old: Experiment, new: Experiment) -> dict[str, tuple[Any, Any]]:
    """Compares two configs.

    Returns:
        {dotted key: (value in `old`, value in `new`)} of the keys that differ; only the key
        "experiment" if the two are of different experiments.
    """
    if type(old) is not type(new):
        return {"experiment": (old.experiment, new.experiment)}
    before, after = _flatten(old), _flatten(new)
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def config_help() -> str:
    """Returns every key of every experiment with its type, default and meaning, for `--help`."""
    lines = []
    for name, cls in EXPERIMENTS.items():
        lines += ["", f"experiment: {name}"]
        lines += _help_lines(cls, cls(), "")
    return "\n".join(lines[1:]) + "\n"


# Reading ----------------------------------------------------------------------------------------


def _read_document(path: StrPath) -> yaml.MappingNode:
    document = yaml_nodes.read_file(path)
    if document is None:
        raise UserError(
            f"{shorten(str(path))}: the file is empty; it needs at least the key experiment"
        )
    if not isinstance(document, yaml.MappingNode):
        source = yaml_nodes.source(document)
        raise UserError(f"{source}: expected keys such as experiment: vit_vqgan")
    return document


def _check_format(path: StrPath, document: yaml.MappingNode, of_run: bool) -> None:
    found = {key.value: value for key, value in document.value if key.value in _FORMAT_KEYS}
    if not found and not of_run:
        return
    number, writer = (
        yaml_nodes.value(found[key], key) if key in found else None for key in _FORMAT_KEYS
    )
    formats.check_format(path, "run", number, writer, "train again in another workdir")


def _parse_override(text: str) -> Setting:
    path, equals, value = text.partition("=")
    source = yaml_nodes.override_source(text)
    if len(text) > yaml_nodes.MOST_CHARACTERS:
        raise UserError(f"{source}: at most {yaml_nodes.MOST_CHARACTERS:,} characters are allowed")
    if not (path and equals):
        raise UserError(f"{source}: expected section.key=value")
    if not value:
        raise UserError(
            f"{source}: the value is missing; to unset a key write {shorten(path)}=null"
        )
    return path.strip().split("."), value, source


def _experiment_class(
    documents: Iterable[yaml.MappingNode], settings: Iterable[Setting]
) -> type[Experiment]:
    name, source = None, "the config"
    for document in documents:
        for key, node in document.value:
            if key.value == "experiment":
                name, source = yaml_nodes.value(node, "experiment"), yaml_nodes.source(node)
    for keys, text, where in settings:
        if keys == ["experiment"]:
            name, source = text, where
    choices = ", ".join(EXPERIMENTS)
    if name is None:
        raise UserError(f"experiment is not set; it must be one of {choices}")
    if not isinstance(name, str) or name not in EXPERIMENTS:
        hint = did_you_mean(name, EXPERIMENTS)
        raise UserError(f"{source}: experiment is {show(name)}; it must be one of {choices}{hint}")
    return EXPERIMENTS[name]


# Merging ----------------------------------------------------------------------------------------


def _merge_section(
    values: dict[str, Any], cls: type[Section], node: yaml.MappingNode, path: str
) -> None:
    """Changes `values`, the plain dict of a `cls`, by the mapping `node`."""
    seen = set()
    for key_node, value_node in node.value:
        source = yaml_nodes.source(key_node)
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{source}: a key must be a name")
        key = key_node.value
        if key in seen:
            raise UserError(f"{source}: key {join(path, key)} is given twice")
        seen.add(key)
        if path or key not in ("experiment", *_FORMAT_KEYS):
            _merge_key(values, cls, key, value_node, path, source)


def _merge_key(
    values: dict[str, Any], cls: type[Section], key: str, node: yaml.Node, path: str, source: str
) -> None:
    kind = field_type(cls, key, path, source)
    path = join(path, key)
    if not is_section(kind):
        if isinstance(node, yaml.MappingNode):
            raise UserError(f"{source}: {path} is a section; expected {describe(kind)}")
        values[key] = convert(yaml_nodes.value(node, path), kind, path, source)
    elif isinstance(node, yaml.MappingNode):
        _merge_section(values[key], kind, node, path)
    else:
        values[key] = _preset(kind, yaml_nodes.value(node, path), path, source)


def _merge_override(
    values: dict[str, Any], cls: type[Section], keys: Sequence[str], text: str, source: str
) -> None:
    path = ""
    for key in keys[:-1]:
        kind = field_type(cls, key, path, source)
        path = join(path, key)
        if not is_section(kind):
            raise UserError(f"{source}: {path} is no section; it is {describe(kind)}")
        values, cls = values[key], kind
    key = keys[-1]
    kind = field_type(cls, key, path, source)
    if kind is str or (kind == str | None and text != "null"):
        values[key] = convert(text, kind, join(path, key), source)
    else:
        node = yaml_nodes.compose(text, source)
        if node is None:
            raise UserError(f"{source}: the value is missing; it is only a comment")
        _merge_key(values, cls, key, node, path, source)


def _preset(cls: TypeForm, value: object, path: str, source: str) -> dict[str, Any]:
    presets = _PRESETS.get(cls, {})
    if isinstance(value, str) and value in presets:
        return dataclasses.asdict(presets[value])
    names = f", or one of {', '.join(presets)}" if presets else ""
    hint = did_you_mean(value, presets)
    raise UserError(f"{source}: {path} is {show(value)}; expected {describe(cls)}{names}{hint}")


# Writing ----------------------------------------------------------------------------------------


def _flatten(section: Section, path: str = "") -> dict[str, Any]:
    flat = {}
    for field in dataclasses.fields(section):
        value, place = getattr(section, field.name), join(path, field.name)
        if is_section(type(value)):
            flat |= _flatten(value, place)
        else:
            flat[place] = value
    return flat


def _help_lines(cls: type[Section], defaults: Section, path: str) -> list[str]:
    sources = [inspect.getsource(part) for part in cls.__mro__[:-1]]  # the last one is object
    comments = dict(re.findall(r"^    (\w+): .*?  # (.+)$", "\n".join(sources), re.M))
    values, sections = [], []
    for field in dataclasses.fields(cls):
        name, value = field.name, getattr(defaults, field.name)
        place = join(path, name)
        if is_section(type(value)):
            summary = f"{place}: {' '.join((inspect.getdoc(value) or '').split())}"
            sections += [
                "",
                *textwrap.wrap(summary, 98, initial_indent="  ", subsequent_indent="  "),
            ]
            sections += _help_lines(type(value), value, place)
        else:
            meaning = f"; {comments[name]}" if name in comments else ""
            line = f"{place}: {show(value)}  ({describe(field.type)}{meaning})"
            values += textwrap.wrap(line, 98, initial_indent="    ", subsequent_indent=" " * 8)
    return values + sections
