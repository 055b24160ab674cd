"""Checks of the images and tokens that a caller gives to a tokenizer.

Types and shapes are always checked. Values are checked where they are known: inside a graph they
are not.
"""

import warnings

import keras
import numpy as np
from keras import ops

from vim_tf.annotations import Tensor
from vim_tf.errors import UserError
from vim_tf.messages import shorten

SLACK = 1e-3  # of values; roundings of other number formats
RANGE = "images are float, from -1 (black) to 1 (white)"
ADVICE = "vim_tf.normalize(images) makes them from values of 0 to 255"


def check_images(images: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Checks images [B,H,W,3] and returns them; a list becomes an array.

    A batch without any value below 0 is legal, if it is bright everywhere. It is more often one of
    images in [0,1], so it gives a warning.

    Args:
        images: an array or a tensor.
        image_size: the model's (H, W).

    Raises:
        UserError: another dtype than a float, another shape, or a value outside [-1,1].
    """
    if not hasattr(images, "dtype"):
        images = _to_array(images, "images")
    dtype = _dtype_of(images, "images", RANGE)
    if not dtype.startswith(("float", "bfloat")):
        raise UserError(f"images have the dtype {dtype}; {RANGE}; {ADVICE}")
    shape, wanted = tuple(images.shape), (*image_size, 3)
    if len(shape) != 4 or any(
        size not in (None, side) for size, side in zip(shape[1:], wanted, strict=True)
    ):
        text = f"[batch, {', '.join(map(str, wanted))}]"
        one = "; give one image as images[None]" if shape == wanted else ""
        raise UserError(f"images have the shape {list(shape)}; this model takes {text}{one}")
    if not _is_known(images):
        return images
    if shape[0] == 0:
        raise UserError("images are an empty batch; give one image or more")
    low, high = (float(f(images)) for f in _extremes(images))
    if not -1 - SLACK <= low <= high <= 1 + SLACK:  # also NaN
        raise UserError(f"images have values from {low:g} to {high:g}; {RANGE}; {ADVICE}")
    if 0 <= low < high:
        warnings.warn(
            f"images have values from {low:g} to {high:g}, none below 0; {RANGE}. If yours are in "
            "[0,1], give 2 * images - 1",
            stacklevel=3,
        )
    return images


def check_tokens(tokens: Tensor, codes: int) -> Tensor:
    """Checks tokens of any shape and any integer dtype; returns them in one that TensorFlow takes.

    Raises:
        UserError: they are no integers from 0 to `codes` - 1.
    """
    if not hasattr(tokens, "dtype"):
        tokens = _to_array(tokens, "tokens")
    words = f"tokens are integers from 0 to {codes - 1}"
    dtype = _dtype_of(tokens, "tokens", words)
    if not dtype.startswith(("int", "uint")):
        raise UserError(f"tokens have the dtype {dtype}; {words}")
    if _is_known(tokens) and 0 not in tuple(tokens.shape):
        low, high = (int(f(tokens)) for f in _extremes(tokens))
        if low < 0 or high >= codes:
            raise UserError(f"tokens are from {low} to {high}; {words}")
    return tokens if dtype in ("int32", "int64") else ops.cast(tokens, "int32")


def _to_array(values, name):
    try:
        return np.asarray(values)
    except ValueError:  # rows of different lengths
        raise UserError(f"{name} have rows of different shapes; give one array") from None


def _dtype_of(values, name, words):
    try:
        return keras.backend.standardize_dtype(values.dtype)
    except ValueError:  # text or objects
        raise UserError(f"{name} have the dtype {shorten(str(values.dtype))}; {words}") from None


def _extremes(values):
    return (np.min, np.max) if isinstance(values, np.ndarray) else (ops.min, ops.max)


def _is_known(values):
    """Whether there are values, not only the symbol of a graph or of a traced function."""
    if isinstance(values, np.ndarray):
        return True
    if keras.backend.backend() == "tensorflow":
        return hasattr(values, "numpy")
    if keras.backend.backend() == "jax":
        import jax
        from jax.core import Tracer

        return isinstance(values, jax.Array) and not isinstance(values, Tracer)
    return False
