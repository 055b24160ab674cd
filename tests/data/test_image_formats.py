"""Which format a file has, what it needs, and files of formats that cannot be read here."""

import builtins
import io
import struct

import numpy as np
import pytest
from PIL import Image

from vim_tf.config.sections import DataConfig
from vim_tf.data import image_formats, image_headers
from vim_tf.data.image_limits import LEAST
from vim_tf.data.pillow_decoding import decode_with_pillow, refuse
from vim_tf.data.sources import folder as folder_source
from vim_tf.errors import UserError
from vim_tf.evaluation.image_sources import open_images

HEIC = b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf"
AVIF = b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf"


def encode(kind, mode="RGB", **options):
    file = io.BytesIO()
    Image.new(mode, (8, 8)).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("known", image_formats.FORMATS, ids=lambda known: known.name)
def test_a_file_that_pillow_writes_has_its_format(known):
    reason = image_formats.missing_support(known)
    if reason:
        pytest.skip(reason)
    data = encode(known.pillow)
    assert image_formats.find_format(data[:64]) is known
    with image_formats.open_image(io.BytesIO(data)) as image:
        assert image.format == known.pillow and image.size == (8, 8)
    for ending in known.endings:
        assert ending in image_formats.EXTENSIONS and ending == ending.lower()


def test_the_brands_decide_between_avif_and_heic():
    assert image_formats.find_format(HEIC).name == "HEIC"
    assert image_formats.find_format(AVIF).name == "AVIF"
    assert image_formats.find_format(b"\0\0\0\x18ftypisom\0\0\0\0mp42isom") is None


@pytest.mark.parametrize(
    "head", [b"", b"hello", b"%PDF-1.7", b"PK\3\4", b"\0" * 64, b"RIFF1234WAVE"]
)
def test_other_files_have_none(head):
    assert image_formats.find_format(head) is None


@pytest.fixture
def no_plugins(monkeypatch):
    """As on a machine without pillow-heif, with a Pillow without AVIF."""
    imported = builtins.__import__

    def refuse(name, *arguments):
        if name == "pillow_heif":
            raise ImportError(name)
        return imported(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setattr(image_formats.features, "check", lambda _: False)
    image_formats._register_heif.cache_clear()
    yield
    image_formats._register_heif.cache_clear()


@pytest.mark.usefixtures("no_plugins")
def test_without_its_plug_in_a_file_says_what_to_install(tmp_path):
    (tmp_path / "a.heic").write_bytes(HEIC + bytes(100))
    (tmp_path / "b.avif").write_bytes(AVIF + bytes(100))
    found = image_headers.read_headers([tmp_path / "a.heic", tmp_path / "b.avif"])
    assert found == [
        "reading HEIC needs a package; run: pip install pillow-heif",
        "this Pillow was built without AVIF; run: pip install --force-reinstall Pillow",
    ]
    config = DataConfig(source="folder", path=str(tmp_path), image_size=(8, 8))
    with pytest.raises(UserError, match="a.heic cannot be read: .*pip install pillow-heif .2 of 2"):
        folder_source.open_folder(str(tmp_path), "data.path", config)
    with pytest.raises(UserError, match="a.heic cannot be read: .*pip install pillow-heif"):
        open_images(tmp_path, "images")


@pytest.mark.parametrize(("mode", "words"), [("I", "32-bit integers"), ("F", "floating-point")])
def test_pixels_of_32_bits_are_refused_everywhere_in_one_line(tmp_path, mode, words):
    data = encode("TIFF", mode)
    (tmp_path / "a.tif").write_bytes(data)
    message = f"its pixels are {words}.*save it with 8 or 16 bits per channel"
    assert "\n" not in image_headers.read_headers([tmp_path / "a.tif"])[0]
    config = DataConfig(source="folder", path=str(tmp_path), image_size=(8, 8))
    with pytest.raises(UserError, match=message):
        folder_source.open_folder(str(tmp_path), "data.path", config)
    with pytest.raises(UserError, match=message):
        open_images(tmp_path, "images")
    with pytest.raises(OSError, match=message):
        decode_with_pillow(data)


def tiff(*more, bits=8, pixels=bytes(64)):
    """A grey TIFF of 8 x 8 pixels with the fields (tag, value) of one SHORT each (TIFF 6.0)."""
    size = [(256, 8), (257, 8), (258, bits), (259, 1), (262, 1)]
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in [*size, *more])
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(size) + len(more)) + entries + bytes(4)
    return head.ljust(200, b"\0") + pixels


@pytest.mark.parametrize(("side", "fits"), [(16, True), (60_000, False)])
def test_a_tile_that_is_larger_than_its_image_counts(side, fits):
    """A decoder holds a whole tile."""
    data = tiff((322, side), (323, side), (324, 200), (325, 64), pixels=bytes(256))
    with image_formats.open_image(io.BytesIO(data)) as image:
        assert image.size == (8, 8)
        refusal = refuse(image, lambda: data, LEAST)
    assert (refusal is None) == fits
    if not fits:
        assert "above the limit" in refusal


def test_twelve_bits_of_a_grey_tiff_are_cut_to_eight():
    """Pillow does not write them."""
    values = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)
    packed = bytearray()
    for first, second in values.reshape(-1, 2).tolist():
        packed += bytes([first >> 4, (first & 15) << 4 | second >> 8, second & 255])
    data = tiff((273, 200), (278, 8), (279, 96), bits=12, pixels=bytes(packed))
    expected = (values >> 4).astype(np.uint8)[..., np.newaxis].repeat(3, -1)
    np.testing.assert_array_equal(decode_with_pillow(data), expected)
