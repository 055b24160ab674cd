"""One table of image files, read by every entry and compared with Pillow alone.

The reference opens the file, converts its colour profile, turns it, puts it on white and keeps
8 bits, all with plain Pillow. What serving cannot do is a column of the table.
"""

import dataclasses
import functools
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageCms, ImageOps

from vim_tf.config.sections import DataConfig
from vim_tf.data import image_formats
from vim_tf.data.image_limits import LEAST
from vim_tf.data.sources import folder as folder_source
from vim_tf.data.sources import records
from vim_tf.evaluation.image_sources import open_images
from vim_tf.export.serving.encoded_images import prepare_images

SAME, NO_PROFILE, NO_FORMAT, NO_XMP = "same", "no profile", "no format", "no XMP"
HEIC_START = b"\0\0\0\x18ftypheic"

# Colour profiles --------------------------------------------------------------------------------


def profile(space, tags, kind=b"mntr", connection=b"XYZ "):
    """An ICC profile of version 2 (ICC.1:2001-04), with a white of D50."""
    tags = {b"wtpt": xyz(0.9642, 1.0, 0.8249), **tags}
    places, contents, place = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        places += struct.pack(">4sII", name, place, len(content))
        contents += content
        place += len(content)
    head = struct.pack(">I4sI4s4s4s", place, b"none", 0x02100000, kind, space, connection)
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">iii", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + places + contents


def xyz(*values):
    return b"XYZ " + bytes(4) + struct.pack(">iii", *(round(65536 * value) for value in values))


def gamma(value):
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(256 * value)) + bytes(2)


def rgb_profile(red, green, blue, power):
    tags = zip((b"rXYZ", b"gXYZ", b"bXYZ"), (red, green, blue), strict=True)
    curves = {name: gamma(power) for name in (b"rTRC", b"gTRC", b"bTRC")}
    return profile(b"RGB ", {name: xyz(*value) for name, value in tags} | curves)


def cmyk_profile():
    """A table of two levels of each ink; black takes all light, and the others a colour each."""
    nodes = np.array(np.meshgrid(*[[0, 1]] * 4, indexing="ij")).reshape(4, -1).T  # [16, CMYK]
    cyan, magenta, yellow, black = nodes.T
    light = (1 - black) * np.array([255 - 60 * cyan - 70 * magenta - 10 * yellow]) // 1
    a = 128 + (1 - black) * (60 * magenta - 40 * cyan)
    b = 128 + (1 - black) * (70 * yellow - 40 * cyan)
    lab = np.stack([light[0], a, b], -1).clip(0, 255).astype(np.uint8)
    ramp = bytes(range(256))
    one = [65536 if i in (0, 4, 8) else 0 for i in range(9)]
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + struct.pack(">9i", *one)
    table += ramp * 4 + lab.tobytes() + ramp * 3
    return profile(b"CMYK", {b"A2B0": table}, b"prtr", b"Lab ")


P3 = rgb_profile((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841), 2.2)
ADOBE = rgb_profile(
    (0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446), 2.2
)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY = profile(b"GRAY", {b"kTRC": gamma(1.4)})
CMYK = cmyk_profile()
BROKEN = P3[:140] + b"\xff" * 60

# Files ------------------------------------------------------------------------------------------


def smooth(mode="RGB", seed=0):
    y, x = np.mgrid[0:40, 0:60] / 60
    parts = np.random.default_rng(seed).uniform(-1.5, 1.5, (4, 3)) * [1, 1, 4]
    waves = [np.sin(2 * np.pi * (a * x + b * y) + c) for a, b, c in parts]
    pixels = np.uint8(np.stack(waves, -1) * 120 + 128)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 256 + 77)
    if mode == "P":
        return Image.fromarray(pixels[..., :3]).quantize(200)
    if mode == "P4":
        return Image.fromarray(pixels[..., :3]).quantize(4)
    if mode == "LA":
        return Image.merge("LA", [Image.fromarray(pixels[..., i]) for i in (0, 3)])
    image = Image.fromarray(pixels, "RGBA")
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


