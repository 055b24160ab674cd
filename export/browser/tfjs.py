"""The decoder for browsers: converted for TF.js, compared with Keras, with a page to try it on.

The folder is static. It holds the decoder three times, with float32, float16 and uint8 weights,
token grids of real images, the page and the library files that it loads.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from vim_tf import formats
from vim_tf.annotations import StrPath
from vim_tf.data.transforms import to_uint8
from vim_tf.errors import UserError
from vim_tf.export.plain_models import DECODE, write_decoder
from vim_tf.export.report import Measurement, at_least, at_most, compare_images
from vim_tf.runs.trained_run import TrainedRun

VERSION = "4.22.0"
PIP_LINE = f"pip install --no-deps tensorflowjs=={VERSION} six importlib-resources"
NPM_LINE = f"npm install @tensorflow/tfjs@{VERSION} @tensorflow/tfjs-backend-wasm@{VERSION}"
LIBRARY = {
    "tfjs": ("tf.min.js",),
    "tfjs-backend-wasm": (
        "tf-backend-wasm.min.js",
        "tfjs-backend-wasm.wasm",
        "tfjs-backend-wasm-simd.wasm",
        "tfjs-backend-wasm-threaded-simd.wasm",
    ),
}
EXAMPLES_FILE = "examples.json"
PAGE = Path(__file__).with_name("tfjs_page")
PARITY_SCRIPT = "parity.mjs"  # for Node; the page does not need it

# What the weights' type costs. Errors are of pixels in [0,1]: half of those in [-1,1].
LIMITS = {
    "float32": {
        "max_error": at_most(0.5e-4),
        "max_levels": at_most(1),
        "off_pixels": at_most(1e-3),
    },
    "float16": {"psnr": at_least(50)},
    "uint8": {"psnr": at_least(25)},
}


def decoder_folder(weights: str) -> str:
    """Returns the name of the folder of the decoder with weights of this type."""
    return f"decoder_{weights}"


def check_tools(node_modules: StrPath) -> None:
    """Checks that all that `export_tfjs` needs beside vim_tf is there.

    Args:
        node_modules: the folder that npm installs into.

    Raises:
        UserError: the converter, Node or one of the npm packages is missing or of another version.
    """
    if importlib.util.find_spec("tensorflowjs") is None:
        raise UserError(f"format tfjs needs the converter tensorflowjs, not installed; {PIP_LINE}")
    if shutil.which("node") is None:
        raise UserError(
            "format tfjs needs Node.js to compare the decoder with Keras; no node is on PATH: "
            "install Node.js 18 or later"
        )
    for package, files in LIBRARY.items():
        folder = Path(node_modules) / "@tensorflow" / package
        if not all((folder / "dist" / name).is_file() for name in files):
            raise UserError(
                f"format tfjs needs @tensorflow/{package}, not in {node_modules}; {NPM_LINE}, "
                "and name its node_modules folder"
            )
        found = json.loads((folder / "package.json").read_text())["version"]
        if found != VERSION:
            raise UserError(f"{folder} is version {found}; it must be {VERSION}: {NPM_LINE}")


def export_tfjs(run: TrainedRun, folder: Path, node_modules: StrPath) -> list[Measurement]:
    """Writes the decoder, its page and all that the page loads.

    Args:
        run: the `TrainedRun`.
        folder: an existing folder.
        node_modules: the folder with the npm packages of `NPM_LINE`.

    Returns:
        A list of `Measurement`, one for each type of weights.

    Raises:
        UserError: see `check_tools`.
        RuntimeError: the converter or Node failed.
    """
    check_tools(node_modules)
    folder = Path(folder)
    tokens, expected = run.held_out.tokens, run.held_out.decoded
    _write_examples(run, tokens, folder / EXAMPLES_FILE)
    _copy_page(folder, Path(node_modules))
    with tempfile.TemporaryDirectory() as saved_model:
        write_decoder(run.tokenizer, Path(saved_model))
        convert(Path(saved_model), folder)
    return [
        _measure(weights, folder / decoder_folder(weights), node_modules, tokens, expected)
        for weights in LIMITS
    ]


def convert(saved_model: Path, folder: Path) -> None:
    """Converts signature `decode` of a SavedModel into the folders of all types of weights.

    Args:
        saved_model: a folder that `write_decoder` wrote.
        folder: an existing folder.

    Raises:
        RuntimeError: with the converter's last words.
    """
    targets = [f"{Path(folder) / decoder_folder(weights)}={weights}" for weights in LIMITS]
    module = "vim_tf.export.browser.tfjs_convert"
    # -P: a file of the current folder must not be taken for a library.
    _run_or_raise([sys.executable, "-P", "-m", module, str(saved_model), DECODE, *targets])


def decode_in_node(
    decoder: Path, node_modules: StrPath, tokens: np.ndarray, image_size: tuple[int, int]
) -> tuple[np.ndarray, float]:
    """Runs a converted decoder in Node with the WebAssembly backend.

    Args:
        decoder: the folder of its model.json.
        node_modules: the folder with the npm packages.
        tokens: [n,N] int32.
        image_size: (H, W).

    Returns:
        (images [n,H,W,3] float32 in [-1,1], milliseconds of one image).

    Raises:
        RuntimeError: with Node's last words.
    """
    with tempfile.TemporaryDirectory() as temporary:
        inputs, outputs = Path(temporary) / "tokens", Path(temporary) / "images"
        np.asarray(tokens, "<i4").tofile(inputs)
        files = [PAGE / PARITY_SCRIPT, node_modules, decoder, inputs, outputs]
        answer = _run_or_raise(["node", *map(str, files)])
        images = np.fromfile(outputs, "<f4").reshape(len(tokens), *image_size, 3)
    return images, json.loads(answer.splitlines()[-1])["milliseconds"]


def compare_levels(expected: np.ndarray, actual: np.ndarray) -> dict[str, float]:
    """Compares images as they are shown, in 256 grey levels.

    Args:
        expected: [n,H,W,3] float32 in [-1,1].
        actual: the same.

    Returns:
        dict of "max_levels", the largest difference, and "off_pixels", the share of pixels with any
        difference in any channel.
    """
    levels = np.abs(to_uint8(expected).astype("int32") - to_uint8(actual))
    return {
        "max_levels": int(levels.max()),
        "off_pixels": float(np.mean(levels.max(axis=-1) > 0)),
    }


def _measure(weights, decoder, node_modules, tokens, expected):
    actual, milliseconds = decode_in_node(decoder, node_modules, tokens, expected.shape[1:3])
    values = compare_images(expected, actual) | compare_levels(expected, actual)
    size = sum(path.stat().st_size for path in decoder.iterdir())
    return Measurement("tfjs", decoder.name, size, milliseconds, values, LIMITS[weights])


def _write_examples(run, tokens, path):
    """What the page has to know about the model, and the grids that it starts with."""
    about = {
        "format": formats.NUMBERS["export"],
        "hashes": run.hashes(),
        "image_size": list(run.tokenizer.image_size),
        "grid": list(run.tokenizer.grid),
        "codes": run.tokenizer.config.quantizer.codes,
        "decoders": {weights: decoder_folder(weights) for weights in LIMITS},
        "generates": run.vim is not None,
        "class_names": list(run.class_names) if run.vim and run.vim.classes else [],
        "examples": tokens.tolist(),
    }
    path.write_text(json.dumps(about, separators=(",", ":")) + "\n")


def _copy_page(folder, node_modules):
    for path in PAGE.iterdir():
        if path.is_file() and path.name != PARITY_SCRIPT:
            shutil.copyfile(path, folder / path.name)
    for package, files in LIBRARY.items():
        for name in files:
            # Not the mode: npm marks some as programs.
            shutil.copyfile(node_modules / "@tensorflow" / package / "dist" / name, folder / name)


def _run_or_raise(command):
    """Runs a command; returns its standard output."""
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        last_words = (answer.stderr or answer.stdout).strip()[-2000:]
        raise RuntimeError(f"{' '.join(command)} failed:\n{last_words}")
    return answer.stdout
