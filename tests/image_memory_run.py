"""A process of tests that measure the memory for decoding images.

python tests/image_memory_run.py decode_image | decode_with_pillow
python tests/image_memory_run.py folder | bombs EMPTY_FOLDER
python tests/image_memory_run.py served SAVED_MODEL

All images are small files. They are just below the limit, except the bombs of 99.8 megapixels.
Prints the growth of the process at its peak, in bytes, as JSON. With several kinds of images, the
growth counts from before the first kind, because TensorFlow keeps freed memory.
"""

import ctypes
import io
import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image, ImageCms

from vim_tf.config.sections import DataConfig
from vim_tf.data import decoding, image_formats, pillow_decoding
from vim_tf.data.image_limits import LEAST
from vim_tf.data.sources import folder
from vim_tf.errors import UserError

SQUARE = (5792, 5792)
LONG = (512, 65_500)  # the longest JPEG; not high enough for a reduction
CHANNELS = {0: 1, 2: 3, 3: 1, 6: 4}


def png(size, color_type, bits=8, palette=b""):
    height, width = size
    row = b"\0" + b"M" * (width * CHANNELS[color_type] * bits // 8)
    pack = zlib.compressobj(9)
    pixels = b"".join(pack.compress(row) for _ in range(height)) + pack.flush()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0))]
    if palette:
        chunks += [(b"PLTE", palette), (b"tRNS", bytes(range(256)))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in [*chunks, (b"IDAT", pixels), (b"IEND", b"")]
    )  # fmt: skip


def encode(size, mode, kind, **options):
    if kind == "heif":
        image_formats.missing_support(image_formats.FORMATS[-1])  # registers the plug-in
    image, file = Image.new(mode, size[::-1], 77), io.BytesIO()
    if options.pop("frames", 1) > 1:
        second = Image.new(mode, image.size, 99)
        options |= {"save_all": True, "append_images": [second]}
    image.save(file, kind, **options)
    return file.getvalue()


def served_files():
    progressive = {"progressive": True, "subsampling": 0}
    return {
        "RGBA PNG": png(SQUARE, 6),
        "16-bit RGBA PNG": png(SQUARE, 6, 16),
        "palette PNG": png(SQUARE, 3, palette=bytes(range(256)) * 3),
        "progressive JPEG": encode(SQUARE, "RGB", "jpeg", **progressive),
        "long progressive JPEG": encode(LONG, "RGB", "jpeg", **progressive),
        "progressive CMYK JPEG": encode(LONG, "CMYK", "jpeg", **progressive),
    }


def all_files():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Another colour of the red primary, so that it is not sRGB.
    profile = profile.replace(b"XYZ \0\0\0\0\0\0\x6f", b"XYZ \0\0\0\0\0\0\x5f")
    return served_files() | {
        "JPEG of four times the limit": encode((11_584, 11_584), "RGB", "jpeg"),
        "PNG with a colour profile": encode(SQUARE, "RGBA", "png", icc_profile=profile),
        "TIFF": encode(SQUARE, "RGBA", "tiff", compression="tiff_lzw"),
        "CMYK TIFF": encode(SQUARE, "CMYK", "tiff", compression="tiff_lzw"),
        "16-bit TIFF": encode(SQUARE, "I;16", "tiff", compression="tiff_lzw"),
        "AVIF": encode(SQUARE, "RGBA", "avif", speed=10),
        "HEIC": encode(SQUARE, "RGBA", "heif"),
        "GIF": encode(LONG, "P", "gif", transparency=77, frames=2),
        "WebP": encode(SQUARE, "RGBA", "webp", lossless=True, exact=True, method=0),
        "animated WebP": encode(SQUARE, "RGBA", "webp", lossless=True, method=0, frames=2),
    }


def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def start_counting():
    """Returns a function that returns the peak growth since this call."""
    ctypes.CDLL(None).malloc_trim(0)  # frees the memory of making the files
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current memory
    start = status("VmRSS")
    return lambda: status("VmHWM") - start


def decode_all(by):
    if by == "decode_image":
        decode = tf.function(
            decoding.decode_image, input_signature=[tf.TensorSpec([], tf.string)], autograph=False
        )
    else:
        decode = pillow_decoding.decode_with_pillow
    files = all_files()
    decode(png((8, 8), 6))  # loads libraries that are loaded once
    grown, found = start_counting(), {}
    for kind, data in files.items():
        shape = decode(data).shape
        found[kind] = {"pixels": shape[0] * shape[1], "grown": grown()}
    return found


def open_folder(path, size, data):
    config = DataConfig(source="folder", path=path, image_size=(256, 256))
    Path(path, "small.png").write_bytes(png((8, 8), 6))
    folder.open_folder(path, "data.path", config)
    Path(path, "small.png").unlink()
    for number in range(8):
        Path(path, f"{number}.png").write_bytes(data)
    grown = start_counting()
    try:
        images = len(folder.open_folder(path, "data.path", config).names)
        return {"images": images, "pixels": size[0] * size[1], "grown": grown()}
    except UserError as error:
        return {"error": str(error), "grown": grown()}


def ask_served(path):
    """Sends requests of 8 rows to `tokenize_bytes`, one of each kind."""
    ask = tf.saved_model.load(path).signatures["tokenize_bytes"]
    files = served_files()
    ask(image_bytes=tf.constant([png((8, 8), 6)] * 8))
    grown, found = start_counting(), {}
    for kind, data in files.items():
        errors = ask(image_bytes=tf.constant([data] * 8))["error"].numpy()
        found[kind] = {"bytes": len(data), "errors": sorted(map(bytes.decode, {*errors}))}
        found[kind]["grown"] = grown()
    return found


def main(what, path=None):
    if what == "folder":
        return open_folder(path, SQUARE, png(SQUARE, 6))
    if what == "bombs":
        return open_folder(path, (9990, 9990), png((9990, 9990), 0, 1))
    return ask_served(path) if what == "served" else decode_all(what)


if __name__ == "__main__":
    assert np.prod(SQUARE) <= LEAST and np.prod(LONG) <= LEAST
    print(json.dumps(main(*sys.argv[1:])))
