"""YAML text to nodes, which keep their lines, and plain values to YAML text.

Scalars follow YAML 1.2, not PyYAML's 1.1: `1e-4` is a number, `off` and `yes` are strings. Files
may come from strangers. What a config never needs is refused before it can do harm: aliases
(400 bytes of them make gigabytes), tags, several documents, deep nesting and endless text.
Imports neither TensorFlow nor Keras nor NumPy.
"""

import os
import re

import yaml
from etils import epath

from vim_tf.config.values import WHOLE_NUMBERS
from vim_tf.errors import UserError
from vim_tf.messages import shorten

MOST_BYTES = 2**20  # of a file; the longest that is written has 4,000
MOST_CHARACTERS = 10_000  # of a key or a value
MOST_NODES = 10_000  # keys, values and sections of a file; one that names every key has 300
DEEPEST = 20  # sections in sections; a config has three

_NULL = "tag:yaml.org,2002:null"
_BOOL = "tag:yaml.org,2002:bool"
_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_OVERRIDE = "override "


class _Loader(yaml.SafeLoader):
    """Refuses a document while it reads it, so that no more of it is ever built."""

    yaml_implicit_resolvers = {}
    yaml_constructors = yaml.SafeLoader.yaml_constructors.copy()
    depth = nodes = 0

    def get_single_node(self):
        """Returns the only document's node, None if there is no document."""
        self.get_event()  # the start of the stream
        if self.check_event(yaml.StreamEndEvent):
            return None
        node = self.compose_document()
        if not self.check_event(yaml.StreamEndEvent):
            self._refuse("a second document begins here; a config is one, so delete the line ---")
        return node

    def compose_node(self, parent, index):
        """Returns the next node, if a config may hold such a one."""
        event = self.peek_event()
        self.nodes += 1
        if isinstance(event, yaml.AliasEvent):
            alias = f"the alias *{shorten(event.anchor)}"
            self._refuse(f"{alias} is not allowed; write the value itself in its place")
        if event.anchor is not None:
            self._refuse(f"the anchor &{shorten(event.anchor)} is not allowed; leave it out")
        if event.tag is not None:
            tag = shorten(event.tag.replace("tag:yaml.org,2002:", "!!"))
            self._refuse(f"the tag {tag} is not allowed; leave it out")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MOST_CHARACTERS:
            length = f"{len(event.value):,} characters"
            self._refuse(f"a key or a value has {length}; at most {MOST_CHARACTERS:,} are allowed")
        if self.depth >= DEEPEST:
            self._refuse(f"more than {DEEPEST} sections or lists lie inside one another")
        if self.nodes > MOST_NODES:
            self._refuse(f"there are more than {MOST_NODES:,} keys and values here and above")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _refuse(self, problem):
        mark = self.peek_event().start_mark
        raise UserError(f"{_where(mark.name, mark)}: {problem}")


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


def read_file(path):
    """Reads a YAML file of one document.

    Args:
        path: the file, on a disk or in a bucket.

    Returns:
        The document's node; None for a file without one.

    Raises:
        UserError: it cannot be read, is too large, is not valid YAML, or holds what a config may
            not hold.
    """
    file, name = epath.Path(path), shorten(str(path))
    try:
        # A pipe would wait for ever, and a device may have no end.
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            raise UserError(f"cannot read config {name}: it is no regular file")
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read config {name}: {error.strerror or error}") from error
    if len(data) > MOST_BYTES:
        raise UserError(
            f"cannot read config {name}: it has more than {MOST_BYTES:,} bytes, which no config has"
        )
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read config {name}: it is not UTF-8 text") from error
    return compose(text, name)


def override_source(text):
    """Returns the name by which messages and `compose` know the override `--set text`."""
    return _OVERRIDE + shorten(text)


def compose(text, name):
    """Parses text of one document to a node rather than to a dict: it keeps lines and doubled keys.

    Args:
        text: YAML.
        name: what messages call it: a file, or an `override_source`.

    Returns:
        The document's node; None for text without one.

    Raises:
        UserError: it is not valid YAML, or holds what a config may not hold.
    """
    try:
        loader = _Loader(text)
        loader.name = name
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        where, problem = _where(name, error.problem_mark), shorten(str(error.problem))
        raise UserError(f"{where}: not valid YAML: {problem}") from error
    except yaml.reader.ReaderError as error:
        where = _at_line(name, text.count("\n", 0, error.position))
        problem = f"the character U+{error.character:04X} is not allowed"
        raise UserError(f"{where}: not valid YAML: {problem}") from error
    except UserError:
        raise
    except (ValueError, OverflowError) as error:  # of Python: \UFFFFFFFF, or a version's digits
        where = _where(name, loader.get_mark())
        raise UserError(
            f"{where}: not valid YAML: there is no such character or version"
        ) from error


def value(node, path):
    """Returns the plain value that a node stands for: text, number, bool, None, list or dict.

    Args:
        node: of `compose` or `read_file`.
        path: its key, for messages.

    Raises:
        UserError: a number with more digits than Python converts, or a list as a key.
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


def source(node):
    """Returns where a node stands: `FILE:LINE`, or the override as it was given."""
    return _where(node.start_mark.name, node.start_mark)


def dump(values):
    """Returns a plain dict as YAML text, lists on one line, from which it can be read again."""
    return yaml.dump(
        values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )


def _where(name, mark):
    return _at_line(name, mark.line)


def _at_line(name, line):
    # An override goes by its own text, and has no lines.
    return name if name.startswith(_OVERRIDE) else f"{name}:{line + 1}"
