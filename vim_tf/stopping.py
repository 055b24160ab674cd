"""SIGTERM, SIGHUP and Ctrl-C: one way to stop, for every command and at every moment.

moment                     the first signal                                     who
before the command runs    one line; the process ends                           `listen`
while it runs              `Stop` is raised in the main thread, so that files   `command_line.run`
                           are closed and temporary ones removed; one line
while it trains            a function is called, and the training saves         `saving`

Python's own handlers wait for the main thread, and that may be inside a graph of TensorFlow for
minutes. So another thread hears the signals too. It raises the `Stop` again if a library lost it,
and ends the process if the main thread has not ended it after `GRACE` seconds. A second signal ends
it at once.

One stop often sends several signals: Ctrl-C reaches all processes of a terminal, and a supervisor
among them may pass it on; a terminal that closes sends SIGHUP twice. So signals within `TOGETHER`
seconds of the first count as one, and SIGHUP never counts as a second signal. A signal that is
ignored at the start, as by nohup, stays ignored.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

EXIT_GOES_ON = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on from what is finished
EXIT_STARTS_AGAIN = 130  # as a shell reports Ctrl-C
GOES_ON = {"vim_tf.train", "vim_tf.tokenize_dataset", "vim_tf.probe", "vim_tf.export"}
GRACE, TOGETHER, PAUSE = 10.0, 0.2, 0.25  # seconds
# Windows has no SIGHUP.
SIGNALS = {
    number
    for name in ("SIGTERM", "SIGINT", "SIGHUP")
    if (number := getattr(signal, name, None)) is not None
}
_HANGUP = getattr(signal, "SIGHUP", None)


class Stop(BaseException):
    """A signal asked this process to stop; the message is for the user.

    It is no Exception, so that no library takes it for an error and continues.

    Attributes:
        exit_code: of the process.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Listener:
    """Hears the signals of this process from `start` to `close`; at most one at a time.

    Attributes:
        exit_code: of a process that is stopped.
        runs: whether the main thread is in `raising`, and takes a `Stop`.
        raised: whether it was raised.
        ended: whether a signal is too late: the work is done.
        save: called by another thread with the name of the first signal; None raises `Stop`.
        heard: the first signal; None before it.
    """

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code
        self.runs = self.raised = self.ended = False
        self.save: Callable[[str], object] | None = None
        self.heard: int | None = None
        self._saying, self._said = threading.Lock(), False
        self._own = 0  # signals of `_insist` that `_listen` has not read yet
        self._terminals = [place for place in (1, 2) if os.isatty(place)]

    def start(self) -> None:
        """Installs the handlers; call it in the main thread."""
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._old_writer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        # Python writes the number of a signal into the pipe only if it has a handler.
        self._old = {
            number: signal.getsignal(number)
            for number in SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        self.take_over()
        self._old_hooks = sys.unraisablehook, threading.excepthook
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def take_over(self) -> None:
        """Installs the handlers, again if a library has installed its own, as TensorFlow's workers.

        Call it in the main thread.
        """
        for number in self._old:
            signal.signal(number, self._handle)

    def close(self) -> None:
        """Restores the handlers of before."""
        self.ended = True
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_writer)
        os.close(self._writer)  # the thread reports the signals that it has read, and ends
        self._thread.join()
        sys.unraisablehook, threading.excepthook = self._old_hooks

    def stop(self) -> Stop:
        """Returns the `Stop` of the signal that was heard."""
        name = signal.Signals(self.heard or signal.SIGTERM).name
        goes_on = self.exit_code == EXIT_GOES_ON
        then = "goes on from what is finished" if goes_on else "starts again"
        return Stop(f"{name}: stopped before the end; the same command {then}", self.exit_code)

    def say(self) -> None:
        """Writes the line of the stop, once."""
        with self._saying:
            if not self._said:
                self._said = True
                with contextlib.suppress(OSError):
                    os.write(2, f"{self.stop()}\n".encode())

    def _handle(self, number: int, _: FrameType | None) -> None:
        """Python calls it in the main thread, when it is not inside a library's code."""
        if self.save is not None or self.ended or self.raised:
            return
        self.heard = self.heard or number
        if not self.runs:
            self._leave()
        self.raised = True
        self._hush()
        raise self.stop()

    def _hush(self) -> None:
        """A destructor or a thread that meets the end would print a traceback."""
        sys.unraisablehook = threading.excepthook = lambda _: None

    def ignore(self) -> None:
        """Ignores further signals: Python ends now, which takes the handlers away first."""
        for number in self._old:
            signal.signal(number, signal.SIG_IGN)

    def _leave(self) -> None:
        self.say()
        os._exit(self.exit_code)

    def _listen(self) -> None:
        since = None
        while number := os.read(self._reader, 1):
            if number[0] not in SIGNALS:
                continue
            if self._own:
                self._own -= 1
                continue
            if since is None:
                since = time.monotonic()
                self._first(number[0])
            elif number[0] != _HANGUP and time.monotonic() - since > TOGETHER:
                os._exit(128 + number[0])
        os.close(self._reader)

    def _first(self, number: int) -> None:
        self.heard = number
        self._hush()
        for place in self._terminals:
            if not os.isatty(place):  # it was closed, and writing to it is an error
                os.dup2(os.open(os.devnull, os.O_WRONLY), place)
        if self.save is not None:
            self.save(signal.Signals(number).name)
        else:
            threading.Thread(target=self._insist, args=(number,), daemon=True).start()

    def _insist(self, number: int) -> None:
        """Raises again what a library lost, such as one that calls Python; then ends the process.

        Code that cleans up handles the `Stop` meanwhile, so nothing interrupts it.
        """
        end = time.monotonic() + (GRACE if self.runs else 0)
        while time.monotonic() < end:
            time.sleep(PAUSE)
            if self.raised and not self.ended and not _main_handles_stop():
                self.raised = False
                self._own += 1
                signal.pthread_kill(threading.main_thread().ident or 0, number)
        self._leave()


