"""SIGTERM, a cloud's notice that the machine goes, and Ctrl-C, as a flag for a graph."""

import contextlib
import os
import signal
import threading

import tensorflow as tf

from vim_tf.training_loop import gce_preemption

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """While it is entered, the first signal sets `requested`; the second ends the process at once.

    Python's own handlers wait for the main thread, which is inside of a graph for `log_every`
    steps. A thread hears of the signal meanwhile and sets the variable, which the graph reads
    before each step. Signal handlers can only be installed in the main thread.

    A notice of the cloud (`gce_preemption`) sets `requested` too. It does not count as a signal.

    Args:
        say: function of a line for the user.

    Attributes:
        requested: bool tf.Variable.
    """

    def __init__(self, say):
        self._say = say
        self.requested = tf.Variable(False, trainable=False)
        self._watched = contextlib.ExitStack()

    def __enter__(self):
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

    def __exit__(self, *_):
        if self._listens:
            for number, handler in zip(SIGNALS, self._old, strict=True):
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._old_writer)
            os.close(self._writer)  # which ends the thread, once it has said what it heard
            self._thread.join()
        self._watched.close()

    def _request(self, why, more=""):
        self.requested.assign(True)
        self._say(f"{why}: saving after this step{more}")

    def _listen(self):
        heard = False
        while number := os.read(self._reader, 1):
            if number[0] not in SIGNALS:
                continue
            if heard:
                os._exit(128 + number[0])
            heard = True
            name = signal.Signals(number[0]).name
            self._request(name, "; once more to leave without it")
        os.close(self._reader)
