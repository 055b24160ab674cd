"""Config files of strangers: each is quickly read, or refused in one short line."""

import random
import re
from pathlib import Path

import pytest

from vim_tf.config.experiments import EXPERIMENTS, VIMExperiment, ViTVQGANExperiment
from vim_tf.config.loader import MOST_DIFFERENCES, config_help, diff, load_config, to_yaml
from vim_tf.errors import UserError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))
BLOCKS, MUTATIONS = 20, 100
# Each begins a text that gave a traceback, a hang, or a message of megabytes in some loader.
PIECES = [
    *("&a ", "*a", "&a [*a, *a]", "<<: *a", "!!bool ", "!!timestamp ", "!!python/name:os.system "),
    *("!!binary ", "!x ", "! ", "!<", "!!set {", "!!omap [", "!!int ", "!!float "),
    *("9" * 20, "9" * 350, "9" * 5_000, "-" + "9" * 20, "1e999", "0x" + "f" * 400, "1_" * 300),
    *("[" * 50, "[" * 5_000, "{a: " * 50, "{" * 5_000, "- " * 5_000, "? " * 5_000, "]" * 50),
    *("---\n", "...\n", "--- &x\n", "%YAML 1.1\n", "%TAG ! a\n", "\t", "\r", "\n", "\0", "\x1b[2J"),
    *(
        '"\\UFFFFFFFF"',
        '"\\0"',
        '"\\ud800"',
        '"\\e[2J"',
        '"\\N"',
        "'",
        '"',
        "|\n",
        ">\n",
        "|9",
        "`",
    ),
    *("x" * 11_000, "é" * 300, "\u202e", "\ufeff", "\u2028", "\x85", ": ", ",", "#", "@", "%"),
    *(".inf", ".nan", "null", "~", "true", "-1", "0", "1e-400", "2147483648", "experiment: vim\n"),
]


def mutate(text, generator):
    """Changes bytes of a config a few times."""
    data = bytearray(text.encode())
    for _ in range(generator.randint(1, 4)):
        place = generator.randrange(len(data) + 1)
        kind = generator.randrange(5)
        if kind == 0 and data:
            data[place % len(data)] ^= 1 << generator.randrange(8)
        elif kind == 1:
            data[place:place] = generator.choice(PIECES).encode()
        elif kind == 2:  # a new value
            ends = [match.end() for match in re.finditer(rb"[:,[] ?", bytes(data))] or [0]
            end = generator.choice(ends)
            data[end:end] = generator.choice(PIECES).encode() + b" "
        elif kind == 3:
            other = generator.choice(CONFIGS).read_bytes()
            start = generator.randrange(len(other))
            data[place : place + generator.randrange(40)] = other[start : start + 200]
        else:
            del data[place : place + generator.randrange(1, 60)]
    return bytes(data)


@pytest.mark.large
def test_a_mutated_config_is_read_or_refused_in_one_line_at_once(tmp_path, monkeypatch, quick):
    monkeypatch.chdir(tmp_path)
    refused = sum(quick(lambda block=block: count_refused(block)) for block in range(BLOCKS))
    assert 0.5 < refused / (BLOCKS * MUTATIONS) < 0.98  # both outcomes are common


def count_refused(block):
    """Reads some mutated configs; returns how many were refused."""
    generator, refused = random.Random(block), 0
    path, again = Path("a.yaml"), Path("b.yaml")
    for number in range(MUTATIONS):
        path.write_bytes(mutate(generator.choice(CONFIGS).read_text(), generator))
        try:
            config = load_config([path])
        except UserError as error:
            refused += 1
            message = str(error)
            assert len(message) <= 1_000, (block, number)
            assert message.isprintable(), (block, number)
        else:
            again.write_text(to_yaml(config))
            assert load_config([again]) == config, (block, number)
    return refused


