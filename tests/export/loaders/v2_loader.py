"""Runs tf.saved_model.load: `v2_loader.py SAVED_MODEL EXCHANGE`; see test_loaders.py."""

import sys
from pathlib import Path

sys.modules["keras"] = None  # an import of it now fails

import tensor_files  # noqa: E402
import tensorflow as tf  # noqa: E402

saved_model, exchange = sys.argv[1:]
signatures = tf.saved_model.load(saved_model).signatures
for folder in Path(exchange).iterdir():
    inputs = {path.stem: tf.constant(tensor_files.read(path)) for path in folder.glob("*.in")}
    for name, value in signatures[folder.name](**inputs).items():
        tensor_files.write(folder / f"{name}.out", value.numpy())
assert not [name for name in sys.modules if name.split(".")[0] == "vim_tf"]
