"""Colour profiles of an ideal monitor, compared with their formula."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from vim_tf.config.sections import DataConfig
from vim_tf.data import color_profiles, image_headers
from vim_tf.data.image_limits import LEAST
from vim_tf.data.pillow_decoding import decode_with_pillow
from vim_tf.data.sources import folder as folder_source
from vim_tf.data.sources import records
from vim_tf.evaluation.image_sources import open_images

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def with_red_and_green_swapped():
    """sRGB whose first channel is green: its effect needs no formula."""
    names = SRGB.replace(b"rXYZ", b"____").replace(b"gXYZ", b"rXYZ")
    return names.replace(b"____", b"gXYZ")


SWAPPED = with_red_and_green_swapped()
BROKEN = SRGB[:160]


def noise(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (12, 16, 3), "uint8")


def encode(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def opened(icc, mode="RGB"):
    image = Image.new(mode, (2, 2))
    image.info["icc_profile"] = icc
    return image


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_profile_of_swapped_channels_swaps_them(kind):
    data = encode(noise(), kind, icc_profile=SWAPPED)
    swapped = noise()[..., [1, 0, 2]].astype(int)
    np.testing.assert_allclose(decode_with_pillow(data).astype(int), swapped, atol=1)
    np.testing.assert_array_equal(decode_with_pillow(data, convert_profiles=False), noise())


def test_alpha_stays():
    rgba = np.concatenate([noise(), noise(1)[..., :1]], -1)
    got = decode_with_pillow(encode(rgba, icc_profile=SWAPPED)).astype(int)
    alpha = rgba[..., 3:] / 255
    np.testing.assert_allclose(got, rgba[..., [1, 0, 2]] * alpha + 255 * (1 - alpha), atol=2)


@pytest.mark.parametrize(
    ("icc", "mode", "status"),
    [
        (SRGB, "RGB", color_profiles.NONE),
        (SRGB, "L", color_profiles.NONE),
        (SWAPPED, "RGBA", color_profiles.CONVERTED),
        (SWAPPED, "P", color_profiles.CONVERTED),
        (SWAPPED, "CMYK", color_profiles.DAMAGED),
        (BROKEN, "RGB", color_profiles.DAMAGED),
        (b"rubbish", "RGB", color_profiles.DAMAGED),
        (("not", "bytes"), "RGB", color_profiles.DAMAGED),
        (b"", "RGB", color_profiles.NONE),
        (None, "RGB", color_profiles.DAMAGED),
    ],
)
def test_what_becomes_of_a_profile(icc, mode, status):
    assert color_profiles.read_profile(opened(icc, mode)).status == status
    assert color_profiles.read_profile(Image.new(mode, (2, 2))).status == color_profiles.NONE


def test_a_profile_that_lacks_a_part_is_damaged(files):
    """It is spread over segments, each with its number and their count."""
    part = files.segment(0xE2, b"ICC_PROFILE\0\1\2" + SWAPPED)
    with Image.open(io.BytesIO(files.jpeg(part))) as image:
        assert color_profiles.read_profile(image).status == color_profiles.DAMAGED


def test_a_profile_is_compared_once_and_few_are_kept(monkeypatch):
    calls = []
    made = color_profiles._make
    monkeypatch.setattr(color_profiles, "_known", {})
    monkeypatch.setattr(color_profiles, "_make", lambda *a: calls.append(a) or made(*a))
    for _ in range(3):
        color_profiles.read_profile(opened(SRGB))
    assert len(calls) == 1
    for number in range(200):
        color_profiles.read_profile(opened(b"rubbish%d" % number))
    assert len(color_profiles._known) <= color_profiles._KEPT


def test_an_image_in_srgb_stays_on_the_fast_path(tmp_path):
    for name, icc in (("a", SRGB), ("b", None), ("c", SWAPPED), ("d", BROKEN)):
        (tmp_path / name).write_bytes(encode(noise(), "JPEG", icc_profile=icc))
    plain, none, swapped, broken = image_headers.read_headers(sorted(tmp_path.iterdir()))
    assert plain == none and plain.decoder == image_headers.PLAIN
    assert swapped.decoder == image_headers.BY_PILLOW
    assert broken == plain._replace(profile=color_profiles.DAMAGED)
    headers = image_headers.read_headers(sorted(tmp_path.iterdir()), convert_profiles=False)
    assert set(headers) == {plain}


def test_profiles_cost_little_once_they_are_known(quick):
    image = opened(SRGB)
    color_profiles.read_profile(image)
    quick(lambda: [color_profiles.read_profile(image) for _ in range(1000)], 25)


# Through the entries ----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for name, icc in (("a", SWAPPED), ("b", None), ("c", BROKEN)):
        (tmp_path / f"{name}.png").write_bytes(encode(noise(), icc_profile=icc))
    return tmp_path


def test_a_folder_counts_them_in_one_line(folder, capsys):
    config = DataConfig(source="folder", path=str(folder), image_size=(8, 8))
    images = folder_source.open_folder(str(folder), "data.path", config).images
    np.testing.assert_allclose(images[0].astype(int), noise()[..., [1, 0, 2]].astype(int), atol=1)
    np.testing.assert_array_equal(images[1], noise())
    np.testing.assert_array_equal(images[2], noise())
    line = (
        "1 of 3 images are converted to sRGB from their colour profile; 1 of 3 images have a "
        "colour profile that is damaged or not for their kind of colours; they are read without "
        "it, the first is c.png"
    )
    assert line in capsys.readouterr().err
    next(open_images(folder, "images").batches(3))
    assert line in capsys.readouterr().err


def test_a_key_turns_them_off(folder, capsys):
    config = DataConfig(
        source="folder", path=str(folder), image_size=(8, 8), convert_profiles=False
    )
    images = folder_source.open_folder(str(folder), "data.path", config).images
    for image in images:
        np.testing.assert_array_equal(image, noise())
    assert "profile" not in capsys.readouterr().err


@pytest.mark.parametrize("convert", [True, False])
@pytest.mark.parametrize("max_pixels", [LEAST, 100])
def test_the_key_holds_for_records(convert, max_pixels):
    """Also for a JPEG that is above the limit, which Pillow decodes at a smaller size."""
    flat = np.full([12, 16, 3], (200, 60, 30), np.uint8)
    data = encode(flat, "JPEG", icc_profile=SWAPPED, quality=95)
    split = records.RecordSplit((), 1, (0, 1), lambda record: (record, 0), max_pixels, convert)
    image, _ = split.load((b"name", data))
    assert image.shape == ((12, 16, 3) if max_pixels == LEAST else (6, 8, 3))
    expected = (60, 200, 30) if convert else (200, 60, 30)
    np.testing.assert_allclose(image.numpy().astype(int) - expected, 0, atol=3)


def test_damaged_profiles_of_records_are_counted(monkeypatch, caplog):
    monkeypatch.setattr(image_headers, "_damaged_profiles", 0)
    data = encode(noise(), "JPEG", icc_profile=BROKEN)
    for _ in range(12):
        image_headers.inspect(data)
    said = [record.getMessage() for record in caplog.records]
    assert [line.split()[0] for line in said] == ["1", "10"]
    assert all("read so far have a colour profile that is damaged" in line for line in said)
