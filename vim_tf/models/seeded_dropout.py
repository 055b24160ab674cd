"""Draws that belong to rows, so that a batch can be shared among replicas or taken in parts.

Keras' dropout draws one mask for the batch that a replica sees: on two replicas the masks are
others than on one, and so are the weights that come of them.
"""

import contextlib
import math
import threading
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from vim_tf.annotations import Tensor
from vim_tf.noise import mix

_given = threading.local()  # each replica is traced in its own thread


@contextlib.contextmanager
def row_keys(keys: Tensor) -> Iterator[None]:
    """Inside, `row_bits` and every `RowDropout` draw for row i from keys[i]: [B] uint32."""
    before = getattr(_given, "keys", None)
    _given.keys = keys
    try:
        yield
    finally:
        _given.keys = before


def step_keys(seed: Tensor, step: Tensor, rows: int) -> Tensor:
    """Returns the keys of rows at a step of a training, as `row_keys` takes them.

    Seed, step and row are hashed one by one. A sum of them would give seed 0 at step 5 the keys of
    seed 5 at step 0, and so all seeds the same sequence, shifted.

    Args:
        seed: any integer; those that are equal modulo 2^64 have the same keys.
        step: integer scalar, not negative.
        rows: [B] integers, the rows' places in the global batch.

    Returns:
        [B] uint32.
    """
    low, high = np.uint32(seed % 2**32), np.uint32(seed // 2**32 % 2**32)
    key = _hash(ops.bitwise_xor(_hash(ops.cast(low, "uint32"), 1), ops.cast(high, "uint32")), 2)
    key = mix(ops.bitwise_xor(key, _hash(ops.cast(step, "uint32"), 3)))
    return mix(ops.bitwise_xor(key, _hash(ops.cast(rows, "uint32"), 4)))


def _hash(x, salt):
    """Mixes uint32 after adding a constant, another one for each salt; 0 alone would stay 0."""
    return mix(ops.add(x, np.uint32(salt * 0x9E3779B9 % 2**32)))


def row_bits(keys: Tensor | None, salt: int, places: Tensor) -> Tensor:
    """Returns random bits [B,M] uint32, a function of a row's key, of `salt`, and of the place.

    Args:
        keys: [B] unsigned or not negative; None for those of `row_keys`.
        salt: callers with the same salt draw the same.
        places: [M] int32, not negative.
    """
    keys = _given.keys if keys is None else keys
    rows = mix(ops.bitwise_xor(mix(ops.cast(keys, "uint32")), np.uint32(salt + 1)))
    # Cast, since XLA has no range of uint32.
    places = mix(ops.cast(places, "uint32"))
    return mix(ops.bitwise_xor(ops.expand_dims(rows, 1), places))


def zeros_behind(x: Tensor, dtype: str) -> Tensor:
    """Returns zeros of x's shape with a data dependency on x.

    The dependency keeps the graph optimizer from computing their consumers before x. 0 * x would be
    folded into a constant. A NaN in x gives a 1.
    """
    return ops.cast(ops.isnan(x), dtype)


@keras.saving.register_keras_serializable("vim_tf")
class RowDropout(layers.Layer):
    """Sets a share of the elements of x [B,...] to 0 in training, and scales up the others.

    Which ones of a row is a function of the row's key and of `salt`; see `row_keys`. Outside of it
    new keys are drawn each time, as Keras' Dropout does.

    Args:
        rate: share that is dropped, from 0 to below 1.
        salt: layers of a model that share it share their masks.
    """

    def __init__(self, rate: float, salt: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate, self.salt = rate, salt
        self.seed_generator = keras.random.SeedGenerator()
        self.built = True

    def call(self, x: Tensor, places: Tensor | None = None, training: bool | None = None) -> Tensor:
        """[B,...] -> the same shape; all but B known.

        Args:
            x: any shape.
            places: int32 of x's shape without B; None numbers a row's elements. Where x is a part
                of something, the numbers there.
            training: whether it drops at all.
        """
        if not training or self.rate == 0:
            return x
        keys = getattr(_given, "keys", None)
        if keys is None:
            shape = (ops.shape(x)[0],)
            keys = keras.random.randint(shape, 0, 2**31 - 1, "int32", seed=self.seed_generator)
        if places is None:
            places = ops.arange(math.prod(x.shape[1:]), dtype="int32")
        # Without this dependency TensorFlow makes all masks at the start of the step and keeps them
        # for a gradient for which x is computed again.
        first = ops.reshape(x, (ops.shape(x)[0], -1))[:, 0]
        keys = ops.cast(keys, "uint32") + zeros_behind(first, "uint32")
        bits = row_bits(keys, self.salt, ops.reshape(places, (-1,)))
        kept = ops.reshape(bits, ops.shape(x)) >= np.uint32(self.rate * 2**32)
        return ops.where(kept, x / (1 - self.rate), ops.zeros((), x.dtype))

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs."""
        return {**super().get_config(), "rate": self.rate, "salt": self.salt}