def encode(kind, mode="RGB", orientation=None, icc=None, **options):
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif.tobytes()
    if icc is not None:
        options["icc_profile"] = icc
    if kind == "JPEG":
        options.setdefault("quality", 95)
    file = io.BytesIO()
    smooth(mode).save(file, kind, **options)
    return file.getvalue()


def chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def deep_png(color_type, transparency=b""):
    """A PNG of 16 bits per channel, which Pillow does not write."""
    mode, channels = {0: ("L", 1), 2: ("RGB", 3), 6: ("RGBA", 4)}[color_type]
    values = np.array(smooth(mode)).reshape(40, -1).astype(">u2") * 256 + 201
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60, 40, 16, color_type, 0, 0, 0))
    key = chunk(b"tRNS", transparency) if transparency else b""
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", head, key, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


def late_exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode("PNG")
    return data[:-12] + chunk(b"eXIf", exif.tobytes()[6:]) + data[-12:]


def with_xmp(orientation):
    xmp = f'<x tiff:Orientation="{orientation}"/>'.encode()
    return encode("JPEG", xmp=xmp)


@dataclasses.dataclass
class Case:
    """A file of the table: what makes it, and what serving does with it."""

    make: functools.partial
    serving: str = SAME
    levels: int = 0  # by how much a pixel may differ from the reference


def case(kind, mode="RGB", levels=0, **options):
    serving = SAME if kind in ("PNG", "JPEG") else NO_FORMAT
    if serving == SAME and options.get("icc") not in (None, SRGB, BROKEN):
        serving = NO_PROFILE
    return Case(functools.partial(encode, kind, mode, **options), serving, levels)


def cases():
    key = smooth().getpixel((3, 4))
    some = {f"PNG {mode}": case("PNG", mode) for mode in ("1", "L", "LA", "P", "P4", "RGB")}
    some |= {f"PNG {mode}": case("PNG", mode, 1) for mode in ("RGBA", "LA")}
    some["PNG I;16"] = case("PNG", "I;16")
    some["PNG P, tRNS"] = case("PNG", "P", 1, transparency=bytes(range(0, 200, 2)))
    some["PNG P4, tRNS"] = case("PNG", "P4", transparency=1)
    some["PNG L, tRNS"] = case("PNG", "L", transparency=128)
    some["PNG RGB, tRNS"] = case("PNG", transparency=key)
    some["PNG I;16, tRNS"] = case("PNG", "I;16", transparency=100 * 256 + 77)
    for color_type, name in ((0, "L"), (2, "RGB"), (6, "RGBA")):
        some[f"PNG {name} of 16 bits"] = Case(functools.partial(deep_png, color_type), levels=1)
    some["PNG, moving"] = case("PNG", save_all=True, append_images=[smooth(seed=1)])
    some |= {f"JPEG {mode}": case("JPEG", mode) for mode in ("L", "RGB")}
    some["JPEG CMYK"] = case("JPEG", "CMYK")
    some["JPEG, progressive"] = case("JPEG", progressive=True)
    some["WebP, lossy"] = case("WEBP", quality=90)
    for mode, levels in (("RGB", 0), ("RGBA", 1)):
        some[f"WebP {mode}"] = case("WEBP", mode, levels, lossless=True, exact=True)
        some[f"AVIF {mode}"] = case("AVIF", mode, levels)
        some[f"HEIC {mode}"] = case("HEIF", mode, levels)
    some |= {f"GIF {mode}": case("GIF", mode) for mode in ("L", "P")}
    some["GIF, transparent"] = case("GIF", "P4", transparency=1)
    some |= {f"BMP {mode}": case("BMP", mode) for mode in ("1", "L", "P", "RGB", "RGBA")}
    some["DIB RGB"] = case("DIB")
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16"):
        some[f"TIFF {mode}"] = case("TIFF", "RGB" if mode == "LAB" else mode, 1)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        some[f"TIFF, {compression}"] = case("TIFF", compression=compression)
    for number in range(1, 9):
        for kind in ("PNG", "JPEG", "WEBP", "TIFF"):
            more = {"lossless": True} if kind == "WEBP" else {}
            some[f"{kind}, orientation {number}"] = case(kind, orientation=number, **more)
    for kind in ("AVIF", "HEIF"):
        some[f"{kind}, orientation 6"] = case(kind, orientation=6)
    some["PNG, EXIF after the pixels"] = Case(functools.partial(late_exif, 8))
    some["JPEG, orientation in XMP"] = Case(functools.partial(with_xmp, 6), NO_XMP)
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF"):
        for name, icc in (("P3", P3), ("Adobe RGB", ADOBE), ("sRGB", SRGB), ("broken", BROKEN)):
            some[f"{kind}, {name}"] = case(kind, "RGB", 1, icc=icc)
    some["PNG RGBA, P3"] = case("PNG", "RGBA", 1, icc=P3)
    some["PNG P, Adobe RGB"] = case("PNG", "P", 1, icc=ADOBE)
    some["PNG L, RGB profile"] = case("PNG", "L", 1, icc=ADOBE)
    for mode in ("L", "LA", "I;16"):
        some[f"PNG {mode}, grey profile"] = case("PNG", mode, 1, icc=GREY)
    some["PNG I;16, tRNS, grey profile"] = case(
        "PNG", "I;16", 1, icc=GREY, transparency=100 * 256 + 77
    )
    some["JPEG L, grey profile"] = case("JPEG", "L", 1, icc=GREY)
    some["JPEG CMYK, profile"] = case("JPEG", "CMYK", 1, icc=CMYK)
    some["TIFF CMYK, profile"] = case("TIFF", "CMYK", 1, icc=CMYK)
    some["JPEG, P3 and orientation 6"] = case("JPEG", "RGB", 1, icc=P3, orientation=6)
    return some