_listener: Listener | None = None


def _main_handles_stop() -> bool:
    """Whether the main thread is in an `except` or a `finally` that a `Stop` has reached."""
    found = sys._current_exceptions().get(threading.main_thread().ident or 0)
    error = found[1] if isinstance(found, tuple) else found  # a tuple up to Python 3.11
    while error is not None and not isinstance(error, Stop):
        error = error.__context__
    return error is not None


def listen() -> None:
    """Hears signals from now on, until the process ends, if a command of vim_tf is starting."""
    global _listener
    if command().startswith("vim_tf.") and _is_main():
        _listener = Listener(EXIT_GOES_ON if command() in GOES_ON else EXIT_STARTS_AGAIN)
        _listener.start()


def command() -> str:
    """Returns the module that `python -m` runs; "" if there is none."""
    words = sys.orig_argv
    places = [place for place, word in enumerate(words[:-1]) if word == "-m"]
    return words[places[0] + 1] if places else ""


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def starts_again() -> None:
    """Says that the work of this command begins anew after a stop, whatever the command is."""
    if _listener is not None:
        _listener.exit_code = EXIT_STARTS_AGAIN


@contextlib.contextmanager
def _listening() -> Iterator[Listener | None]:
    """Gives the process's listener, or one for the body alone; None in another thread."""
    global _listener
    if _listener is not None or not _is_main():
        yield _listener
        return
    _listener = Listener(EXIT_GOES_ON if command() in GOES_ON else EXIT_STARTS_AGAIN)
    _listener.start()
    try:
        yield _listener
    finally:
        if not _listener.raised:  # else the process ends now, and further signals are ignored
            _listener.close()
            _listener = None


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """During the body, the first signal raises `Stop` in the main thread, which must be here.

    Its line is written when the body has ended. Other errors that come of the stop become a `Stop`.

    Raises:
        Stop: a signal was heard.
    """
    with _listening() as listener:
        if listener is None:
            yield
            return
        listener.runs = True
        try:
            yield
        except BaseException as error:
            if listener.heard is None or listener.save is not None or not listener.raised:
                raise
            listener.ignore()
            listener.say()
            if isinstance(error, Stop):
                raise
            raise listener.stop() from error
        finally:
            listener.ended = True


@contextlib.contextmanager
def saving(save: Callable[[str], object]) -> Iterator[None]:
    """During the body, the first signal calls `save` with its name, in another thread.

    In another thread than the main one it does nothing: only that one can install handlers.
    """
    if not _is_main():
        yield
        return
    with _listening() as listener:
        assert listener is not None  # this is the main thread
        listener.save = save
        listener.take_over()
        try:
            yield
        finally:
            listener.save = None
