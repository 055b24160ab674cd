"""Turns SIGTERM, SIGHUP, Ctrl-C and a cloud's notice that it stops the machine into a flag."""

import contextlib
from collections.abc import Callable
from typing import Self

import tensorflow as tf

from vim_tf import stopping
from vim_tf.training_loop import gce_preemption


class StopSignal:
    """Inside, the first signal sets `requested`; the second ends the process at once.

    The main thread is inside a graph for `log_every` steps. So another thread hears the signal and
    sets the variable, see `stopping`. The graph reads it before each step.

    A notice of the cloud (`gce_preemption`) sets `requested` too. It does not count as a signal.

    Args:
        say: called with each line for the user.

    Attributes:
        requested: bool tf.Variable.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.requested = tf.Variable(False, trainable=False)
        self._watched = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._watched.enter_context(gce_preemption.watch(self._request))
        self._watched.enter_context(stopping.saving(self._hear))
        return self

    def __exit__(self, *_: object) -> None:
        self._watched.close()

    def _hear(self, name: str) -> None:
        self._request(name, "; send it again to stop without saving")

    def _request(self, why: str, more: str = "") -> None:
        self.requested.assign(True)
        self._say(f"{why}: saving after this step{more}")
