"""The one module that imports `tensorflowjs`; it runs in a separate process.

    python -m vim_tf.export.browser.tfjs_convert SAVED_MODEL SIGNATURE FOLDER=TYPE [FOLDER=TYPE ...]

`tensorflowjs` imports libraries for kinds of models that are none of ours, and not all of them can
be installed beside TensorFlow 2.20. Empty modules stand in for them, which nothing else may see.
"""

import base64
import json
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras  # noqa: F401 - first, so that it sees which backends there really are

STAND_INS = (
    "jax",
    "jax.experimental",
    "jax.experimental.jax2tf",
    "tensorflow_decision_forests",
    "tensorflow_hub",
    "tf_keras",
)
NOT_QUANTIZED = "float32"


def main(arguments: Sequence[str]) -> None:
    """Converts one signature of a SavedModel into one folder for each type of its weights.

    Args:
        arguments: the SavedModel's folder, the signature's name, and "folder=type" once or more,
            type being float32, float16 or uint8.
    """
    saved_model, signature, *targets = arguments
    for name in STAND_INS:
        sys.modules[name] = types.ModuleType(name)
    vars(sys.modules["jax.experimental"])["jax2tf"] = sys.modules["jax.experimental.jax2tf"]

    from tensorflowjs import converters  # pyright: ignore[reportMissingImports]  # its own install

    for target in targets:
        folder, _, weights = target.rpartition("=")
        converters.convert_tf_saved_model(
            saved_model,
            folder,
            signature_def=signature,
            quantization_dtype_map=None if weights == NOT_QUANTIZED else {weights: "*"},
        )
        model_file = Path(folder) / "model.json"
        model = json.loads(model_file.read_text())
        nodes = model["modelTopology"]["node"]
        nodes[:] = [part for node in nodes for part in split_tanh(node)]
        model_file.write_text(json.dumps(model, separators=(",", ":")))


def split_tanh(node: dict[str, Any]) -> list[dict[str, Any]]:
    """Takes tanh out of a fused product of matrices; TF.js' WebAssembly backend refuses it there.

    Args:
        node: of a graph, as TF.js has it in JSON.

    Returns:
        A list of the node alone, or of the product and the tanh, which gets the node's name.
    """
    fused = node.get("attr", {}).get("fused_ops", {}).get("list", {}).get("s", [])
    if not fused or base64.b64decode(fused[-1]) != b"Tanh":
        return [node]
    product = json.loads(json.dumps(node))
    product["name"] += "/product"
    product["attr"]["fused_ops"]["list"]["s"].pop()
    tanh = {"name": node["name"], "op": "Tanh", "input": [product["name"]]}
    return [product, tanh | {"attr": {"T": node["attr"]["T"]}}]


if __name__ == "__main__":
    main(sys.argv[1:])