CASES = cases()


# The reference ----------------------------------------------------------------------------------


def reference(data, convert=True, turn=True):
    with Image.open(io.BytesIO(data)) as image:
        icc = image.info.get("icc_profile") if convert else None
        image.load()
        key = image.info.get("transparency")
        if image.mode.startswith("I;16"):
            values = np.asarray(image)
            image = Image.fromarray((values >> 8).astype(np.uint8))
            if key is not None:
                image.putalpha(Image.fromarray(np.uint8(255 * (values != key))))
            if turn and image.getexif().get(0x0112):
                image = ImageOps.exif_transpose(image)
        elif turn:
            image = ImageOps.exif_transpose(image)
        alpha = image.convert("RGBA").getchannel("A")
        if image.mode == "P":
            image = image.convert("RGBA")
        if icc and icc != BROKEN:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            space = source.profile.xcolor_space.strip()
            plain = image.convert({"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[space])
            target = ImageCms.createProfile("sRGB")
            image = ImageCms.profileToProfile(plain, source, target, outputMode="RGB")
        image = image.convert("RGB")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=alpha)
    return np.asarray(white).astype(int)


# The entries ------------------------------------------------------------------------------------


def make_file(name):
    """The bytes of a case; None if Pillow cannot write it here."""
    kind = CASES[name].make.args[0]
    if kind == "HEIF" and image_formats.missing_support(image_formats.find_format(HEIC_START)):
        return None
    return CASES[name].make()


def read_folder(path, held, config):
    with pytest.MonkeyPatch.context() as patch:
        if not held:
            patch.setattr(folder_source, "MEMORY", 0)
            patch.setattr(folder_source, "CHECKED", 0)
        opened = folder_source.open_folder(str(path), "data.path", config)
        split = folder_source._make_split(opened, (), config)
    assert (opened.images is not None) == held
    images = tf.data.Dataset.range(split.size).map(lambda index: split.load(index)[0])
    return dict(zip(opened.names, images.as_numpy_iterator(), strict=True))


def read_records(files, path, **settings):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for data in files.values():
            feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
            features = tf.train.Features(feature={"image/encoded": feature})
            writer.write(tf.train.Example(features=features).SerializeToString())
    wanted = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}

    def parse(record):
        return tf.io.parse_single_example(record, wanted)["image/encoded"], tf.constant(0)

    whole = [records.RecordFile(str(path), 0, len(files))]
    split = records.make_whole_split(whole, parse, LEAST, **settings)
    images = split.in_order().map(lambda _, record: split.load(record)[0])
    return dict(zip(files, images.as_numpy_iterator(), strict=True))


