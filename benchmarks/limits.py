"""What a machine could do at best, timed beside what is measured: products, reading memory."""

import os
from concurrent.futures import ThreadPoolExecutor

import contest
import numpy as np
from keras import ops

from vim_tf.compilation import compiled

STREAM_BYTES = 2**30


def make_product(side, precision="float32"):
    """A product of two square matrices."""
    dtype = "bfloat16" if precision == "mixed_bfloat16" else "float32"
    random = np.random.default_rng(0)
    a, b = (ops.cast(random.normal(size=(side, side)), dtype) for _ in range(2))
    # One number of it, so that what is waited for is small on an accelerator.
    product = compiled(lambda a, b: ops.cast(ops.max(ops.matmul(a, b)), "float32"), [])
    return contest.Contestant("product", lambda: np.asarray(product(a, b)), 2 * side**3)


def make_stream(size=STREAM_BYTES):
    """Reading a stretch of memory once, by a thread a core of the CPU."""
    threads = len(os.sched_getaffinity(0))
    parts = np.array_split(np.ones(size // 4, "float32"), threads)
    pool = ThreadPoolExecutor(threads)
    return contest.Contestant("stream", lambda: list(pool.map(np.max, parts)), traffic=size)
