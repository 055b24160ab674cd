"""Turns SIGTERM, Ctrl-C and a cloud's notice that it stops the machine into a flag for a graph."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from typing import Self

import tensorflow as tf

from vim_tf.training_loop import gce_preemption

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """Inside, the first signal sets `requested`; the second ends the process at once.

    Python's own handlers wait for the main thread, and that is inside a graph for `log_every`
    steps. So another thread receives the signal and sets the variable. The graph reads it before
    each step. Signal handlers can only be installed in the main thread.

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
        self._listens = threading.current_thread() is threading.main_thread()
        if self._listens:
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            self._old_writer = signal.set_wakeup_fd(self._writer)
            # Python writes the number of a signal into the pipe only if it has a handler.
            self._old = [signal.signal(number, lambda *_: None) for number in SIGNALS]
            self._thread = threading.Thread(target=self._listen, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._listens:
            for number, handler in zip(SIGNALS, self._old, strict=True):
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._old_writer)
            os.close(self._writer)  # the thread reports the signals that it has read, and ends
            self._thread.join()
        self._watched.close()

    def _request(self, why: str, more: str = "") -> None:
        self.requested.assign(True)
        self._say(f"{why}: saving after this step{more}")

    def _listen(self) -> None:
        heard = False
        while number := os.read(self._reader, 1):
            if number[0] not in SIGNALS:
                continue
            if heard:
                os._exit(128 + number[0])
            heard = True
            name = signal.Signals(number[0]).name
            self._request(name, "; send it again to stop without saving")
        os.close(self._reader)
