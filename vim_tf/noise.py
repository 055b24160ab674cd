"""The hash that makes samples, dropout masks and seeds, in Keras and in NumPy."""

import numpy as np
from keras import ops

from vim_tf.annotations import Tensor

_FACTORS = np.array([0x85EBCA6B, 0xC2B2AE35], "uint32")


def mix(x: Tensor) -> Tensor:
    """MurmurHash3's 32-bit finaliser, a bijection of uint32: each bit changes all bits."""
    x = ops.bitwise_xor(x, ops.bitwise_right_shift(x, 16))
    x = ops.multiply(x, _FACTORS[0])
    x = ops.bitwise_xor(x, ops.bitwise_right_shift(x, 13))
    x = ops.multiply(x, _FACTORS[1])
    return ops.bitwise_xor(x, ops.bitwise_right_shift(x, 16))


def mix_array(x: np.ndarray) -> np.ndarray:
    """`mix` of a NumPy array of uint32."""
    x = (x ^ (x >> np.uint32(16))) * _FACTORS[0]
    x = (x ^ (x >> np.uint32(13))) * _FACTORS[1]
    return x ^ (x >> np.uint32(16))
