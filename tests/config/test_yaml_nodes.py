"""Allowed content of a YAML text, and the time to refuse other content."""

import os

import pytest
import yaml

from vim_tf.config import yaml_nodes
from vim_tf.errors import UserError


def read(text):
    return yaml_nodes.value(yaml_nodes.compose(text, "a.yaml"), "key")


@pytest.fixture
def refuse(quick):
    """A function (text, name) that expects a UserError of one short line at once."""

    def refuse(text, name="a.yaml"):
        message = quick(lambda: read_message(text, name))
        assert message.isprintable()
        assert len(message) < 1_000
        return message

    def read_message(text, name):
        with pytest.raises(UserError) as caught:
            yaml_nodes.value(yaml_nodes.compose(text, name), "key")
        return str(caught.value)

    return refuse


def nested(depth):
    return "[" * depth + "]" * depth


# Values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("010", 10),
        ("1:30", "1:30"),
        ("off", "off"),
        ("2024-01-01", "2024-01-01"),
        ("=", "="),
        ("true", True),
        ("~", None),
        ("[1, a, 'b']", [1, "a", "b"]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("\ufeffa", "a"),  # the byte order mark of some editors
        ("%YAML 1.2\n--- a", "a"),
        ("--- a\n...\n", "a"),
        ("", None),
    ],
)
def test_plain_values(text, value):
    node = yaml_nodes.compose(text, "a.yaml")
    found = None if node is None else yaml_nodes.value(node, "key")
    assert (found, type(found)) == (value, type(value))


def test_the_place_of_a_node():
    node = yaml_nodes.compose("a: 1\nb: 2", "a.yaml")
    assert [yaml_nodes.source(value) for _, value in node.value] == ["a.yaml:1", "a.yaml:2"]
    override = yaml_nodes.override_source("b=2")
    assert yaml_nodes.source(yaml_nodes.compose("2", override)) == "override b=2"


def test_what_is_dumped_is_read_again():
    values = {"a": "off", "b": "1e-4", "c": [1, 2], "d": {"e": None, "f": "# x\n\u2028"}}
    assert read(yaml_nodes.dump(values)) == values
    assert "c: [1, 2]\n" in yaml_nodes.dump(values)


# Refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1", "a.yaml:1: the anchor &x is not allowed; leave it out"),
        ("a: 1\nb: &x [*x]", "a.yaml:2: the anchor &x is not allowed; leave it out"),
        ("a: *x", "a.yaml:1: the alias *x is not allowed; write the value itself instead"),
        ("&x a: 1", "a.yaml:1: the anchor &x is not allowed"),
        ("a: 1\n<<: *x", "a.yaml:2: the alias *x is not allowed"),
        ("a: !!bool yes", "a.yaml:1: the tag !!bool is not allowed; leave it out"),
        ("a:\n  - !!timestamp x", "a.yaml:2: the tag !!timestamp is not allowed"),
        ("!!timestamp x: 1", "a.yaml:1: the tag !!timestamp is not allowed"),
        ("!!binary x", "a.yaml:1: the tag !!binary is not allowed"),
        ("!!python/object/apply:os.system [id]", "a.yaml:1: the tag !!python/object/apply:os.sys"),
        ("!<tag:yaml.org,2002:str> x", "a.yaml:1: the tag !!str is not allowed"),
        ("a: ! x", "a.yaml:1: the tag ! is not allowed"),
        ("a: !x {}", "a.yaml:1: the tag !x is not allowed"),
        ("!!set {a}", "a.yaml:1: the tag !!set is not allowed"),
        ("a: 1\n---\nb: 2", "a.yaml:2: a second document begins here; a config is one"),
        ("a: 1\n...\n---\n&x [*x]", "a.yaml:3: a second document begins here"),
        ("{[1]: 2}", "a.yaml:1: key is not a plain value: found unhashable key"),
        ("a: [1", "a.yaml:1: not valid YAML: "),
        ("\ta: 1", "a.yaml:1: not valid YAML: "),
        ("a: 1\n\nb: \a", "a.yaml:3: not valid YAML: the character U+0007 is not allowed"),
        ('"\\UFFFFFFFF"', "a.yaml:1: not valid YAML: there is no such character"),
        ('a: 1\nb: "\\U00110000"', "a.yaml:2: not valid YAML: there is no such character"),
        (f"%YAML {'1' * 5_000}.1\n--- a", "a.yaml:1: not valid YAML: there is no such"),
        (
            "9" * 5_000,
            "a.yaml:1: key has a number of more than 4,300 digits; it must be from -2^63",
        ),
        (f"[-{'1_' * 4_500}1]", "a.yaml:1: key has a number of more than 4,300 digits"),
        ("a" * 10_001, "a.yaml:1: a key or a value has 10,001 characters; at most 10,000 are"),
        (f"{{'{'a' * 10_001}': 1}}", "a.yaml:1: a key or a value has 10,001 characters"),
        ("|\n" + " a\n" * 5_001, "a.yaml:1: a key or a value has 10,002 characters"),
        (f"!{'x' * 9_000} a", "a.yaml:1: the tag !xxx"),
        (f"&{'x' * 9_000} a", "a.yaml:1: the anchor &xxx"),
        (f"!{'x' * 9_000}!y a", "a.yaml:1: not valid YAML: found undefined tag handle '!xxx"),
        ("\\\x1b[31m", "a.yaml:1: not valid YAML: the character U+001B is not allowed"),
        (nested(21), "a.yaml:1: more than 20 sections or lists are nested"),
        ("[" * 100_000, "a.yaml:1: more than 20 sections or lists are nested"),
        ("[\n" * 100_000, "a.yaml:21: more than 20 sections"),
        ("{a: " * 100_000, "a.yaml:1: more than 20 sections"),
        ("- " * 100_000, "a.yaml:1: more than 20 sections"),
        ("? " * 100_000, "a.yaml:1: more than 20 sections"),
        ("- a\n" * 10_001, "a.yaml:10000: there are more than 10,000 keys and values here and abo"),
        ("a: 1\n" * 200_000, "a.yaml:5000: there are more than 10,000 keys and values here and a"),
        ("[" + "[]," * 300_000 + "]", "a.yaml:1: there are more than 10,000 keys and values"),
    ],
    ids=lambda text: text[:24],
)
def test_what_a_config_may_not_hold(refuse, text, message):
    assert refuse(text).startswith(message)


