"""Conversion of plain values, as in JSON and YAML, to dataclasses."""

import dataclasses
import json
from typing import Literal

import pytest

from vim_tf.config.experiments import EXPERIMENTS
from vim_tf.config.sections import TransformerConfig, ViTVQGANConfig
from vim_tf.config.values import build, convert, describe, did_you_mean, field_type
from vim_tf.errors import UserError


def refusal(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1_000
    return message


# Dataclasses ------------------------------------------------------------------------------------


def saved(**changes):
    """A `ViTVQGANConfig` as in a preset's config.json, with changes by dotted key."""
    content = json.loads(json.dumps(dataclasses.asdict(ViTVQGANConfig())))
    for path, value in changes.items():
        *sections, key = path.split("__")
        place = content
        for section in sections:
            place = place[section]
        place[key] = value
    return content


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_json_keeps_of_a_config_is_built_to_an_equal_one(name):
    config = EXPERIMENTS[name]()
    content = json.loads(json.dumps(dataclasses.asdict(config)))
    built = build(type(config), content)
    assert built == config
    assert dataclasses.astuple(built) == dataclasses.astuple(config)


def test_lists_become_tuples_and_whole_numbers_floats():
    @dataclasses.dataclass(frozen=True)
    class Inner:
        size: tuple[int, int]

    @dataclasses.dataclass(frozen=True)
    class Outer:
        inner: Inner
        rate: float
        name: str | None

    built = build(Outer, {"inner": {"size": [1, 2]}, "rate": 3, "name": None})
    assert built == Outer(Inner((1, 2)), 3.0, None)
    assert type(built.rate) is float and type(built.inner.size) is tuple


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": "8"}, 'model.patch_size is "8"; expected a whole number'),
        ({"patch_size": 8.0}, "model.patch_size is 8.0; expected a whole number"),
        ({"patch_size": True}, "model.patch_size is true; expected a whole number"),
        ({"patch_size": None}, "model.patch_size is null; expected a whole number"),
        ({"patch_size": [8]}, "model.patch_size is [8]; expected a whole number"),
        ({"encoder__heads": {"a": 1}}, 'model.encoder.heads is {"a": 1}; expected a whole number'),
        ({"encoder__dropout": "0"}, 'model.encoder.dropout is "0"; expected a number'),
        ({"quantizer__codes": 10**13}, "model.quantizer.codes is 10000000000000; at most"),
        ({"quantizer__codes": 2**63}, "model.quantizer.codes is 9223372036854775808; it must be"),
        ({"encoder__blocks": 10**9}, "in model.encoder: transformer.blocks is 1000000000; at most"),
        ({"encoder__dropout": 10**400}, "model.encoder.dropout is 1000"),
        ({"encoder__dropout": float("nan")}, "model.encoder.dropout is NaN; expected a number"),
        ({"encoder__dropout": float("inf")}, "model.encoder.dropout is Infinity; expected a numb"),
        (
            {"output": "rbg"},
            'model.output is "rbg"; expected one of logit_laplace, rgb; did you me',
        ),
        ({"output": ["rgb"]}, 'model.output is ["rgb"]; expected one of logit_laplace, rgb'),
        ({"encoder__heads": 5}, "in model.encoder: dim is 768 and heads is 5; dim must be a mul"),
        (
            {"encoder": "base"},
            'model.encoder is "base"; expected a section with keys blocks, heads',
        ),
        ({"encoder": None}, "model.encoder is null; expected a section with keys blocks"),
        ({"encoder": []}, "model.encoder is []; expected a section with keys blocks"),
        ({"pach_size": 8}, "unknown key model.pach_size; did you mean model.patch_size?"),
        ({"encoder__x": 8}, "unknown key model.encoder.x; allowed here: blocks, heads, dim"),
        ({"codes": 8}, "unknown key model.codes; did you mean model."),
        ({"\x1b[2J" + "x" * 9_000: 8}, "unknown key model.\\x1b[2Jxxx"),
        ({"output": "\x1b[2J" * 9_000}, 'model.output is "\\u001b[2J'),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_key_or_value_is_named(changes, message):
    assert refusal(build, ViTVQGANConfig, saved(**changes), "model").startswith(message)
    by_file = refusal(build, ViTVQGANConfig, saved(**changes), "model", "a/config.json")
    assert by_file.startswith(f"a/config.json: {message}")


@pytest.mark.parametrize("key", ["patch_size", "encoder", "output"])
def test_a_missing_key_is_named_with_its_type(key):
    content = saved()
    del content[key]
    expected = describe(field_type(ViTVQGANConfig, key, ""))
    assert refusal(build, ViTVQGANConfig, content, "model") == (
        f"key model.{key} is missing; expected {expected}"
    )


@pytest.mark.parametrize("values", [None, [], "base", 3])
def test_something_else_than_a_dict(values):
    message = refusal(build, TransformerConfig, values)
    assert message.startswith(f"TransformerConfig is {json.dumps(values)}; expected a section with")


# Values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind", "converted"),
    [
        (1, int, 1),
        (-(2**63), int, -(2**63)),
        (2**63 - 1, int, 2**63 - 1),
        (1, float, 1.0),
        (True, bool, True),
        ("käse 猫 \u202f\u200d", str, "käse 猫 \u202f\u200d"),  # both occur in file names
        (None, str | None, None),
        ("a", str | None, "a"),
        ("a", Literal["a", "b"], "a"),
        ("a", Literal["a", "b"] | None, "a"),
        (None, Literal["a", "b"] | None, None),
        ([1, 2], tuple[int, int], (1, 2)),
        ((1, 2), tuple[int, int], (1, 2)),
        (3, tuple[int, int], (3, 3)),
    ],
)
def test_values_of_the_right_type(value, kind, converted):
    found = convert(value, kind, "key")
    assert (found, type(found)) == (converted, type(converted))


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (2**63, int, "key is 9223372036854775808; it must be from -2^63 to 2^63 - 1"),
        (-(2**63) - 1, int, "key is -9223372036854775809; it must be from -2^63 to 2^63 - 1"),
        (10**350, float, f"key is 1{'0' * 199}... (351 characters); it must be from -2^63"),
        (
            10**5_000,
            int,
            "key is a value of type int, too long to show; it must be from -2^63 to 2^63 - 1",
        ),
        ([1, 2**64], tuple[int, int], "key is 18446744073709551616; it must be from -2^63"),
        (2**64, tuple[int, int], "key is 18446744073709551616; it must be from -2^63"),
        (2**64, str, "key is 18446744073709551616; it must be from -2^63"),
        (float("inf"), float, "key is Infinity; expected a number"),
        (True, int, "key is true; expected a whole number"),
        (True, float, "key is true; expected a number"),
        (1, bool, "key is 1; expected true or false"),
        (None, str, "key is null; expected text"),
        (1, str | None, "key is 1; expected text, or null"),
        ("c", Literal["a", "b"], 'key is "c"; expected one of a, b'),
        ("c", Literal["a", "b"] | None, 'key is "c"; expected one of a, b, or null'),
        ([1], tuple[int, int], "key is [1]; expected a list of 2, each a whole number, or one"),
        ([1, "a"], tuple[int, int], 'key is "a"; expected a whole number'),
        ("a\0b", str, 'key is "a\\u0000b"; text may not hold the character U+0000'),
        ("\x1b[2J", str, 'key is "\\u001b[2J"; text may not hold the character U+001B'),
        ("\x9b", str | None, 'key is "\\x9b"; text may not hold the character U+009B'),
        ("a\nb", str, 'key is "a\\nb"; text may not hold the character U+000A'),
        ("\udcff", str, 'key is "\\udcff"; text may not hold the character U+DCFF'),
        ("x" * 9_000, int, f'key is "{"x" * 199}... (9,002 characters); expected a whole number'),
        (["x"] * 9_000, int, 'key is ["x", "x",'),
    ],
    ids=lambda value: str(type(value))[:10],
)
def test_values_of_another_type(value, kind, message):
    assert refusal(convert, value, kind, "key").startswith(message)
    assert refusal(convert, value, kind, "key", "a.yaml:1").startswith(f"a.yaml:1: {message}")


def test_a_suggestion_is_made_of_long_words_too():
    assert did_you_mean("patch_sise", ["output", "patch_size"], "model") == (
        "; did you mean model.patch_size?"
    )
    assert did_you_mean("x" * 10**6, ["output", "patch_size"]) == ""
    assert did_you_mean(3, ["output"]) == ""
