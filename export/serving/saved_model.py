"""The SavedModel: written with its assets, loaded again, and compared with Keras."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import vim_tf
from vim_tf import formats
from vim_tf.data.transforms import normalize, to_uint8
from vim_tf.export.report import (
    Measurement,
    at_least,
    at_most,
    compare_images,
    compare_tokens,
)
from vim_tf.export.serving.signatures import Signatures
from vim_tf.runs.trained_run import TrainedRun

PROTOCOL_FILE = "protocol.json"
CLASS_NAMES_FILE = "class_names.txt"


def write_saved_model(signatures: Signatures, run: TrainedRun, folder: Path) -> None:
    """Writes `Signatures` as a SavedModel that needs neither Keras nor vim_tf to be loaded.

    Its assets are protocol.json and class_names.txt, a line a class.

    Args:
        signatures: `Signatures` of the run's models.
        run: the `TrainedRun`.
        folder: an existing folder, or a new one.
    """
    functions = {
        name: function.get_concrete_function() for name, function in signatures.functions().items()
    }
    functions["serving_default"] = functions[next(iter(functions))]
    assets = {
        PROTOCOL_FILE: json.dumps(protocol(signatures, run), indent=1) + "\n",
        CLASS_NAMES_FILE: "".join(f"{name}\n" for name in run.class_names),
    }
    module = tf.Module()
    module.weights = signatures.variables  # no Keras object, so that loading needs no Keras
    with tempfile.TemporaryDirectory() as originals:
        for name, text in assets.items():
            (Path(originals) / name).write_text(text)
        module.assets = [tf.saved_model.Asset(str(Path(originals) / name)) for name in assets]
        tf.saved_model.save(module, str(folder), signatures=functions)


def protocol(signatures: Signatures, run: TrainedRun) -> dict[str, Any]:
    """Returns what a client has to know to get the same answers again, for JSON."""
    tokenizer, vim = signatures.tokenizer, signatures.vim
    about = {
        "image_size": list(tokenizer.image_size),
        "patch_size": tokenizer.config.patch_size,
        "token_grid": list(tokenizer.grid),
        "token_order": "raster",
        "codes": tokenizer.config.quantizer.codes,
        "image_bytes": "JPEG or PNG, turned as EXIF says, transparency put on white, the "
        "shorter side resized (antialiased bicubic) and the centre cut out",
        "max_pixels": signatures.max_pixels,
        "format": formats.NUMBERS["export"],
        "hashes": run.hashes(),
        "steps": run.steps[0],
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "vim_tf": vim_tf.__version__,
    }
    if vim:
        about |= {
            "classes": vim.classes,
            "label_drop": vim.config.label_drop,
            "embed_block": signatures.block,
            "defaults": {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "guidance_scale": 1.0},
            "seed": "of the row; the same seed, label and settings give the same image",
        }
    return about


# Against Keras ----------------------------------------------------------------------------------


def measure(folder: Path, signatures: Signatures, run: TrainedRun) -> list[Measurement]:
    """Loads the SavedModel and compares each signature with Keras on real images.

    Returns:
        A list of `Measurement`, one a signature.
    """
    answers = tf.saved_model.load(str(folder)).signatures
    size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    images, _, tokens, decoded = run.held_out
    files, decoded = _png_files(images), to_uint8(decoded)
    vim = signatures.vim
    cases = {
        "tokenize": ({"images": images}, _tokens(tokens)),
        "tokenize_bytes": ({"image_bytes": files}, _tokens(tokens)),
        "decode": ({"tokens": tokens}, _pixels(decoded)),
        "decode_bytes": ({"tokens": tokens}, _pixels(decoded)),
        "reconstruct": ({"images": images}, _pixels(decoded)),
    }
    if vim:
        features = np.asarray(vim.features(tokens, signatures.block))
        cases["embed"] = ({"images": images}, _features(features))
        cases["embed_bytes"] = ({"image_bytes": files}, _features(features))
        cases |= _generating_cases(vim, len(images), set(answers))
    return [
        _measure(name, answers[name], inputs, compare, size)
        for name, (inputs, compare) in cases.items()
    ]


def _generating_cases(vim, rows, names):
    """Rows of unlike settings, as a server joins them."""
    rng = np.random.default_rng(0)
    label = (np.arange(rows) % max(vim.classes, 1)).astype("int32")
    seed = rng.integers(-(2**31), 2**31, rows)
    settings = {
        "temperature": rng.choice([0.0, 0.7, 1.0], rows).astype("float32"),
        "top_k": rng.choice([0, 1, min(10, vim.codes)], rows).astype("int32"),
        "top_p": rng.choice([0.9, 1.0], rows).astype("float32"),
    }
    guidance = {"guidance_scale": rng.choice([1.0, 2.0], rows).astype("float32")}
    if not vim.classes:
        label, guidance = None, {}
    elif vim.config.label_drop == 0:  # it cannot guide
        guidance["guidance_scale"][:] = 1
    given = {} if label is None else {"label": label}
    cases = {
        "generate": ({**given, "seed": seed, **settings, **guidance}, (label, settings | guidance)),
        "generate_default": ({**given, "seed": seed}, (label, {})),
        "generate_unlabelled": ({"seed": seed, **settings}, (None, settings)),
    }
    return {
        name: (inputs, _tokens(np.asarray(vim.generate(labels, seed, **chosen)), share=0.9))
        for name, (inputs, (labels, chosen)) in cases.items()
        if name in names
    }


def _measure(name, answer, inputs, compare, size):
    inputs = {key: tf.constant(value) for key, value in inputs.items()}
    outputs = answer(**inputs)  # the first call also loads kernels
    start = time.perf_counter()
    outputs = {key: value.numpy() for key, value in answer(**inputs).items()}
    rows = len(outputs["error"])
    milliseconds = 1000 * (time.perf_counter() - start) / rows
    values, limits = compare(outputs)
    values["refused_rows"] = int(np.sum(outputs["error"] != b""))
    limits["refused_rows"] = at_most(0)
    return Measurement("saved_model", name, size, milliseconds, values, limits)


def _tokens(expected, share=0.999):
    """Two codes may differ by less than rounding; in generation all later tokens then differ."""
    return lambda outputs: (
        compare_tokens(expected, outputs["tokens"]),
        {"tokens_equal": at_least(share)},
    )


def _pixels(expected):
    """One grey level of rounding is allowed, in few pixels."""

    def compare(outputs):
        actual = outputs.get("images")
        if actual is None:
            actual = np.stack([tf.io.decode_png(data).numpy() for data in outputs["image_bytes"]])
        values = compare_images(normalize(expected), normalize(actual))
        return values, {"max_error": at_most(1.001 / 255), "psnr": at_least(80)}

    return compare


def _features(expected):
    def compare(outputs):
        error = float(np.max(np.abs(outputs["features"] - expected)))
        scale = float(np.max(np.abs(expected)))
        return {"max_relative_error": error / scale}, {"max_relative_error": at_most(1e-4)}

    return compare


def _png_files(images):
    return np.array([tf.io.encode_png(image).numpy() for image in images], object)
