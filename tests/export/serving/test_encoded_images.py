"""Encoded images in a graph, compared with Pillow; bad rows in one batch with good ones."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import ExifTags, Image, ImageOps

from vim_tf.data import image_limits, transforms
from vim_tf.export.serving.encoded_images import UNDECODABLE, prepare_images

SIZE = (16, 24)
MAX_PIXELS = 10_000


def encode(pixels, kind, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def make_image(height, width, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), channels))
    return coarse.repeat(8, 0).repeat(8, 1)[:height, :width].astype("uint8")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(height, width, first=b"", more=b""):
    """A small PNG file of many pixels, which are all there, compressed."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(bytes(height * (1 + (width + 7) // 8)), 9))
    return b"\x89PNG\r\n\x1a\n" + first + header + more + rows + chunk(b"IEND", b"")


def segments(data, kind, contents):
    """A JPEG file that begins with these segments."""
    parts = [bytes([0xFF, kind]) + struct.pack(">H", len(part) + 2) + part for part in contents]
    return data[:2] + b"".join(parts) + data[2:]


def repeat_last_scan(data, times):
    """A progressive JPEG file with more scans than Pillow's ten, each of a few bytes."""
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * times + data[-2:]


@pytest.fixture(scope="module")
def prepare():
    graph = tf.function(
        lambda data: prepare_images(data, SIZE, MAX_PIXELS),
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )

    def run(files):
        images, errors = graph(tf.constant(files, tf.string))
        return images.numpy(), [error.decode() for error in errors.numpy()]

    return run


def expected(pixels):
    return transforms.transform_for_evaluation(tf.constant(pixels), SIZE).numpy()


@pytest.mark.parametrize("shape", [(16, 24), (40, 31), (90, 24), (17, 100)])
def test_png_is_prepared_as_for_evaluation(prepare, shape):
    pixels = make_image(*shape)
    images, errors = prepare([encode(pixels, "png")])
    assert errors == [""]
    np.testing.assert_allclose(images[0], expected(pixels), atol=1e-6)


def test_transparent_and_grey_png(prepare):
    clear = make_image(20, 30, 4)
    grey = make_image(20, 30, 1)[..., 0]
    images, errors = prepare([encode(clear, "png"), encode(grey, "png")])
    assert errors == ["", ""]
    alpha = clear[..., 3:] / 255.0
    white = np.rint(clear[..., :3] * alpha + 255 * (1 - alpha)).astype("uint8")
    np.testing.assert_allclose(images[0], expected(white), atol=1e-6)
    np.testing.assert_allclose(images[1], expected(np.stack([grey] * 3, -1)), atol=1e-6)


def test_small_jpeg_has_pillows_pixels(prepare):
    data = encode(make_image(30, 45), "jpeg", quality=90)
    images, errors = prepare([data])
    assert errors == [""]
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_allclose(images[0], expected(pixels), atol=2 / 127.5)