def read_for_evaluation(folder):
    """Images of one size in each folder, so that they keep their size."""
    names = sorted(path.name for path in folder.iterdir())
    batches = open_images(folder, "images").batches(1)
    return {name: batch[0] for name, batch in zip(names, batches, strict=True)}


@functools.cache
def server(size):
    return tf.function(
        lambda data: prepare_images(data, size, LEAST),
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )


def serve(data, size):
    """(image in 8 bits, error) of a server whose model has images of this size."""
    images, errors = server(size)(tf.constant([data]))
    return np.rint((images.numpy()[0] + 1) * 127.5).astype(int), errors.numpy()[0].decode()


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """{entry: {name of a case: image}}, and the files."""
    folder = tmp_path_factory.mktemp("files")
    files = {name: make_file(name) for name in CASES}
    files = {name: data for name, data in files.items() if data is not None}
    for shape in ("wide", "tall"):
        (folder / shape).mkdir()
    for name, data in files.items():
        height, width, _ = reference(data).shape
        shape = "wide" if width > height else "tall"
        (folder / shape / f"{name}.jpg").write_bytes(data)  # the ending does not decide
    config = DataConfig(source="folder", path=str(folder), image_size=(60, 60))
    found = {
        "held": read_folder(folder, True, config),
        "read": read_folder(folder, False, config),
        "evaluation": read_for_evaluation(folder / "wide") | read_for_evaluation(folder / "tall"),
    }
    found = {
        entry: {Path(name).stem: image for name, image in images.items()}
        for entry, images in found.items()
    }
    return files, found | {"record": read_records(files, folder / "a.tfrecord")}


def assert_near(got, expected, levels, what):
    assert got.shape == expected.shape, what
    assert np.abs(got.astype(int) - expected).max() <= levels, what


@pytest.mark.parametrize("name", CASES)
def test_training_and_evaluation_read_an_image_as_pillow_does(entries, name):
    files, found = entries
    if name not in files:
        pytest.skip("a plug-in is missing")
    expected = reference(files[name])
    for entry, images in found.items():
        assert images[name].dtype == np.uint8
        assert_near(images[name], expected, CASES[name].levels, entry)
        np.testing.assert_array_equal(images[name], found["record"][name], err_msg=entry)


@pytest.mark.parametrize("name", CASES)
def test_serving_reads_the_same_but_for_what_the_table_says(entries, name):
    files, found = entries
    if name not in files:
        pytest.skip("a plug-in is missing")
    case, data = CASES[name], files[name]
    how = {NO_PROFILE: {"convert": False}, NO_XMP: {"turn": False}}.get(case.serving, {})
    expected = reference(data, **how)
    served, error = serve(data, expected.shape[:2])
    if case.serving == NO_FORMAT:
        assert error == "image_bytes is neither JPEG nor PNG"
        return
    assert error == ""
    # CMYK is converted by TensorFlow, which rounds another way.
    assert_near(served, expected, max(case.levels, 2 if "CMYK" in name else 0), name)
    if case.serving != SAME:
        trained = found["record"][name]
        assert trained.shape != served.shape or np.abs(served - trained).max() > 5