# Overrides --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.image_size=&a [*a]", "the anchor &a is not allowed; leave it out"),
        ("seed=*a", "the alias *a is not allowed; write the value itself instead"),
        ("training.jit_compile=!!bool yes", "the tag !!bool is not allowed; leave it out"),
        ("seed=!x 1", "the tag !x is not allowed; leave it out"),
        ("seed=" + "[" * 9_000, "more than 20 sections or lists are nested"),
        ("seed=" + "9" * 350, f"seed is {'9' * 200}... (350 characters); it must be from -2^63 to"),
        ("seed=" + "9" * 5_000, "seed has a number of more than 4,300 digits; it must be from -2"),
        ("seed=-9223372036854775809", "seed is -9223372036854775809; it must be from -2^63 to 2^"),
        ("optimizer.beta_1=1e999", "optimizer.beta_1 is Infinity; expected a number"),
        ("seed=1\n---\n2", "a second document begins here"),
        ("data.path=" + "x" * 10_000, "at most 10,000 characters are allowed"),
        ("data.path=\x1b[2J", 'data.path is "\\u001b[2J"; text may not hold the character U+001B'),
        ("data.path=a\0", "text may not hold the character U+0000"),
        ("data." + "x" * 9_000 + "=1", "unknown key data.xxx"),
        ("\x1b[2J=1", "unknown key \\x1b[2J; allowed here: seed, data"),
        ("x" * 9_000 + "=", "the value is missing; to unset a key write xxx"),
        (".".join("x" * 4_000) + "=1", "unknown key x; allowed here"),
        ("experiment=" + "x" * 9_000, 'experiment is "xxx'),
    ],
    ids=lambda text: text[:30],
)
def test_an_override_is_refused_in_one_short_line(override, message, quick):
    def refuse():
        with pytest.raises(UserError) as caught:
            load_config([], ["experiment=vim", override])
        return str(caught.value)

    found = quick(refuse)
    assert found.startswith("--set ") and f": {message}" in found or message in found
    assert found.isprintable()
    assert len(found) < 1_000


# Files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"seed: {'9' * 350}", f"a.yaml:2: seed is {'9' * 200}... (350 characters); it must be fr"),
        (f"seed: {'9' * 5_000}", "a.yaml:2: seed has a number of more than 4,300 digits; it must"),
        ("optimizer: {beta_1: 1e999}", "a.yaml:2: optimizer.beta_1 is Infinity; expected a number"),
        ("model: &a {transformer: *a}", "a.yaml:2: the anchor &a is not allowed; leave it out"),
        ("data: [[[[[1]]]]]", "a.yaml:2: data is [[[[[1]]]]]; expected a section with keys"),
        ('data: {path: "\\e[2J"}', 'a.yaml:2: data.path is "\\u001b[2J"; text may not hold the ch'),
        (f"{'x' * 9_000}: 1\n", "a.yaml:2: not valid YAML: "),  # no key is that long
        (f"? {'x' * 9_000}\n: 1\n", f"a.yaml:2: unknown key {'x' * 200}... (9,000 characters); a"),
        ("? x\n: 1\n? !!str x\n: 2", "a.yaml:4: the tag !!str is not allowed; leave it out"),
        (
            f"model: {{transformer: {'x' * 9_000}}}",
            f'a.yaml:2: model.transformer is "{"x" * 199}..',
        ),
        ('"\\e[2J": 1', "a.yaml:2: unknown key \\x1b[2J; allowed here: seed"),
        ("data: {batch_size: 9000000000000}", "data.batch_size is 9000000000000; at most 1,048,5"),
    ],
    ids=lambda text: text[:30],
)
def test_a_file_is_refused_in_one_short_line(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(f"experiment: vim\n{text}")
    with pytest.raises(UserError) as caught:
        load_config(["a.yaml"])
    assert str(caught.value).startswith(message)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1_000


# Differences ------------------------------------------------------------------------------------


def test_differences_are_few_and_short():
    changed = {"blocks": 2, "heads": 2, "dim": 64, "mlp_dim": 7, "dropout": 0.5}
    overrides = [
        f"model.{part}.{key}={value}"
        for part in ("encoder", "decoder")
        for key, value in changed.items()
    ]
    optimizer = {
        "learning_rate": 1,
        "beta_1": 0.5,
        "beta_2": 0.5,
        "weight_decay": 1,
        "clip_norm": 1,
        "warmup_steps": 1,
        "decay_start": 1,
    }
    overrides += [
        f"{part}.{key}={value}"
        for part in ("optimizer", "discriminator_optimizer")
        for key, value in optimizer.items()
    ]
    config = load_config([], ["experiment=vit_vqgan", *overrides])
    lines = diff(ViTVQGANExperiment(), config)
    assert len(overrides) == 24
    assert len(lines) == MOST_DIFFERENCES + 1 == 21
    assert lines[-1] == "and 4 more"
    assert all(" -> " in line for line in lines[:-1])
    few = load_config([], ["experiment=vit_vqgan", *overrides[:20]])
    assert len(diff(ViTVQGANExperiment(), few)) == 20
    path = load_config([], ["experiment=vim", f"data.path={'x' * 9_000}"])
    (line,) = diff(VIMExperiment(), path)
    assert line == f'data.path: null -> "{"x" * 199}... (9,002 characters)'


def test_help_is_not_cut():
    text = config_help()
    assert "characters)" not in text
    assert all(name in text for name in EXPERIMENTS)
