"""Parses YAML text to nodes, which keep their lines, and writes plain values as YAML text.

Scalars follow YAML 1.2, not PyYAML's 1.1: `1e-4` is a number, `off` and `yes` are strings. Files
may come from strangers. Features that no config needs are refused before they can do harm: aliases
(400 bytes of them make gigabytes), tags, several documents, deep nesting and endless text.
Imports neither TensorFlow nor Keras nor NumPy.
"""

import os
import re
from typing import Any, NoReturn

import yaml
from etils import epath

from vim_tf.annotations import StrPath
from vim_tf.config.values import WHOLE_NUMBERS
from vim_tf.errors import UserError
from vim_tf.messages import shorten

MOST_BYTES = 2**20  # of a file; the longest that vim_tf writes has 4,000
MOST_CHARACTERS = 10_000  # of a key or a value
MOST_NODES = 10_000  # keys, values and sections of a file; a complete config has 300
DEEPEST = 20  # sections in sections; a config has three

_NULL = "tag:yaml.org,2002:null"
_BOOL = "tag:yaml.org,2002:bool"
_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_OVERRIDE = "override "


class _Loader(yaml.SafeLoader):
    """Refuses a document while it is parsed, so that its remaining nodes are never built."""

    yaml_implicit_resolvers = {}
    yaml_constructors = yaml.SafeLoader.yaml_constructors.copy()
    depth = nodes = 0

    def get_single_node(self) -> yaml.Node | None:
        """Returns the node of the only document; None if there is no document."""
        self.get_event()  # the start of the stream
        if self.check_event(yaml.StreamEndEvent):
            return None
        node = self.compose_document()
        if not self.check_event(yaml.StreamEndEvent):
            self._refuse("a second document begins here; a config is one, so delete the line ---")
        return node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Returns the next node; UserError if a config may not hold it."""
        event = self.peek_event()
        self.nodes += 1
        if isinstance(event, yaml.AliasEvent):
            alias = f"the alias *{shorten(event.anchor)}"
            self._refuse(f"{alias} is not allowed; write the value itself instead")
        if event.anchor is not None:
            self._refuse(f"the anchor &{shorten(event.anchor)} is not allowed; leave it out")
        if event.tag is not None:
            tag = shorten(event.tag.replace("tag:yaml.org,2002:", "!!"))
            self._refuse(f"the tag {tag} is not allowed; leave it out")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MOST_CHARACTERS:
            length = f"{len(event.value):,} characters"
            self._refuse(f"a key or a value has {length}; at most {MOST_CHARACTERS:,} are allowed")
        if self.depth >= DEEPEST:
            self._refuse(f"more than {DEEPEST} sections or lists are nested")
        if self.nodes > MOST_NODES:
            self._refuse(f"there are more than {MOST_NODES:,} keys and values here and above")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _refuse(self, problem: str) -> NoReturn:
        mark = self.peek_event().start_mark
        raise UserError(f"{_where(mark.name, mark)}: {problem}")


class _Dumper(yaml.SafeDumper):
    """Has the resolvers of the loader, so that it quotes only the strings that need quotes."""

    yaml_implicit_resolvers = {}
    yaml_representers = yaml.SafeDumper.yaml_representers.copy()


# YAML 1.2's core schema with Python's 50_000, without .inf and .nan, which no key takes.
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


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node))


# SafeLoader would read 010 as octal 8 and 1:30 as 90.
_Loader.add_constructor(_INT, _construct_int)
_Loader.add_constructor(_FLOAT, _construct_float)
_Dumper.add_representer(
    list,
    lambda dumper, values: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", values, flow_style=True
    ),
)


def read_file(path: StrPath) -> yaml.Node | None:
    """Reads a YAML file of one document.

    Args:
        path: the file, on a disk or in a bucket.

    Returns:
        The document's node; None for a file without one.

    Raises:
        UserError: it cannot be read, is too large, is not valid YAML, or uses a feature that
            configs may not use.
    """
    file, name = epath.Path(path), shorten(str(path))
    try:
        # Reading a pipe could wait for ever, and a device may have no end.
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            raise UserError(f"cannot read config {name}: it is no regular file")
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read config {name}: {error.strerror or error}") from error
    if len(data) > MOST_BYTES:
        raise UserError(
            f"cannot read config {name}: it has more than the allowed {MOST_BYTES:,} bytes"
        )
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read config {name}: it is not UTF-8 text") from error
    return compose(text, name)


def override_source(text: str) -> str:
    """Returns the name of the override `--set text` for messages and `compose`."""
    return _OVERRIDE + shorten(text)


def compose(text: str, name: str) -> yaml.Node | None:
    """Parses text of one document to a node, which, unlike a dict, keeps lines and repeated keys.

    Args:
        text: YAML.
        name: its name in messages: a file, or an `override_source`.

    Returns:
        The document's node; None for text without one.

    Raises:
        UserError: it is not valid YAML, or uses a feature that configs may not use.
    """
    try:
        loader = _Loader(text)
        loader.name = name
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        assert error.problem_mark is not None  # those of parsing all have one
        where, problem = _where(name, error.problem_mark), shorten(str(error.problem))
        raise UserError(f"{where}: not valid YAML: {problem}") from error
    except yaml.reader.ReaderError as error:
        where = _at_line(name, text.count("\n", 0, error.position))
        problem = f"the character U+{error.character:04X} is not allowed"
        raise UserError(f"{where}: not valid YAML: {problem}") from error
    except UserError:
        raise
    except (
        ValueError,
        OverflowError,
    ) as error:  # Python's: \UFFFFFFFF, or a version's digits
        where = _where(name, loader.get_mark())
        raise UserError(
            f"{where}: not valid YAML: there is no such character or version"
        ) from error


def value(node: yaml.Node, path: str) -> Any:
    """Returns the plain value of a node: text, number, bool, None, list or dict.

    Args:
        node: a node of `compose` or `read_file`.
        path: its key, for messages.

    Raises:
        UserError: a number with more digits than Python can convert, or a list as a key.
    """
    try:
        return _Loader("").construct_object(node, deep=True)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(
            f"{source(node)}: {path} has a number of more than 4,300 digits; {WHOLE_NUMBERS}"
        ) from error
    except yaml.MarkedYAMLError as error:
        problem = shorten(str(error.problem))
        raise UserError(f"{source(node)}: {path} is not a plain value: {problem}") from error


def source(node: yaml.Node) -> str:
    """Returns the place of a node: `FILE:LINE`, or the override as it was given."""
    return _where(node.start_mark.name, node.start_mark)


def dump(values: dict[str, Any]) -> str:
    """Returns a plain dict as YAML text with lists on one line; `compose` can read it again."""
    return yaml.dump(
        values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )


def _where(name: str, mark: yaml.Mark) -> str:
    return _at_line(name, mark.line)


def _at_line(name: str, line: int) -> str:
    # The name of an override is its text; it has no lines.
    return name if name.startswith(_OVERRIDE) else f"{name}:{line + 1}"
