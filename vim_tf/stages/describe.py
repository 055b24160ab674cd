"""Runs one synthetic batch through a stage and shows size and time of each call's output.

GFLOP/s count products of matrices and convolutions only, see `costs.operations`.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import keras
import numpy as np
import tensorflow as tf

from vim_tf.annotations import Tensor
from vim_tf.config.experiments import TrainingExperiment
from vim_tf.stages import registry

MOST_IMAGES = 8  # a large model still answers on a CPU
REPEATS = 3
COLUMNS = "{:<46} {:<18} {:<8} {:>14} {:>10} {:>8}\n"


def describe(experiment: TrainingExperiment, stream: TextIO | None = None) -> None:
    """Prints each call of a forward pass with shape, dtype, parameters and milliseconds.

    Weights are new ones, except those of stage 2's tokenizer. Times are medians of `REPEATS`
    compiled forward passes on one device.

    Args:
        experiment: one of `experiments.EXPERIMENTS`.
        stream: where to write; standard output by default.

    Raises:
        UserError: stage 2 has no tokenizer, or one for another size of images.
    """
    table = Table(stream or sys.stdout)
    batch = min(experiment.data.batch_size, MOST_IMAGES)
    table.say(
        f"{experiment.experiment}: a synthetic batch of {batch} images; "
        f"data.batch_size is {experiment.data.batch_size}"
    )
    shape = (batch, *experiment.data.image_size, 3)
    noise = np.random.default_rng(experiment.seed).uniform(-1, 1, shape)
    images = tf.constant(noise, tf.float32)
    registry.stage_class(experiment).describe(experiment, images, table)


class Table:
    """Writes one line for each call; shows the number of parameters once for each part."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def say(self, text: str) -> None:
        """Writes a line."""
        self.stream.write(f"{text}\n")

    def start(self) -> None:
        """Writes the head of the columns."""
        self.stream.write(COLUMNS.format("call", "shape", "dtype", "parameters", "ms", "GFLOP/s"))

    def show(
        self,
        name: str,
        output: Tensor,
        parameters: str = "",
        milliseconds: str = "",
        rate: str = "",
    ) -> None:
        """Writes the line of a tensor or an array."""
        shape = f"[{','.join(map(str, output.shape))}]"
        dtype = keras.backend.standardize_dtype(output.dtype)
        line = COLUMNS.format(name, shape, dtype, parameters, milliseconds, rate)
        self.stream.write(f"{line.rstrip()}\n")

    def call(
        self,
        name: str,
        function: Callable[..., Any],
        *inputs: Tensor,
        parameters: int = 0,
        operations: float = 0,
        fields: Sequence[str] = (),
    ) -> Any:
        """Runs a call a few times, shows its output, or its named fields, and returns the output.

        `operations` are those of one image.
        """
        function = tf.function(function, autograph=False)
        output = function(*inputs)
        seconds = []
        for _ in range(REPEATS):
            tf.test.experimental.sync_devices()
            started = time.perf_counter()
            output = function(*inputs)
            tf.test.experimental.sync_devices()
            seconds.append(time.perf_counter() - started)
        taken = statistics.median(seconds)
        first = (
            f"{parameters:,}" if parameters else "",
            f"{1000 * taken:,.1f}",
            f"{inputs[0].shape[0] * operations / taken / 1e9:,.1f}" if operations else "",
        )
        if not fields:
            self.show(name, output, *first)
        for i, field in enumerate(fields):
            self.show(f"{name}.{field}", getattr(output, field), *(first if i == 0 else ()))
        return output
