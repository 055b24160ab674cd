"""Ways to damage a file or to make it hostile, for tests that try many of them."""

import json
import random

NUMBERS = (
    *(-1, 0, 1, 2, 3, 7, 16, 255, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32, 2**53, 2**63),
    *(10**9, 10**13, 10**18, 10**30, -(10**9), 0.5, 1e-300, 1e300, float("nan"), float("inf")),
)
VALUES = (None, True, False, "", "x" * 5000, "../../x", "\x1b[31m", [], {}, [[]], {"a": {"b": 1}})


def mutate(data, rng):
    """Returns changed bytes: flipped bits, cuts, repeats, splices or changed numbers.

    Args:
        data: bytes, not empty.
        rng: a `random.Random`.
    """
    while True:
        changed = rng.choice(_MUTATORS)(bytearray(data), rng)
        if bytes(changed) != data:
            return bytes(changed)


def mutate_json(content, rng):
    """Returns JSON content in which one value is changed, or one key is removed or new.

    Args:
        content: a dict that JSON can hold; it is not changed.
        rng: a `random.Random`.
    """
    content = json.loads(json.dumps(content))
    places = list(_walk(content))
    parent, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind == 0 and isinstance(parent, dict):
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[rng.choice(["more", "", "a" * 3000, "\u202e"])] = rng.choice(VALUES)
    elif kind < 6 and isinstance(parent[key], int | float | list):
        parent[key] = rng.choice(NUMBERS)
    else:
        parent[key] = rng.choice([*VALUES, *NUMBERS])
    return content


def _walk(node):
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in list(items):
        yield node, key
        if isinstance(value, dict | list):
            yield from _walk(value)


def _flip(data, rng):
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _overwrite(data, rng):
    start = rng.randrange(len(data))
    length = rng.choice([1, 2, 4, 8, 64])
    fill = rng.choice([b"\0", b"\xff", b"\x7f", b"9", b"["])
    data[start : start + length] = fill * length
    return data


def _cut(data, rng):
    return data[: rng.randrange(len(data))]


def _drop(data, rng):
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.choice([1, 4, 100]) :]


def _repeat(data, rng):
    start = rng.randrange(len(data))
    part = data[start : start + rng.choice([1, 16, 256])]
    return data[:start] + part * rng.choice([2, 10, 1000]) + data[start:]


def _splice(data, rng):
    a, b = rng.randrange(len(data)), rng.randrange(len(data))
    return data[:a] + data[b:]


def _number(data, rng):
    """Replaces a decimal number by another one."""
    digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    if not digits:
        return _flip(data, rng)
    start = stop = rng.choice(digits)
    while stop < len(data) and 48 <= data[stop] <= 57:
        stop += 1
    return data[:start] + str(rng.choice(NUMBERS)).encode() + data[stop:]


_MUTATORS = (_flip, _flip, _flip, _overwrite, _cut, _drop, _repeat, _splice, _number)


def seeded(*parts):
    """Returns the `random.Random` of a case, the same at each call."""
    return random.Random(" ".join(map(str, parts)))
