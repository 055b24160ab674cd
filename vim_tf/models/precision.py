"""The number format in which models compute."""

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Models made inside compute in "float32", or ("mixed_bfloat16") in bfloat16 where it is safe.

    Weights are float32 in either case, and so are, by themselves, the quantizer, the softmax of
    attention, the statistics of norms, and what leaves a model.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
