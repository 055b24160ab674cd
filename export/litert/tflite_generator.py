"""LiteRT files of VIM, for `vim_tf.generation.litert_vim`, each compared with Keras.

    generator_float32.tflite
    generator_dynamic_int8.tflite  weights int8; dense layers multiply in int8, with ranges found as
                                   they run, the rest is float32
    generator.json                 what is needed besides: grid, codes, classes, label_drop,
                                   class_names; weights, the hash of the VIM; files, the hash of
                                   each file

Each computes one position; the caller keeps the cache (`plain_models.write_generator`).
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vim_tf import formats, losses
from vim_tf.export.litert.tflite import convert, count_operations
from vim_tf.export.plain_models import write_generator
from vim_tf.export.report import Measurement, at_least, at_most, compare_tokens
from vim_tf.files import hash_file, write_atomically
from vim_tf.generation.litert_vim import ABOUT_FILE, NEXT_LOGITS, LiteVIM
from vim_tf.models.vim import VIM
from vim_tf.runs.trained_run import TrainedRun

# File -> (what it holds, most nats per token that real tokens may be less likely, least share of
# positions where the likeliest code is Keras').
FILES = {
    "generator_float32.tflite": ("float32", 1e-4, 0.999),
    "generator_dynamic_int8.tflite": ("dynamic_int8", 0.05, 0.8),
}


def export_generator(run: TrainedRun, folder: Path) -> list[Measurement]:
    """Writes the files and measures them on held-out images without labels.

    Args:
        run: a `TrainedRun` with a VIM.
        folder: an existing folder.

    Returns:
        A list of `Measurement`, one a file: "tokens_equal", how often the likeliest code is that of
        Keras, and "nats" a token, by which the images' tokens are less likely than by Keras.
    """
    assert run.vim is not None
    folder, tokens = Path(folder), run.held_out.tokens
    write_files(run.vim, run.class_names, folder)
    expected = np.asarray(run.vim(tokens))
    measurements = []
    for name, (_, most_nats, least_equal) in FILES.items():
        started = time.perf_counter()
        logits = LiteVIM(folder / name).logits(tokens)
        milliseconds = 1000 * (time.perf_counter() - started) / len(tokens)
        data = (folder / name).read_bytes()
        values = compare_logits(expected, logits, tokens) | count_operations(data)
        limits = {
            "nats": at_most(most_nats),
            "tokens_equal": at_least(least_equal),
            "custom_operations": at_most(0),
        }
        measurements.append(Measurement("tflite", name, len(data), milliseconds, values, limits))
    return measurements


def write_files(vim: VIM, class_names: Sequence[str], folder: Path) -> None:
    """Writes all files of a `VIM` into an existing folder."""
    with tempfile.TemporaryDirectory() as saved_model:
        write_generator(vim, Path(saved_model))
        for name, (kind, *_) in FILES.items():
            write_atomically(folder / name, convert(Path(saved_model), NEXT_LOGITS, kind))
    about = {
        "grid": list(vim.grid),
        "codes": vim.codes,
        "classes": vim.classes,
        "label_drop": vim.config.label_drop,
        "class_names": list(class_names),
        "weights": vim.model_hash(),
        "files": {name: hash_file(folder / name) for name in FILES},
    }
    write_atomically(folder / ABOUT_FILE, formats.to_json("export", about))


def compare_logits(
    expected: np.ndarray, actual: np.ndarray, tokens: np.ndarray
) -> dict[str, float]:
    """Compares logits [n,N,K] by the codes they like best and by what they think of tokens [n,N].

    Returns:
        {"tokens_equal": share of positions with the same best code, "nats": how much less likely
        the tokens are by `actual`, a token}.
    """
    nats = [float(losses.cross_entropy(x, tokens)) for x in (expected, actual)]
    best = [np.argmax(x, axis=-1) for x in (expected, actual)]
    return {**compare_tokens(*best), "nats": nats[1] - nats[0]}