def test_an_override_is_refused_by_its_text(refuse):
    name = yaml_nodes.override_source("a=&x 1")
    assert refuse("&x 1", name) == "override a=&x 1: the anchor &x is not allowed; leave it out"
    assert yaml_nodes.override_source("a=" + "x" * 300).endswith("x... (302 characters)")


def test_what_lies_just_within_the_limits_is_read():
    assert read(nested(20)) is not None
    assert read("a" * 10_000) == "a" * 10_000
    assert read("- a\n" * 9_999) == ["a"] * 9_999
    assert read("9" * 4_300) == 10**4_300 - 1


def test_bombs_of_aliases_are_refused_at_their_first_anchor(refuse):
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    text = "\n".join(lines)
    assert len(text) < 1_000
    assert refuse(text) == "a.yaml:1: the anchor &a0 is not allowed; leave it out"


# Files ------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "a.yaml"


def test_a_file_of_a_mebibyte_is_read_and_a_longer_one_is_not(file, monkeypatch, quick):
    file.write_text("a: 1\n".ljust(2**20, "#"))
    assert isinstance(quick(lambda: yaml_nodes.read_file("a.yaml")), yaml.MappingNode)
    file.write_text("a: 1\n".ljust(2**20 + 1, "#"))
    monkeypatch.setattr(yaml_nodes, "compose", None)  # refused before it is parsed
    with pytest.raises(UserError) as caught:
        yaml_nodes.read_file("a.yaml")
    assert str(caught.value) == (
        "cannot read config a.yaml: it has more than the allowed 1,048,576 bytes"
    )


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_pipe_or_a_device_is_no_config(file, make):
    make(file)
    with pytest.raises(UserError, match="cannot read config a.yaml: it is no regular file"):
        yaml_nodes.read_file("a.yaml")


def test_a_name_with_escape_codes_is_shown_escaped(file):
    with pytest.raises(UserError) as caught:
        yaml_nodes.read_file("\x1b[31m.yaml")
    assert str(caught.value) == r"cannot read config \x1b[31m.yaml: No such file or directory"
    file.with_name("\x1b.yaml").write_text("[")
    with pytest.raises(UserError, match=r"^\\x1b.yaml:1: not valid YAML"):
        yaml_nodes.read_file("\x1b.yaml")
