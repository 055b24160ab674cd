"""Ways to damage a file or to make it hostile.

Each `draw_*` takes a random generator and returns changes as plain JSON values; `apply_*` makes
them. So a case can be kept, sent to another process, and tried again. The generator is one of
Hypothesis, which then finds the smallest changes that still fail, or a `random.Random`.
"""

import gzip
import io
import json
import random
import struct
import zipfile
import zlib

NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 16, 255, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32, 2**53, 2**63),
    *(10**9, 10**13, 10**18, 10**30, -(10**9), 0.5, 1e-300, 1e300, float("nan"), float("inf")),
)
VALUES = (None, True, False, "", "x" * 5000, "../../x", "\x1b[31m", [], {}, [[]], {"a": {"b": 1}})
KEYS = ("more", "", "a" * 3000, "\u202e", "__class__", "checksum")
FILLS = (0, 255, 127, ord("9"), ord("["))


def mutate(data, rng):
    """Returns changed bytes: flipped bits, cuts, repeats, splices or changed numbers.

    Args:
        data: bytes, not empty.
        rng: a `random.Random`.
    """
    while True:
        changed = apply_edits(data, draw_edits(data, rng))
        if changed != data:
            return changed


def mutate_json(content, rng):
    """Returns JSON content in which one value is changed, or one key is removed or new.

    Args:
        content: a dict that JSON can hold; it is not changed.
        rng: a `random.Random`.
    """
    return apply_changes(content, [draw_change(content, rng)])


def seeded(*parts):
    """Returns the `random.Random` of a case, the same at each call."""
    return random.Random(" ".join(map(str, parts)))


# Bytes --------------------------------------------------------------------------------------------


def draw_edits(data, rng):
    """Returns a list of edits for `apply_edits`: [name, place, ...]."""
    return [draw_edit(data, rng) for _ in range(rng.choice([1, 1, 1, 2, 5]))]


def draw_edit(data, rng):
    """Returns one edit; half of them flip a bit, which is also the simplest one."""
    place, kind = rng.randrange(max(len(data), 1)), rng.randrange(12)
    if kind < 6:
        return ["flip", place, rng.randrange(8)]
    if kind == 6:
        return ["write", place, rng.choice([1, 2, 4, 8, 64]), rng.choice(FILLS)]
    if kind == 7:
        return ["cut", place]
    if kind == 8:
        return ["drop", place, rng.choice([1, 4, 100])]
    if kind == 9:
        return ["repeat", place, rng.choice([1, 16, 256]), rng.choice([2, 10, 1000, 50_000])]
    if kind == 10:
        return ["splice", place, rng.randrange(max(len(data), 1))]
    return ["number", place, str(rng.choice(NUMBERS))]


def apply_edits(data, edits):
    """Returns changed bytes. A place beyond the end counts from the start again."""
    for name, place, *rest in edits:
        data = bytes(_EDITS[name](bytearray(data), place % max(len(data), 1), *rest))
    return data


def _flip(data, place, bit):
    if data:
        data[place] ^= 1 << bit
    return data


def _write(data, place, length, byte):
    data[place : place + length] = bytes([byte]) * length
    return data


def _repeat(data, place, length, times):
    part = data[place : place + length]
    return data[:place] + part * min(times, 10**6 // max(len(part), 1)) + data[place:]


def _splice(data, place, other):
    return data[:place] + data[other:]


def _number(data, place, text):
    """Replaces the first decimal number from a place on."""
    digits = range(48, 58)
    start = next((i for i in range(place, len(data)) if data[i] in digits), None)
    if start is None:
        return _flip(data, place, 0)
    stop = start
    while stop < len(data) and data[stop] in digits:
        stop += 1
    return data[:start] + text.encode() + data[stop:]


_EDITS = {
    "flip": _flip,
    "write": _write,
    "cut": lambda data, place: data[:place],
    "drop": lambda data, place, length: data[:place] + data[place + length :],
    "repeat": _repeat,
    "splice": _splice,
    "number": _number,
}


# JSON ---------------------------------------------------------------------------------------------


def draw_changes(content, rng):
    """Returns a list of changes for `apply_changes`."""
    return [draw_change(content, rng) for _ in range(rng.choice([1, 1, 1, 2, 4]))]


def draw_change(content, rng):
    """Returns one change: [place, a list of keys and indices; "set", "delete" or "add"; value]."""
    place = _draw_place(content, rng)
    if not place:
        return [[], "add", rng.choice(KEYS), rng.choice(VALUES)]
    value, kind = _at(content, place), rng.randrange(8)
    if kind == 7:
        return [place, "delete"]
    if kind == 6 and isinstance(value, dict):
        return [place, "add", rng.choice(KEYS), rng.choice(VALUES)]
    if kind < 3 and isinstance(value, int) and abs(value) < 2**40:
        return [place, "set", rng.choice([value * 2, value // 2, value + 1, value - 1])]
    if kind < 5 and isinstance(value, int | float | list):
        return [place, "set", rng.choice(NUMBERS)]
    return [place, "set", rng.choice([*VALUES, *NUMBERS])]


def apply_changes(content, changes):
    """Returns changed JSON content; a change whose place has gone is left out."""
    content = json.loads(json.dumps(content))
    for place, what, *rest in changes:
        try:
            parent = _at(content, place[:-1])
            if what == "delete":
                del parent[place[-1]]
            elif what == "set":
                parent[place[-1]] = rest[0]
            else:
                _at(content, place)[rest[0]] = rest[1]
        except (KeyError, IndexError, TypeError):
            continue
    return content


def _at(content, place):
    for key in place:
        content = content[key]
    return content


def _draw_place(node, rng):
    """A list of keys and indices, drawn one after the other: each key of a level is as likely."""
    place: list[str | int] = []
    while isinstance(node, dict | list) and node:
        if rng.randrange(6) == 5:
            break
        key = rng.choice(sorted(node) if isinstance(node, dict) else range(len(node)))
        place.append(key)
        node = node[key]
    return place


# Archives and images --------------------------------------------------------------------------


def repack(data, change):
    """Packs a zip archive again, with right checksums.

    Args:
        data: its bytes.
        change: a function ({name: bytes}) -> the same, changed.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in change(members).items():
            archive.writestr(name, content)
    return packed.getvalue()


def members_of(data):
    """Returns {name: bytes} of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {member.filename: archive.read(member) for member in archive.infolist()}


def edit_member(data, name, edits):
    """Changes one member of a zip archive by `apply_edits`."""
    return repack(data, lambda members: members | {name: apply_edits(members[name], edits)})


def edit_gzipped(data, edits):
    """Changes the content of a gzipped file."""
    return gzip.compress(apply_edits(gzip.decompress(data), edits), 1, mtime=0)


def make_png(width, height, depth, kind):
    """Returns a PNG of zeros with right checksums; above 2^27 bytes its pixels are missing.

    Args:
        width: pixels.
        height: pixels.
        depth: bits of a channel.
        kind: the colour type of its header.
    """
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(kind, 1)
    size = height * (1 + (width * depth * channels + 7) // 8)
    pixels = zlib.compress(bytes(size if size <= 2**27 else 10), 1)
    parts = [b"\x89PNG\r\n\x1a\n"]
    header = struct.pack(">2I5B", width, height, depth, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    for name, content in chunks:
        sealed = name + content
        parts += [struct.pack(">I", len(content)), sealed, struct.pack(">I", zlib.crc32(sealed))]
    return b"".join(parts)
