"""Image files that are made byte by byte, also with headers that no encoder writes."""

import io
import json
import struct
import tarfile
import zlib
from types import SimpleNamespace

import pytest
from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png_chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png(height, width, first=b"", more=b"", after=b""):
    """A black RGB PNG file, with chunks before IHDR, before the pixels and after them."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = png_chunk(b"IDAT", zlib.compress(bytes(height * (1 + 3 * width)), 9))
    return PNG_SIGNATURE + first + header + more + rows + after + png_chunk(b"IEND", b"")


def segment(kind, content=b""):
    """A segment of a JPEG file."""
    return bytes([0xFF, kind]) + struct.pack(">H", len(content) + 2) + content


def jpeg(segments=b"", size=(8, 8), mode="RGB", **options):
    """A JPEG file that begins with these segments."""
    file = io.BytesIO()
    Image.new(mode, size).save(file, "jpeg", **options)
    return file.getvalue()[:2] + segments + file.getvalue()[2:]


def webp(size=(8, 8), mode="RGB", **options):
    file = io.BytesIO()
    Image.new(mode, size).save(file, "webp", **options)
    return file.getvalue()


def hostile_exif(entries=65_535, order=">"):
    """EXIF with many entries that point to the same bytes, in a directory that follows itself."""
    blob = 30_000
    start = 8 + 2 + 12 * entries + 4
    fields = [struct.pack(f"{order}HHLL", tag, 7, blob, start) for tag in range(entries)]
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}L", 8)
    count, again = struct.pack(f"{order}H", entries), struct.pack(f"{order}L", 8)
    return head + count + b"".join(fields) + again + bytes(blob)


@pytest.fixture(scope="session")
def files():
    """The functions of this module."""
    functions = (png_chunk, png, segment, jpeg, webp, hostile_exif)
    return SimpleNamespace(**{function.__name__: function for function in functions})


# Packages of emoji and icons --------------------------------------------------------------------

EMOJI = 120  # from U+1F400
TONES = ("1f3fb", "1f3ff")


def shape(number, kind):
    """An SVG body that differs for each number and kind."""
    color = f"#{(number * 7919) % 4096:03x}"
    x, y = 3 + number % 10, 3 + number // 10 % 10
    if kind == "circle":
        return f'<circle cx="{x}" cy="{y}" r="3" fill="{color}"/>'
    return f'<path fill="{color}" d="M{x} {y}h2v{2 + len(kind)}h-{len(kind)}z"/>'


def icon_set(kind, names, **more):
    icons = {name: {"body": shape(number, kind)} for number, name in enumerate(names)}
    return {"icons": icons, "width": 16, "height": 16, **more}


def emoji_name(number):
    return f"emoji-{number}"


def about(title, licence, category="Emoji"):
    return {
        "name": title,
        "author": {"name": f"{title}'s author", "url": "https://example.com"},
        "license": {"title": licence, "spdx": licence, "url": "https://example.com/licence"},
        "category": category,
    }


def write_icons_package(folder):
    """@iconify/json as npm packs it: three sets of emoji, three of icons and two of logos."""
    names = [emoji_name(number) for number in range(EMOJI)]
    chars = {f"1f4{number:02x}": name for number, name in enumerate(names)}
    half = ["Animals & Nature", "Objects"]
    categories = {half[0]: names[:60], half[1]: names[60:]}
    noto = icon_set("circle", names, chars=chars, categories=categories)
    noto["icons"] |= {
        "emoji-7-light": {"body": shape(301, "circle")},
        "emoji-7-dark": {"body": shape(302, "circle")},
        "old": {"body": shape(303, "circle"), "hidden": True},
        "broken": {"body": "<g><path"},
        "blank": {"body": '<path d="no path"/>'},
        "no-body": {"width": 3},
        "copy": {"body": shape(9, "circle")},
        "pile-of-poo": {"body": shape(304, "circle")},
    }
    noto["chars"] |= {"1f407-1f3fb": "emoji-7-light", "1f407-1f3ff": "emoji-7-dark"}
    noto["chars"] |= {"1f4a9": "pile-of-poo", "1f4aa": "copy"}
    noto["aliases"] = {"also-0": {"parent": "emoji-0"}, "mirror": {"parent": "emoji-1", "hFlip": 1}}
    flat = icon_set("square", names[:80], chars=dict(list(chars.items())[:80]))
    fxemoji = icon_set("bar", [name.replace("-", "") for name in names[:100]])
    fxemoji["icons"] |= {"poo": {"body": shape(305, "bar")}, "also0": {"body": shape(306, "bar")}}
    fxemoji["icons"]["unknown"] = {"body": shape(307, "bar")}
    fxemoji["categories"] = {"People": ["unknown"]}
    lines = icon_set("bar", ["home-outline", "home", "arrow-left", "logo-x", "wide"])
    lines["icons"]["wide"] = {"body": '<path d="M0 0h32v8h-32z"/>', "width": 32, "height": 8}
    lines["icons"]["bird-company-fill-24"] = {"body": shape(9, "bar")}
    lines["icons"]["moving"] = {"body": '<circle r="9"><animate attributeName="r"/></circle>'}
    dots = icon_set("circle", ["home", "tree-24"])
    dots["icons"]["house"] = lines["icons"]["arrow-left"]
    sets = {
        "noto": (noto, about("Noto Emoji", "Apache-2.0")),
        "fluent-emoji-flat": (flat, about("Fluent Emoji Flat", "MIT")),
        "fxemoji": (fxemoji, about("Firefox OS Emoji", "Apache-2.0")),
        "lines": (lines, about("Lines", "ISC", "UI 24px")),
        "dots": (dots, about("Dots", "CC0-1.0", "UI 24px")),
        "shared": (dots, about("Shared", "GPL-3.0", "UI 24px")),
        "cib": (icon_set("bar", ["bird-company"]), about("CoreUI Brands", "CC0-1.0", "Logos")),
        "marks": (dots, about("Marks", "MIT", "Logos")),
    }
    files = {f"json/{name}.json": json.dumps(content) for name, (content, _) in sets.items()}
    files["collections.json"] = json.dumps({name: about for name, (_, about) in sets.items()})
    files["lib/license.txt"] = "the licence of the package"
    return write_package(folder, "@iconify/json", "2.2.535", files)


def write_package(folder, name, version, files):
    """Writes NAME.tgz into the folder, as npm packs {file: contents}, and returns its path."""
    path = folder / f"{name.replace('/', '-')}.tgz"
    files = {"package.json": json.dumps({"name": name, "version": version}), **files}
    with tarfile.open(path, "w:gz") as archive:
        for file, contents in files.items():
            data = contents.encode() if isinstance(contents, str) else contents
            member = tarfile.TarInfo(f"package/{file}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_style_packages(folder):
    """The three packages of `build_styles`, tiny; returns their archives."""
    codes = [f"1f4{number:02x}" for number in range(0, EMOJI, 2)]
    images = {}
    for number, code in enumerate([*codes, "1f1e9-1f1ea", "0023-fe0f-20e3"]):
        file = io.BytesIO()
        Image.new("RGBA", (64, 64), (number * 3, 99, 255 - number, 128 + number)).save(file, "webp")
        image = Image.open(file)
        corner = Image.new("RGBA", (64, 64))
        corner.paste(image.crop((0, 0, 32, 32)))
        file = io.BytesIO()
        corner.save(file, "webp", lossless=True)
        images[f"assets/{code}.webp"] = file.getvalue()
    images["assets/readme.webp"] = b"no emoji"
    images["assets/1f9ff.webp"] = b"damaged"
    words = {"\U0001f400": {"default": ["rodent", "small"], "tts": ["emoji zero"]}}
    words = json.dumps({"annotations": {"annotations": words}})
    return [
        write_icons_package(folder),
        write_package(folder, "@lobehub/fluent-emoji-3d", "1.1.0", images),
        write_package(
            folder,
            "cldr-annotations-full",
            "48.2.0",
            {"annotations/en/annotations.json": words, "LICENSE": "UNICODE LICENSE V3"},
        ),
    ]


STYLES = ("noto", "fluent-emoji-flat", "fluent-emoji-3d", "fxemoji")


@pytest.fixture(scope="session")
def style_packages(make_once):
    """A folder of three tiny archives, see `write_style_packages`."""

    def write(folder):
        folder.mkdir()
        write_style_packages(folder)

    return make_once("style_packages", write)


@pytest.fixture(scope="session")
def build_styles(style_packages):
    """A function (folder, *more arguments) that builds images of 16 pixels from them."""

    def build(folder, *more):
        from vim_tf.data import build_styles

        packages = [str(path) for path in sorted(style_packages.glob("*.tgz"))]
        if "--sets" not in more:
            more = (*more, "--sets", *STYLES)
        given = ["--out", str(folder), "--size", "16", "--package", *packages, *more]
        build_styles.main(given)
        return folder

    return build


@pytest.fixture(scope="session")
def styles(build_styles, make_once):
    """A folder of images in four styles. Tests must not change it."""
    return make_once("styles", build_styles)
