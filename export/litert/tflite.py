"""LiteRT (TFLite) files of decoder and tokenizer, each run by LiteRT and compared with Keras.

They take any number of rows (`resize_tensor_input`), hold builtin operations only, and have float32
images and int32 tokens as inputs and outputs whatever they compute in:

    decoder_float32.tflite
    decoder_float16.tflite       weights float16, computes in float32
    decoder_dynamic_int8.tflite  weights int8; dense layers multiply in int8, with ranges found as
                                 they run, the rest is float32
    decoder_int8.tflite          everything int8, ranges fixed in advance by decoding real tokens;
                                 the last operation turns the pixels into float32
    tokenizer_float32.tflite
    tokenizer_dynamic_int8.tflite  the same; codes stay float32
"""

import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from vim_tf.data.transforms import normalize
from vim_tf.export.plain_models import DECODE, TOKENIZE, write_edge_model
from vim_tf.export.report import (
    Measurement,
    at_least,
    at_most,
    compare_images,
    compare_tokens,
)
from vim_tf.files import write_atomically
from vim_tf.generation.litert import load_litert, open_interpreter
from vim_tf.runs.trained_run import TrainedRun

CALIBRATION = 64  # images; more of them widen the ranges: 0.1 dB less with twice as many
# File -> (signature, what it holds, PSNR in dB or share of equal tokens that it has to reach).
FILES = {
    "decoder_float32.tflite": (DECODE, "float32", 100),
    "decoder_float16.tflite": (DECODE, "float16", 50),
    "decoder_dynamic_int8.tflite": (DECODE, "dynamic_int8", 35),
    "decoder_int8.tflite": (DECODE, "int8", 35),
    "tokenizer_float32.tflite": (TOKENIZE, "float32", 0.999),
    "tokenizer_dynamic_int8.tflite": (TOKENIZE, "dynamic_int8", 0.9),
}


def export_tflite(run: TrainedRun, folder: Path) -> list[Measurement]:
    """Writes the files and measures them.

    Args:
        run: the `TrainedRun`; its images for training calibrate, its held-out ones measure.
        folder: an existing folder.

    Returns:
        A list of `Measurement`, one a file. Besides the differences from Keras they count
        "custom_operations", which must be 0, and "float_operations": those that read or write
        floats, not counting the casts at the ends; of decoder_int8.tflite they must be 0.

    Raises:
        UserError: LiteRT is not installed.
    """
    load_litert()
    folder = Path(folder)
    calibration = run.tokenizer.tokenize(normalize(run.images(CALIBRATION, "train")))
    _, images, tokens, decoded = run.held_out
    measurements = []
    with tempfile.TemporaryDirectory() as edge_model:
        write_edge_model(run.tokenizer, Path(edge_model))
        for name, (signature, kind, least) in FILES.items():
            data = convert(Path(edge_model), signature, kind, np.asarray(calibration))
            write_atomically(folder / name, data)
            if signature == DECODE:
                answers, milliseconds = _time(folder / name, tokens)
                values, key = compare_images(decoded, answers), "psnr"
            else:
                answers, milliseconds = _time(folder / name, images)
                values, key = compare_tokens(tokens, answers), "tokens_equal"
            limits = {key: at_least(least), "custom_operations": at_most(0)}
            if kind == "int8" and calibration is not None:
                limits["float_operations"] = at_most(0)
            values |= count_operations(data)
            measurements.append(
                Measurement("tflite", name, len(data), milliseconds, values, limits)
            )
    return measurements


def convert(
    edge_model: Path, signature: str, kind: str, calibration: np.ndarray | None = None
) -> bytes:
    """Converts one signature of a SavedModel.

    Args:
        edge_model: the folder that a function of `edge_models` wrote.
        signature: its name.
        kind: "float32", "float16", "dynamic_int8" or "int8", as in the table above.
        calibration: tokens int32 [n,N] of real images, for "int8" of `decode`.

    Returns:
        The file's bytes.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(edge_model), signature_keys=[signature]
    )
    if kind != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if kind == "int8" and calibration is not None:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: (
            (signature, {"tokens": row[np.newaxis]}) for row in calibration
        )
    with warnings.catch_warnings():
        # TensorFlow's converter warns of TensorFlow's interpreter, by which it calibrates.
        warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite\.Interpreter is deprecated")
        return converter.convert()


# Running a file ---------------------------------------------------------------------------------


def run_tflite(path: Path, batch: np.ndarray) -> np.ndarray:
    """Runs a file of one input and one output on a batch of any size.

    Args:
        path: one of the files.
        batch: tokens int32 [B,N] or images float32 [B,H,W,3].

    Returns:
        Images float32 [B,H,W,3] or tokens int32 [B,N].

    Raises:
        RuntimeError: LiteRT's; among other things for a token that is no code of the model.
    """
    return load_tflite(path, batch)()


def load_tflite(path: Path, batch: np.ndarray) -> Callable[[], np.ndarray]:
    """Returns a function without arguments that does what `run_tflite` does."""
    interpreter = open_interpreter(path)
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, batch.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(place, batch)

    def answer():
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return answer


def _time(path, batch):
    """Returns (answers, milliseconds a row of the second call)."""
    answer = load_tflite(path, batch)
    answer()  # the first call also packs weights
    start = time.perf_counter()
    answers = answer()
    return answers, 1000 * (time.perf_counter() - start) / len(batch)


# Looking into a file ----------------------------------------------------------------------------


def read_operations(data: bytes) -> list[tuple[str, bool]]:
    """Returns the operations of a file's bytes in their order, as (name, reads or writes floats).

    Builtin operations have LiteRT's names (FULLY_CONNECTED), others "custom: " and their own.
    """
    schema = load_litert("schema_py_generated")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    builtin = {number: name for name, number in vars(schema.BuiltinOperator).items()}
    operations = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            # Codes above 127 do not fit the older field, which holds 127 then.
            name = builtin[max(code.builtinCode, code.deprecatedBuiltinCode)]
            if name == "CUSTOM":
                name = f"custom: {code.customCode.decode()}"
            tensors = [graph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
            floats = any(tensor.type == schema.TensorType.FLOAT32 for tensor in tensors)
            operations.append((name, floats))
    return operations


def count_operations(data: bytes) -> dict[str, int]:
    """Returns {"custom_operations": n, "float_operations": m} of a file's bytes.

    QUANTIZE and DEQUANTIZE, the casts from and to float, are not counted.
    """
    counts = Counter()
    for name, floats in read_operations(data):
        counts["custom_operations"] += name.startswith("custom: ")
        counts["float_operations"] += floats and name not in ("QUANTIZE", "DEQUANTIZE")
    return dict(counts)
