"""Files that are refused by their header, and how quickly; Pillow's pixels tile by tile."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from vim_tf.data import image_headers, image_limits, pillow_decoding
from vim_tf.data.image_limits import LEAST

LIMIT = 10_000


def encode(mode, size, kind, **options):
    image, file = Image.new(mode, size, 5), io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def read_header(tmp_path):
    def read(data, max_pixels=LIMIT):
        (tmp_path / "file").write_bytes(data)
        return image_headers.read_headers([tmp_path / "file"], max_pixels)[0]

    return read


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WEBP"])
def test_what_is_decoded_whole_counts_whole(read_header, kind):
    assert read_header(encode("L", (100, 100), kind))[:2] == (100, 100)
    assert read_header(encode("L", (101, 100), kind)) == (
        "an image of 101 x 100 pixels is above the limit of 10,000 pixels; make it smaller"
    )


def test_a_jpeg_counts_after_its_reduction(read_header, monkeypatch):
    assert read_header(encode("L", (799, 800), "JPEG"))[:2] == (800, 799)
    assert "801 x 800 pixels is above the limit of 10,000 " in read_header(
        encode("L", (801, 800), "JPEG")
    )
    progressive = encode("L", (101, 100), "JPEG", progressive=True)
    assert "a progressive JPEG of 101 x 100 pixels is above" in read_header(progressive)
    assert read_header(encode("L", (100, 100), "JPEG", progressive=True))[:2] == (100, 100)
    monkeypatch.setattr(image_limits, "MOST", 40_000)
    data = encode("L", (800, 800), "JPEG")
    assert read_header(data)[:2] == (800, 800)
    cut = data[: 800 * 800 // 256 - 1]
    assert read_header(cut) == (
        "its header states 800 x 800 pixels, more than its 2,499 bytes can hold"
    )


def test_where_sizes_must_stay_a_jpeg_counts_whole(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encode("L", (101, 100), "JPEG"))
    found = image_headers.read_headers([tmp_path / "a.jpg"], LIMIT, whole=True)
    assert "101 x 100 pixels is above the limit of 10,000 pixels" in found[0]


def test_the_file_that_shows_several_images_counts_as_a_jpeg(read_header):
    more = {"save_all": True, "append_images": [Image.new("RGB", (200, 200))]}
    assert read_header(encode("RGB", (200, 200), "MPO", **more))[:2] == (200, 200)


def test_without_a_limit_the_one_of_small_models_holds(tmp_path, files):
    (tmp_path / "a.png").write_bytes(files.png(1, LEAST + 1)[:60])
    assert "above the limit of 33,554,432" in image_headers.read_headers([tmp_path / "a.png"])[0]


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WEBP", "progressive"])
def test_pillow_does_not_decode_what_is_above_the_limit(kind):
    options = {"progressive": True} if kind == "progressive" else {}
    data = encode("L", (101, 100), "JPEG" if options else kind, **options)
    with pytest.raises(OSError, match="101 x 100 pixels is above the limit of 10,000 pixels"):
        pillow_decoding.decode_with_pillow(data, LIMIT)
    assert pillow_decoding.decode_with_pillow(data, LIMIT + 100).shape == (100, 101, 3)


@pytest.mark.parametrize(("width", "ratio"), [(100, 1), (101, 2), (201, 4), (401, 8)])
def test_pillow_decodes_a_jpeg_above_the_limit_smaller(width, ratio):
    image = np.array(Image.linear_gradient("L").resize((width, 100)))
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=98)
    got = pillow_decoding.decode_with_pillow(
        file.getvalue(), LIMIT if ratio == 1 else 100 * width // 2
    )
    ratio = 1 if ratio == 1 else 2
    assert got.shape == (100 // ratio, -(-width // ratio), 3)
    if ratio == 1:
        np.testing.assert_allclose(got[..., 0].astype(int), image, atol=2)
    smallest = pillow_decoding.decode_with_pillow(file.getvalue(), 13 * -(-width // 8))
    assert smallest.shape == (13, -(-width // 8), 3)


MODES = {
    "1": "PNG", "L": "PNG", "LA": "PNG", "P": "PNG", "RGB": "PNG", "RGBA": "PNG", "I;16": "PNG",
    "CMYK": "JPEG",
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transparency", [None, 3])
def test_tiles_give_the_pixels_of_the_whole(monkeypatch, mode, transparency):
    """The reference is Pillow's own result on the whole image."""
    rng = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 2**16, (37, 50), "uint16"))
    else:
        image = Image.fromarray(rng.integers(0, 256, (37, 50, 4), "uint8"), "RGBA").convert(mode)
    options = {}
    if transparency is not None and mode in ("L", "P", "RGB"):
        options["transparency"] = (3, 3, 3) if mode == "RGB" else transparency
    file = io.BytesIO()
    image.save(file, MODES[mode], **options)
    with Image.open(file) as opened:
        if mode == "I;16":  # Pillow would clip it to white
            opened = Image.fromarray((np.asarray(opened) >> 8).astype("uint8"))
        whole = opened.convert("RGBA")
    white = Image.new("RGBA", whole.size, "white")
    expected = np.array(Image.alpha_composite(white, whole).convert("RGB"))
    for tile in (1024, 16):
        monkeypatch.setattr(pillow_decoding, "_TILE", tile)
        np.testing.assert_array_equal(pillow_decoding.decode_with_pillow(file.getvalue()), expected)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 3), (300, 7), (16_383, 2)])
