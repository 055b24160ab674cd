"""Runs a SavedModel in a Session of TensorFlow 1: `v1_session.py SAVED_MODEL EXCHANGE`."""

import sys
from pathlib import Path

sys.modules["keras"] = None  # an import of it now fails

import tensor_files  # noqa: E402
import tensorflow as tf  # noqa: E402

saved_model, exchange = sys.argv[1:]
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], saved_model)
    for folder in Path(exchange).iterdir():
        signature = meta_graph.signature_def[folder.name]
        inputs = {
            signature.inputs[path.stem].name: tensor_files.read(path)
            for path in folder.glob("*.in")
        }
        outputs = session.run({k: v.name for k, v in signature.outputs.items()}, inputs)
        for name, value in outputs.items():
            tensor_files.write(folder / f"{name}.out", value)
