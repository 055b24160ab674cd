"""The limits of a machine, timed in turn with the measured work: products, reading memory."""

from concurrent.futures import ThreadPoolExecutor

import contest
import keras
import numpy as np
from keras import ops

from vim_tf.distribution.compilation import compiled
from vim_tf.distribution.cores import count_cores

STREAM_BYTES = 2**30
PRODUCTS, READS = 8, 16


def make_product(side, precision="float32"):
    """Products of square matrices, one after the other, so that a call's start hardly counts."""
    dtype = "bfloat16" if precision == "mixed_bfloat16" else "float32"
    random = np.random.default_rng(0)
    a, b = (ops.cast(random.normal(size=(side, side)) * side**-0.5, dtype) for _ in range(2))

    def multiply(a, b):
        for _ in range(PRODUCTS):
            b = ops.matmul(a, b)
        return ops.cast(ops.max(b), "float32")  # one number, to copy no matrix

    product = compiled(multiply, [])
    return contest.Contestant(
        "product", contest.finished(lambda: product(a, b)), PRODUCTS * 2 * side**3
    )


def make_stream(size=STREAM_BYTES):
    """Reads a block of memory: the accelerator's, or the host's with one thread per core.

    It reads several times, half a second on a CPU: the bandwidth left by other programs varies.
    """
    numbers = np.ones(size // 4, "float32")
    if all(device.startswith("cpu") for device in keras.distribution.list_devices()):
        threads = count_cores()
        parts = np.array_split(numbers, threads)
        pool = ThreadPoolExecutor(threads)

        def read():
            return list(pool.map(np.max, parts))
    else:
        numbers, largest = ops.convert_to_tensor(numbers), compiled(ops.max, [])
        read = contest.finished(lambda: largest(numbers))

    return contest.Contestant(
        "stream", lambda: [read() for _ in range(READS)], traffic=READS * size
    )
