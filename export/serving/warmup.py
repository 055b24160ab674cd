"""Warm-up records: requests that TensorFlow Serving answers before it says a version is ready."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from vim_tf.export.serving.serving_kit import MODEL_NAME, import_api
from vim_tf.runs.trained_run import TrainedRun

PATH = Path("assets.extra", "tf_serving_warmup_requests")  # the server looks here and nowhere else


def check_tools() -> None:
    """Raises UserError if tensorflow-serving-api is not installed."""
    import_api()


def write_warmup(
    saved_model_dir: Path, run: TrainedRun, batch_sizes: Sequence[int] = (1, 8)
) -> int:
    """Writes a request of each batch size for each signature, with real images.

    The first calls of a signature load kernels and choose algorithms; these records take that on
    themselves. In a batch of more than one row every row has other settings, so that the filtering
    and guiding branches of the graph are warm too.

    Args:
        saved_model_dir: the folder of one version; gets assets.extra/.
        run: the `TrainedRun`, for images.
        batch_sizes: rows of the requests.

    Returns:
        The number of records.

    Raises:
        UserError: tensorflow-serving-api is not installed.
    """
    api = import_api()
    inputs = _make_inputs(run, max(batch_sizes))
    path = Path(saved_model_dir) / PATH
    path.parent.mkdir(exist_ok=True)
    records = 0
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, signature in sorted(read_signatures(saved_model_dir).items()):
            for rows in batch_sizes:
                log = api.prediction_log_pb2.PredictionLog()
                request = log.predict_log.request
                request.model_spec.name = MODEL_NAME
                request.model_spec.signature_name = name
                for key, spec in signature.inputs.items():
                    value = tf.make_tensor_proto(inputs[key][:rows], dtype=spec.dtype)
                    request.inputs[key].CopyFrom(value)
                writer.write(log.SerializeToString())
                records += 1
    return records


def read_signatures(saved_model_dir: Path) -> dict[str, Any]:
    """Returns {name: SignatureDef} of a SavedModel without loading it."""
    data = (Path(saved_model_dir) / "saved_model.pb").read_bytes()
    meta_graph = saved_model_pb2.SavedModel.FromString(data).meta_graphs[0]
    # The loader's own initialisation stands among the signatures; it has no inputs.
    return {name: value for name, value in meta_graph.signature_def.items() if value.inputs}


def _make_inputs(run, rows):
    """{input's name: values of `rows` rows}; the first row has the settings of most requests."""
    images = run.images(rows)
    images = np.resize(images, (rows, *images.shape[1:]))  # few images are repeated
    codes = run.tokenizer.config.quantizer.codes
    rng = np.random.default_rng(0)
    later = np.arange(rows) > 0
    return {
        "images": images,
        "image_bytes": [tf.io.encode_png(image).numpy() for image in images],
        "tokens": rng.integers(0, codes, (rows, run.tokenizer.tokens_per_image)),
        "label": np.arange(rows) % max(run.vim.classes if run.vim else 1, 1),
        "seed": np.arange(rows),
        "temperature": np.where(later, 0.9, 1.0),
        "top_k": np.where(later, max(1, codes // 2), 0),
        "top_p": np.where(later, 0.9, 1.0),
        "guidance_scale": np.where(later, 2.0, 1.0),
    }
