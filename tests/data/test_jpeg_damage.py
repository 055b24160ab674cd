"""Damaged JPEG files that decoders show in part, and odd ones that are whole."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from vim_tf.config.sections import DataConfig
from vim_tf.data.jpeg_damage import find_damage
from vim_tf.data.left_out import LeftOut
from vim_tf.data.sources import folder as folder_source
from vim_tf.errors import UserError
from vim_tf.evaluation.image_sources import open_images


def photo(mode="RGB"):
    """Blocks of colours with noise, so that a scan has many bits for each block."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 18, 3)).repeat(8, 0).repeat(8, 1)
    pixels = pixels // 2 + rng.integers(0, 128, pixels.shape)
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def encode(mode="RGB", **options):
    file = io.BytesIO()
    photo(mode).save(file, "JPEG", **options)
    return file.getvalue()


def decode(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def with_height(data, factor):
    place = data.index(b"\xff\xc0") + 5
    height = struct.unpack(">H", data[place : place + 2])[0]
    return data[:place] + struct.pack(">H", int(height * factor)) + data[place + 2 :]


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 1}, {"keep_rgb": True}],
    ids=str,
)
def test_whole_files_are_whole(mode, options):
    assert find_damage(encode(mode, **options)) is None


def odd(segment):
    """Files that libjpeg warns of, or others might, and that every viewer shows whole."""
    data = encode()
    tables = data.index(b"\xff\xdb")
    transform = segment(0xEE, b"Adobe\0\x64\0\0\0\0\x09")
    wrong = data[:2] + segment(0xE2, b"ICC_PROFILE\0\5\1rubbish") + data[2:]
    return {
        "bytes after the end": data + b"\0a film" * 1000,
        "a second image after the end": data + encode("L"),
        "zeros before the end": data[:-2] + bytes(5000) + data[-2:],
        "a few bytes before the end": data[:-2] + b"\1\2\3" + data[-2:],
        "bytes between segments": data[:tables] + b"junk" * 50 + data[tables:],
        "an unknown version of JFIF": data.replace(b"JFIF\0\1\1", b"JFIF\0\5\1"),
        "an unknown transform of Adobe": data[:2] + transform + data[2:],
        "a broken colour profile": wrong,
    }


@pytest.mark.parametrize("kind", odd(lambda *_: b""))
def test_odd_files_that_are_shown_whole_are_read(files, kind):
    data = odd(files.segment)[kind]
    if "Adobe" not in kind:
        np.testing.assert_array_equal(decode(data), decode(encode()))
    assert find_damage(data) is None


def damaged():
    """{kind: (file, libjpeg's words)}; Pillow decodes each without a word."""
    data = encode()
    middle = data.index(b"\xff\xda") + 200
    zeros = data[:middle] + bytes(600) + data[middle + 600 :]
    restarts = encode(restart_marker_rows=1)
    lost = restarts.index(b"\xff\xd2")
    return {
        "height doubled": (with_height(data, 2), "premature end of data segment"),
        "height halved": (with_height(data, 0.5), "extraneous bytes before marker 0xd9"),
        "zeros inside": (zeros, "premature end of data segment|bad Huffman|extraneous"),
        "a lost restart": (
            restarts[:lost] + restarts[lost + 2 :],
            "found marker 0xd3 instead of RST2|extraneous|premature end",
        ),
    }


@pytest.mark.parametrize("kind", damaged())
def test_damage_that_decoders_pass_over_is_found(kind):
    data, words = damaged()[kind]
    assert decode(data).size  # Pillow sees nothing
    found = find_damage(data)
    assert found and any(word in found for word in words.split("|"))


def test_part_of_the_visible_damage_of_one_flipped_bit_is_found():
    """Many flips leave valid codes up to the end. No decoder can tell them from an image."""
    data, rng = encode(), np.random.default_rng(0)
    whole, seen, found = decode(data), 0, 0
    start = data.index(b"\xff\xda")
    for _ in range(150):
        flipped = bytearray(data)
        flipped[rng.integers(start + 10, len(data) - 2)] ^= 1 << int(rng.integers(8))
        try:
            changed = (np.abs(decode(bytes(flipped)) - whole).max(-1) > 24).mean()
        except OSError:
            continue
        if changed > 0.05:
            seen += 1
            found += find_damage(bytes(flipped)) is not None
    assert seen > 20 and found > seen / 4


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"hello"]
)
def test_what_is_no_jpeg_is_left_to_its_decoder(data):
    assert find_damage(data) is None


def test_a_file_that_a_decoder_refuses_is_not_decoded_to_check_it():
    """Its coefficients would need memory, and its scans time."""
    data = encode(progressive=True)
    damaged = data[: len(data) // 2]
    assert find_damage(damaged) and find_damage(damaged, 96 * 144)
    assert find_damage(damaged, 96 * 144 - 1) is None
    last = data[data.rindex(b"\xff\xda") : -2]
    assert find_damage(data[:-2] + last * 95) is None


def write(folder):
    for name, data in {"good.jpg": encode(), "tall.jpg": damaged()["height doubled"][0]}.items():
        (folder / name).write_bytes(data)


def test_a_folder_names_the_damaged_file_and_says_libjpegs_words(tmp_path):
    write(tmp_path)
    settings = {"source": "folder", "path": str(tmp_path), "image_size": (16, 16)}
    reason = "damaged: Corrupt JPEG data: premature end of data segment"
    with pytest.raises(UserError, match=f"tall.jpg cannot be read: {reason}"):
        folder_source.open_folder(str(tmp_path), "data.path", DataConfig(**settings))
    config = DataConfig(**settings, on_error="skip")
    omitted = LeftOut()
    opened = folder_source.open_folder(str(tmp_path), "data.path", config, omitted)
    assert opened.names == ("good.jpg",) and len(opened.images) == 1
    ((path, why),) = omitted.entries()
    assert path.endswith("tall.jpg") and why.startswith(reason)


def test_evaluation_names_it_too(tmp_path):
    write(tmp_path)
    batches = open_images(tmp_path, "images", (16, 16)).batches(1)
    assert next(batches).shape == (1, 16, 16, 3)
    with pytest.raises(UserError, match="tall.jpg cannot be decoded .damaged: Corrupt JPEG data"):
        next(batches)
