"""The SavedModel, its signatures, and what TensorFlow Serving needs beside it."""
