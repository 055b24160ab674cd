"""What a machine could do at best, timed beside what is measured: products, reading memory."""

import os
from concurrent.futures import ThreadPoolExecutor

import contest
import keras
import numpy as np
from keras import ops

from vim_tf.compilation import compiled

STREAM_BYTES = 2**30
PRODUCTS = 8


class Limit(contest.Contestant):
    """What a machine can do: of all calls the fastest counts."""

    @property
    def time(self):
        """The least of the seconds."""
        return min(self.seconds)


def make_product(side, precision="float32"):
    """Products of square matrices, one after the other, so that their start does not count."""
    dtype = "bfloat16" if precision == "mixed_bfloat16" else "float32"
    random = np.random.default_rng(0)
    a, b = (ops.cast(random.normal(size=(side, side)) * side**-0.5, dtype) for _ in range(2))

    def multiply(a, b):
        for _ in range(PRODUCTS):
            b = ops.matmul(a, b)
        return ops.cast(ops.max(b), "float32")  # one number, or all would be copied

    product = compiled(multiply, [])
    return Limit("product", contest.finished(lambda: product(a, b)), PRODUCTS * 2 * side**3)


def make_stream(size=STREAM_BYTES):
    """Reading a stretch of memory once: of the accelerator's, or by a thread a core of the CPU."""
    numbers = np.ones(size // 4, "float32")
    if not all(device.startswith("cpu") for device in keras.distribution.list_devices()):
        numbers, largest = ops.convert_to_tensor(numbers), compiled(ops.max, [])
        return Limit("stream", contest.finished(lambda: largest(numbers)), traffic=size)
    threads = len(os.sched_getaffinity(0))
    parts = np.array_split(numbers, threads)
    pool = ThreadPoolExecutor(threads)
    return Limit("stream", lambda: list(pool.map(np.max, parts)), traffic=size)
