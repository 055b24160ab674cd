"""The hash that samples, dropout masks and seeds are made of, in Keras and in NumPy."""

import numpy as np
from keras import ops

_FACTORS = np.array([0x85EBCA6B, 0xC2B2AE35], "uint32")


def mix(x):
    """MurmurHash3's 32-bit finaliser, a bijection of uint32 that spreads every bit over all."""
    x = ops.bitwise_xor(x, ops.bitwise_right_shift(x, 16))
    x = ops.multiply(x, _FACTORS[0])
    x = ops.bitwise_xor(x, ops.bitwise_right_shift(x, 13))
    x = ops.multiply(x, _FACTORS[1])
    return ops.bitwise_xor(x, ops.bitwise_right_shift(x, 16))


def mix_array(x):
    """`mix` of a NumPy array of uint32."""
    x = (x ^ (x >> np.uint32(16))) * _FACTORS[0]
    x = (x ^ (x >> np.uint32(13))) * _FACTORS[1]
    return x ^ (x >> np.uint32(16))
