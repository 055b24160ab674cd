"""Exports trained runs to TensorFlow Serving, LiteRT and the browser; `python -m vim_tf.export`."""
