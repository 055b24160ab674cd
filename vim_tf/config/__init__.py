"""The sections of a config, its checks, and the loader; imports no TensorFlow."""