def test_large_jpeg_is_decoded_at_a_reduced_size(prepare):
    """Colours stay the same. Only details below the target's resolution are lost."""
    data = encode(make_image(80, 120), "jpeg", quality=95)
    images, errors = prepare([data])
    assert errors == [""]
    reduced = tf.io.decode_jpeg(data, ratio=2, dct_method="INTEGER_ACCURATE").numpy()
    assert reduced.shape == (40, 60, 3)
    np.testing.assert_allclose(images[0], expected(reduced), atol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_orientation(prepare, orientation, order):
    pixels = make_image(24, 40)
    exif = Image.Exif()
    exif.endian = order
    exif[ExifTags.Base.Make] = "maker"
    exif[ExifTags.Base.Orientation] = orientation
    data = encode(pixels, "jpeg", quality=95, exif=exif.tobytes())
    assert (b"MM\0*" if order == ">" else b"II*\0") in data
    images, errors = prepare([data])
    assert errors == [""]
    turned = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_allclose(images[0], expected(turned), atol=3 / 127.5)


def bad_files():
    good_png, good_jpeg = encode(make_image(30, 30), "png"), encode(make_image(30, 30), "jpeg")
    return {
        "nothing": (b"", "neither JPEG nor PNG"),
        "text": (b"hello" * 20, "neither JPEG nor PNG"),
        "gif": (encode(make_image(8, 8), "gif"), "neither JPEG nor PNG"),
        "cut png": (good_png[: len(good_png) // 2], UNDECODABLE),
        "png without pixels": (good_png[:33], UNDECODABLE),
        "png signature alone": (good_png[:8], UNDECODABLE),
        "cut jpeg": (good_jpeg[: len(good_jpeg) // 2], UNDECODABLE),
        "jpeg start alone": (good_jpeg[:3], UNDECODABLE),
        "no rows": (png_bomb(0, 10), UNDECODABLE),
        "header in the second place": (png_bomb(200, 200, chunk(b"abCd", bytes(13))), UNDECODABLE),
        "bomb": (png_bomb(20_000, 20_000), "an image of 20000 x 20000 pixels; at most 10,000 are"),
        "large jpeg": (encode(make_image(801, 800), "jpeg"), "an image of 801 x 800 pixels"),
        "many scans": (
            repeat_last_scan(encode(make_image(30, 30), "jpeg", progressive=True), 95),
            "image_bytes is a JPEG of more than 100 scans; send it with fewer",
        ),
        "progressive jpeg": (
            encode(make_image(101, 100), "jpeg", progressive=True),
            "an image of 101 x 100 pixels; at most 10,000 are decoded; make it smaller",
        ),
    }


@pytest.mark.parametrize("name", bad_files())
def test_a_bad_row_says_what_is_wrong(prepare, name):
    data, message = bad_files()[name]
    images, errors = prepare([data])
    assert message in errors[0]
    assert not images.any()


def test_bad_rows_leave_their_neighbours_alone(prepare):
    good = [encode(make_image(30, 30, seed=seed), "png") for seed in range(3)]
    bad = [data for data, _ in bad_files().values()]
    files = [bad[0], good[0], *bad[1:4], good[1], *bad[4:], good[2]]
    images, errors = prepare(files)
    alone = [prepare([data])[0][0] for data in good]
    places = [files.index(data) for data in good]
    np.testing.assert_array_equal(images[places], alone)
    assert [i for i, error in enumerate(errors) if not error] == places


def test_no_rows_at_all(prepare):
    images, errors = prepare(np.array([], object))
    assert images.shape == (0, *SIZE, 3)
    assert errors == []


def test_a_jpeg_counts_at_its_reduced_size(prepare):
    """Evaluation's reduction keeps twice the target. If still above the limit, it is halved."""
    files = {
        "whole": encode(make_image(100, 100), "jpeg", progressive=True),
        "evaluation's reduction": encode(make_image(101, 100), "jpeg"),
        "the limit's reduction": encode(make_image(47, 300), "jpeg"),
    }
    images, errors = prepare([*files.values()])
    assert errors == ["", "", ""]
    for data, image, ratio in zip(files.values(), images, (2, 2, 2), strict=True):
        reduced = tf.io.decode_jpeg(data, ratio=ratio, dct_method="INTEGER_ACCURATE").numpy()
        assert reduced.shape[0] * reduced.shape[1] <= MAX_PIXELS
        np.testing.assert_allclose(image, expected(reduced), atol=1e-4)


def test_a_baseline_jpeg_may_have_any_size_that_its_bytes_can_hold(monkeypatch, prepare):
    monkeypatch.setattr(image_limits, "MOST", 40_000)
    pixels = make_image(800, 800)
    good = encode(pixels, "jpeg")
    lying = bytearray(good)
    frame = good.index(b"\xff\xc0")
    lying[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 10)
    sparse = encode(np.zeros_like(pixels), "jpeg")[: 640_000 // 256 - 1]
    files = tf.constant([good, bytes(lying), sparse])
    images, errors = prepare_images(files, SIZE, MAX_PIXELS)
    assert errors.numpy()[0] == b""
    assert b"65500 x 10 pixels; at most 10,000" in errors.numpy()[1]
    assert errors.numpy()[2] == UNDECODABLE.encode()
    reduced = tf.io.decode_jpeg(good, ratio=8, dct_method="INTEGER_ACCURATE").numpy()
    np.testing.assert_allclose(images[0], expected(reduced), atol=1e-4)


def hostile_exif(entries):
    """EXIF entries that all point to the same bytes, in a directory that follows itself."""
    start = 8 + 2 + 12 * entries + 4
    fields = b"".join(struct.pack(">HHLL", tag, 7, 30_000, start) for tag in range(entries))
    head = b"MM\0*\0\0\0\x08" + struct.pack(">H", entries)
    return head + fields + b"\0\0\0\x08" + bytes(30_000)


def test_hostile_metadata_end_quickly(prepare, quick):
    jpeg, exif = encode(make_image(30, 30), "jpeg"), hostile_exif(65_535)
    parts = [b"Exif\0\0" + exif[start : start + 65_000] for start in range(0, len(exif), 65_000)]
    profile = chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(100_000_000), 9))
    text = chunk(b"zTXt", b"name\0\0" + zlib.compress(bytes(1_000_000), 9))
    files = {
        "EXIF in a circle": segments(jpeg, 0xE1, parts),
        "10,000 segments": segments(jpeg, 0xE5, [b""] * 10_000),
        "a million segments": segments(jpeg, 0xE5, [b""] * 1_000_000),
        "PNG's EXIF": png_bomb(30, 30, more=chunk(b"eXIf", exif)),
        "PNG's colour profile": png_bomb(30, 30, more=profile),
        "PNG's texts": png_bomb(30, 30, more=text * 100),
    }
    for name, data in files.items():
        _, errors = quick(lambda data=data: prepare([data]))
        assert errors == [""], name


def test_scans_count_only_where_a_decoder_goes_on_to_the_next(prepare):
    """Phones may append a film to a photograph, which may contain the marker by chance."""
    photograph = encode(make_image(30, 30), "jpeg", quality=95)
    progressive = encode(make_image(30, 30), "jpeg", progressive=True)
    assert progressive.count(b"\xff\xda") == 10
    images, errors = prepare(
        [photograph, photograph + b"\xff\xda" * 200, repeat_last_scan(progressive, 90)]
    )
    assert errors == ["", "", ""]
    np.testing.assert_array_equal(images[0], images[1])
