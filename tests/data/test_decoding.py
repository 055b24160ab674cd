"""All kinds of image files, decoded once at the start (held) or while training (read)."""

import dataclasses
import io
import pathlib
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from vim_tf.config.sections import DataConfig
from vim_tf.data import decoding, image_headers, pillow_decoding
from vim_tf.data.sources import folder as folder_source


def smooth(height=40, width=60, seed=0):
    """An image of a few random waves, which JPEG hardly changes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [
        np.sin(2 * np.pi * (a * x + b * y) + c)
        for a, b, c in rng.uniform(-1.5, 1.5, (3, 3)) * [1, 1, 4]
    ]
    return Image.fromarray(np.uint8(np.stack(waves, -1) * 120 + 128))


def write_formats(folder):
    for name in ("a.png", "b.PNG", "c.bmp", "d.Bmp", "e.gif", "f.webp", "g.WEBP"):
        smooth().save(folder / f"format_{name}", **({"lossless": True} if "w" in name else {}))
    for name in ("h.jpg", "i.JPEG"):
        smooth().save(folder / f"format_{name}", quality=95)
    smooth().save(folder / "format_png_inside.jpg", "PNG")
    more = {"save_all": True, "append_images": [smooth(seed=1)]}
    smooth().save(folder / "format_two_in_one.jpg", "MPO", **more)
    smooth().save(folder / "moving.gif", **more)
    smooth().save(folder / "moving.webp", lossless=True, **more)


def write_orientations(folder):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        smooth().save(folder / f"turned_{orientation}.jpg", exif=exif, quality=95)
        smooth().save(folder / f"turned_{orientation}.png", exif=exif)
        smooth().save(folder / f"turned_{orientation}.webp", exif=exif, lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 77
    smooth().save(folder / "upright_77.jpg", exif=exif)
    smooth().save(folder / "upright_damaged.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0")


def write_transparent(folder):
    rgba = smooth().convert("RGBA")
    rgba.putalpha(smooth(seed=1).convert("L"))
    few = smooth().quantize(4)
    rgba.save(folder / "clear_rgba.png")
    rgba.convert("LA").save(folder / "clear_la.png")
    smooth().quantize(200).save(folder / "clear_palette8.png", transparency=7)
    few.save(folder / "clear_palette2.png", transparency=1)
    few.save(folder / "clear_key.gif", transparency=1)
    smooth().convert("L").save(folder / "clear_grey.png", transparency=128)
    smooth().save(folder / "clear_color.png", transparency=smooth().getpixel((3, 4)))
    rgba.save(folder / "clear_lossless.webp", lossless=True, exact=True)
    rgba.save(folder / "clear_lossy.webp", quality=90)
    rgba.save(folder / "clear_moving.webp", save_all=True, append_images=[rgba.rotate(180)])


def write_modes(folder):
    smooth().quantize(4).save(folder / "format_palette2.png")
    smooth().convert("1").save(folder / "format_bit.png")
    smooth().convert("L").save(folder / "format_grey.jpg", quality=95)
    smooth().save(folder / "format_lossy.webp", quality=90)
    Image.fromarray(deep_grey()).save(folder / "deep.png")
    smooth().convert("CMYK").save(folder / "cmyk.jpg", quality=95)


def deep_grey():
    return (np.array(smooth().convert("L")).astype(np.uint16) << 8) + 77


@dataclasses.dataclass
class Zoo:
    folder: pathlib.Path
    decoded: dict

    def some(self, prefix, least):
        """The files with names that start with `prefix`, as (path, decoded)."""
        found = [name for name in self.decoded if name.startswith(prefix)]
        assert len(found) >= least
        return [(self.folder / name, self.decoded[name]) for name in found]


@pytest.fixture(scope="module", params=["held", "read"])
def zoo(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    for write in (write_formats, write_orientations, write_transparent, write_modes):
        write(folder)
    # The images are smaller than twice the target, so they are held in full size.
    config = DataConfig(source="folder", path=str(folder), image_size=(60, 60))
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "read":
            patch.setattr(folder_source, "MEMORY", 0)
            patch.setattr(folder_source, "CHECKED", 0)
        opened = folder_source.open_folder(str(folder), "data.path", config)
        split = folder_source._make_split(opened, (), config)
    assert (opened.images is None) == (request.param == "read")
    images = tf.data.Dataset.range(split.size).map(lambda index: split.load(index)[0])
    return Zoo(folder, dict(zip(opened.names, images.as_numpy_iterator(), strict=True)))


def read(path):
    with Image.open(path) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def test_all_formats_and_modes_are_decoded_as_pillow_does(zoo):
    for path, got in zoo.some("format_", 15):
        assert got.dtype == np.uint8 and got.shape == (40, 60, 3)
        np.testing.assert_array_equal(got, read(path), err_msg=path.name)


def test_moving_images_give_their_first_frame(zoo):
    for path, got in zoo.some("moving", 2):
        np.testing.assert_array_equal(got, read(path), err_msg=path.name)
        np.testing.assert_allclose(got, np.array(smooth()).astype(int), atol=60)


def test_the_eight_exif_orientations(zoo):
    shapes = set()
    for path, got in zoo.some("turned_", 24):
        np.testing.assert_array_equal(got, read(path), err_msg=path.name)
        shapes.add(got.shape)
    assert shapes == {(40, 60, 3), (60, 40, 3)}


def test_damaged_exif_counts_as_upright(zoo):
    for _, got in zoo.some("upright_", 2):
        np.testing.assert_allclose(got, np.array(smooth()).astype(int), atol=20)


def test_transparency_becomes_white(zoo):
    for path, got in zoo.some("clear_", 10):
        with Image.open(path) as image:
            rgba = np.array(image.convert("RGBA")).astype(np.float64)
        expected = rgba[..., :3] * (rgba[..., 3:] / 255) + 255 - rgba[..., 3:]
        np.testing.assert_allclose(got, expected, atol=1.01, err_msg=path.name)
        assert rgba[..., 3].min() < 255 and got.mean() > rgba[..., :3].mean()


def test_deep_images_lose_their_lower_byte_and_cmyk_becomes_rgb(zoo):
    np.testing.assert_array_equal(zoo.decoded["deep.png"], deep_grey()[..., None] // 256 + [0] * 3)
    np.testing.assert_allclose(zoo.decoded["cmyk.jpg"], np.array(smooth()).astype(int), atol=12)


@pytest.mark.parametrize("data", [b"", b"\x89PNG", b"\xff\xd8", b"RIFF....WEBPVP8X", b"hello"])
def test_rubbish_is_an_error_of_tensorflow_and_of_pillow(data):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoding.decode_image(tf.constant(data))
    with pytest.raises(OSError):
        pillow_decoding.decode_with_pillow(data)


def test_an_error_of_pillow_gives_its_reason():
    with pytest.raises(tf.errors.InvalidArgumentError, match="no image of the formats JPEG, PNG,"):
        decoding.decode_oriented(tf.constant(b"hello"), 100)


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
def test_jpeg_can_be_decoded_smaller(tmp_path, reduction):
    smooth(160, 240).save(tmp_path / "a.jpg", quality=95)
    data = tf.io.read_file(str(tmp_path / "a.jpg"))
    got = decoding.decode_image(data, tf.constant(reduction))
    expected = np.array(smooth(160, 240).reduce(reduction)).astype(int)
    np.testing.assert_allclose(got, expected, atol=12)


def test_headers_tell_the_turned_size_without_decoding(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth().save(tmp_path / "a.jpg", exif=exif)
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: data.index(b"\xff\xda")])  # without the pixels
    (tmp_path / "b.txt").write_text("no image")
    first, second = image_headers.read_headers([tmp_path / "a.jpg", tmp_path / "b.txt"])
    assert first == image_headers.Header(60, 40, orientation=6, decoder=image_headers.PLAIN)
    assert second == (
        "it is no image of the formats JPEG, PNG, GIF, BMP, DIB, WebP, TIFF, AVIF, HEIC"
    )


# Transparency -----------------------------------------------------------------------------------


def test_every_pair_of_colour_and_alpha_is_rounded_to_the_nearest():
    """Compared with the definition in whole numbers; no pair is halfway between two values."""
    color, alpha = np.mgrid[0:256, 0:256]
    image = np.stack([color, 255 - color, np.zeros_like(color), alpha], -1).astype("uint8")
    numerator = image[..., :3].astype(int) * alpha[..., None] + 255 * (255 - alpha[..., None])
    assert not (2 * numerator % 255 == 0)[numerator % 255 != 0].any()
    expected = (2 * numerator + 255) // (2 * 255)
    np.testing.assert_array_equal(decoding.put_on_white(tf.constant(image)), expected)
    # Pillow's rounding on an opaque background is the same, and so was that of float32.
    opaque = Image.new("RGBA", (256, 256), "white")
    by_pillow = Image.alpha_composite(opaque, Image.fromarray(image, "RGBA")).convert("RGB")
    np.testing.assert_array_equal(by_pillow, expected)
    share = image[..., 3:].astype("float32") / np.float32(255)
    in_floats = np.round(image[..., :3] * share + np.float32(255) * (1 - share))
    assert in_floats.dtype == np.float32
    np.testing.assert_array_equal(in_floats, expected)


@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (1, 63), (63, 1), (8, 16)])
def test_parts_make_the_whole(monkeypatch, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 4), "uint8")
    whole = decoding.put_on_white(tf.constant(image)).numpy()
    monkeypatch.setattr(decoding, "_AT_A_TIME", 16)
    eager = decoding.put_on_white.python_function
    for put_on_white in (eager, tf.function(eager, autograph=False)):
        np.testing.assert_array_equal(put_on_white(tf.constant(image)), whole)
    assert whole.shape == (*shape, 3)


# Limits -----------------------------------------------------------------------------------------


def encode(size, kind, mode="RGB", **options):
    file = io.BytesIO()
    Image.new(mode, size, 5).save(file, kind, **options)
    return file.getvalue()


def kinds(size):
    more = {"save_all": True, "append_images": [Image.new("RGB", size)]}
    return {
        "PNG": encode(size, "PNG"),
        "transparent PNG": encode(size, "PNG", "RGBA"),
        "GIF": encode(size, "GIF", "L"),
        "BMP": encode(size, "BMP"),
        "lossy WebP": encode(size, "WEBP"),
        "lossless WebP": encode(size, "WEBP", lossless=True),
        "transparent WebP": encode(size, "WEBP", "RGBA"),
        "animated WebP": encode(size, "WEBP", **more),
        "progressive JPEG": encode(size, "JPEG", progressive=True),
    }


@pytest.fixture(scope="module")
def decode():
    """`decode_image` with a limit of 6,000 pixels, run as in training."""
    graph = tf.function(
        lambda data: decoding.decode_image(data, max_pixels=6_000),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )
    return lambda data: graph(tf.constant(data)).numpy()


@pytest.mark.parametrize("kind", kinds((1, 1)))
def test_what_is_above_the_limit_is_not_decoded(decode, kind):
    assert decode(kinds((100, 60))[kind]).shape == (60, 100, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="above the limit"):
        decode(kinds((100, 61))[kind])


def test_a_jpeg_above_the_limit_is_decoded_smaller(decode, monkeypatch):
    assert decode(encode((100, 60), "JPEG")).shape == (60, 100, 3)
    assert decode(encode((100, 61), "JPEG")).shape == (31, 50, 3)
    assert decode(encode((801, 400), "JPEG")).shape == (50, 101, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="above the limit"):
        decode(encode((801, 600), "JPEG"))
    monkeypatch.setattr(decoding.image_limits, "MOST", 10_000)
    whole = encode((700, 500), "JPEG")
    assert decode(whole).shape == (63, 88, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than its 1,366 bytes can hold"):
        decode(whole[: 700 * 500 // 256 - 1])


def test_a_reduction_that_was_asked_for_stays(decode):
    data = tf.constant(encode((100, 60), "JPEG"))
    assert decoding.decode_image(data, tf.constant(4), 6_000).shape == (15, 25, 3)
    above = tf.constant(encode((160, 80), "JPEG"))
    assert decoding.decode_image(above, tf.constant(1), 6_000).shape == (40, 80, 3)
    assert decoding.decode_image(above, tf.constant(8), 6_000).shape == (10, 20, 3)


def test_a_png_whose_header_comes_second_is_refused(decode, files):
    """libpng reads the size from the IHDR chunk at any place in the file."""
    small = files.png_chunk(b"abCd", struct.pack(">II", 5, 5) + b"\x08\2\0\0\0")
    data = files.png(300, 200, first=small)
    assert tf.io.decode_png(data).shape == (300, 200, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="above the limit"):
        decode(data)


def test_a_header_that_states_more_than_there_is_fails(decode):
    """If the stated size is within the limit, the decoder finds the error."""
    data = bytearray(encode((10, 10), "PNG"))
    data[16:24] = struct.pack(">II", 70, 80)
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(bytes(data))


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_only_the_first_frame_is_decoded(decode, kind):
    """The rest of the file may be damaged."""
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (50, 60, 3), "uint8")) for _ in range(3)]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], lossless=True)
    data = bytearray(file.getvalue())
    first = decode(bytes(data))
    data[-3000:-1000] = b"\xff" * 2000
    with Image.open(io.BytesIO(data)) as damaged, pytest.raises((OSError, EOFError)):
        damaged.seek(2)
        damaged.load()
    np.testing.assert_array_equal(decode(bytes(data)), first)


def test_a_jpeg_of_very_many_scans_is_refused(decode, monkeypatch):
    """Each scan of 50 bytes makes a decoder go over all pixels: 500 seconds for a megabyte."""
    data = encode((60, 50), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    few, many = (data[:-2] + last * times + data[-2:] for times in (90, 95))
    for accepted in (few, encode((60, 50), "JPEG") + b"\xff\xda" * 200):
        assert pillow_decoding.decode_with_pillow(accepted).shape == (50, 60, 3)
    with pytest.raises(OSError, match="a JPEG of more than 100 scans"):
        pillow_decoding.decode_with_pillow(many)
    # Small images are decoded quickly, whatever the number of scans.
    assert decode(many).shape == (50, 60, 3)
    monkeypatch.setattr(decoding, "_SMALL", 2_999)
    assert decoding.decode_image(tf.constant(few)).shape == (50, 60, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a JPEG of more than 100 scans"):
        decoding.decode_image(tf.constant(many))