@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("options", [{}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}, {"frames": 2}])
def test_who_decodes_a_webp_file(width, height, lossless, mode, options):
    file, frames = io.BytesIO(), options.get("frames", 1)
    colors = [(9, 9, 9, 9)[: len(mode)], (0, 0, 0, 99)[: len(mode)]]
    images = [Image.new(mode, (width, height), color) for color in colors]
    more = {"save_all": True, "append_images": images[1:]} if frames > 1 else options
    images[0].save(file, "WEBP", lossless=lossless, **more)
    with Image.open(file) as image:
        expected = image_headers.TRANSPARENT_WEBP if image.mode == "RGBA" else image_headers.WEBP
        assert image.size == (width, height) and (image.mode, image.n_frames) == (mode, frames)
    if frames > 1:
        expected = image_headers.PILLOW
    data, pixels = file.getvalue(), width * height
    assert image_headers.choose_decoder(data, 0, pixels) == expected
    assert image_headers.choose_decoder(data, 0, pixels - 1) == image_headers.PILLOW
    assert image_headers.choose_decoder(data[:29], 0, pixels) == image_headers.PILLOW


# Hostile metadata -------------------------------------------------------------------------------


def hostile(files):
    exif = files.hostile_exif()
    parts = [b"Exif\0\0" + exif[start : start + 65_000] for start in range(0, len(exif), 65_000)]
    bare = files.jpeg()
    bare = bare[:2] + bare[20:]  # without JFIF, because Pillow would take its resolution
    bomb = zlib.compress(bytes(100_000_000), 9)
    return {
        "PNG, EXIF in a circle": files.png(8, 8, more=files.png_chunk(b"eXIf", exif)),
        "WebP, EXIF in a circle": files.webp(exif=exif),
        "JPEG, EXIF in a circle": bare[:2]
        + b"".join(files.segment(0xE1, part) for part in parts)
        + bare[2:],
        "PNG, colour profile": files.png(
            8, 8, more=files.png_chunk(b"iCCP", b"name\0\0" + bomb)
        ),
        "PNG, texts": files.png(8, 8, more=files.png_chunk(b"zTXt", b"name\0\0" + bomb) * 20),
        "JPEG, segments": files.jpeg(files.segment(0xE5) * 10_000),
        "JPEG, EXIF segments": files.jpeg(files.segment(0xE1, b"Exif\0\0" + bytes(90)) * 10_000),
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd metadata
def test_hostile_metadata_end_quickly(read_header, files, quick):
    for name, data in hostile(files).items():
        found = quick(lambda data=data: read_header(data, LEAST))
        if isinstance(found, str):
            assert len(found) < 200 and "\n" not in found, name
        else:
            assert found[:3] == (8, 8, 1), name
