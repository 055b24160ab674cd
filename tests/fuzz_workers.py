"""Processes that try cases one after the other, and the watch over their time and memory.

A worker with TensorFlow takes seconds to start, so it is used again. It is replaced when it dies,
takes too long, or keeps much memory. The other sort never imports TensorFlow: an import is an error
there, or the end of the work of a command line.
"""

import atexit
import contextlib
import importlib.machinery
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil

SECONDS = 60  # allowed for a case
MEMORY = 4 * 2**30  # allowed bytes of a process
GROWTH = 2**30  # bytes that a process may keep before it is replaced
START = 300  # seconds allowed for a start: imports, and the answers of the unchanged files
FAILED = "failed"


class Outcome(NamedTuple):
    """What a case did.

    Attributes:
        outcome: "refused", "opened", "the same" or `FAILED`.
        what: the failure in short, equal for cases with one cause.
        detail: the rest: a traceback, or the end of what the process wrote.
    """

    outcome: str
    what: str = ""
    detail: str = ""


class Workers:
    """One worker with TensorFlow and one without, started when they are first needed.

    Args:
        world: the folder of unchanged files.
        plant: name of a fault of `fuzz_plants` to plant in the workers; "" plants none.
    """

    def __init__(self, world: Path, plant: str = "") -> None:
        self._world, self._plant = world, plant
        self._workers: dict[bool, _Worker] = {}
        self.replaced = 0

    def start(self, tensorflow: bool) -> None:
        """Starts a worker, and waits until it is ready."""
        if tensorflow not in self._workers:
            self._workers[tensorflow] = _Worker(self._world, tensorflow, self._plant)

    def try_case(self, kind: Any, case: Any) -> Outcome:
        """Tries a case of a `Kind`."""
        self.start(kind.tensorflow)
        worker = self._workers[kind.tensorflow]
        found = worker.ask(kind.name, case)
        if not worker.usable:
            self.replaced += 1
            del self._workers[kind.tensorflow]
            worker.close()
        return found

    def close(self) -> None:
        """Ends all workers."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()


class _Worker:
    """A process that tries cases; see `_serve`."""

    def __init__(self, world: Path, tensorflow: bool, plant: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="vim_tf_fuzz_"))
        atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
        work = self._folder / "empty" / "empty"  # two deep, for paths such as ../x
        work.mkdir(parents=True)
        self._errors = self._folder / "errors.txt"
        words = [str(world), str(self._folder), str(int(tensorflow)), plant]
        with open(self._errors, "wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=work,
                # No progress bars, no accelerator.
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
            )
        self._watched = psutil.Process(self._process.pid)
        self.usable, self._buffer = True, b""
        ready = self._wait(START, 4 * MEMORY)
        if isinstance(ready, Outcome):
            raise RuntimeError(f"a worker of the fuzz does not start: {ready.what}\n{ready.detail}")
        self._most = ready["memory"] + GROWTH

    def ask(self, kind: str, case: Any) -> Outcome:
        """Tries one case."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_wait` finds that it has died
            self._process.stdin.write(json.dumps([kind, case]).encode() + b"\n")
            self._process.stdin.flush()
        reply = self._wait(SECONDS, MEMORY)
        if isinstance(reply, Outcome):
            self.usable = False
            return reply
        self.usable = reply["memory"] < self._most
        if reply["peak"] > MEMORY:
            return Outcome(FAILED, f"{reply['peak'] / 2**30:.1f} GB of memory")
        return Outcome(reply["outcome"], reply["what"], reply["detail"])

    def close(self) -> None:
        """Ends the process and removes its folder."""
        self._process.kill()
        self._process.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait(self, seconds: float, memory: int) -> dict[str, Any] | Outcome:
        """Waits for a reply; an `Outcome` if there is none."""
        assert self._process.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._process.stdout], [], [], 0.1)
            part = os.read(self._process.stdout.fileno(), 2**16) if ready else None
            if part == b"":
                code = self._process.wait()
                return Outcome(FAILED, f"the process died: {code}", self._tail())
            self._buffer += part or b""
            if part is None and self._memory() > memory:
                return Outcome(FAILED, f"more than {memory / 2**30:.0f} GB of memory")
            if time.monotonic() > end:
                return Outcome(FAILED, f"no answer within {seconds} seconds", self._tail())
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def _memory(self) -> int:
        try:
            return self._watched.memory_info().rss
        except psutil.NoSuchProcess:
            return 0

    def _tail(self) -> str:
        return self._errors.read_bytes()[-3000:].decode(errors="replace")


# Inside the process ---------------------------------------------------------------------------


class _NoTensorFlow:
    """Ends an import of TensorFlow or Keras by an exception."""

    def __init__(self, exception):
        self._exception = exception

    def find_spec(self, name, path=None, target=None):
        """Finds these two, which libraries ask for without importing them."""
        if name in ("tensorflow", "keras"):
            return importlib.machinery.ModuleSpec(name, self)
        return None

    def create_module(self, spec):
        """Ends the import."""
        raise self._exception(spec.name)

    def exec_module(self, module):
        """Part of the protocol of loaders; never reached."""


def _serve(world, folder, tensorflow, plant):
    """Reads cases from standard input, tries them, and writes a line for each."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print
    if plant:
        import fuzz_plants

        fuzz_plants.install(plant)
    if not tensorflow:
        from fuzz_command_lines import ReachedTensorFlow

        sys.meta_path.insert(0, _NoTensorFlow(ReachedTensorFlow))
    from fuzz_kinds import EQUAL, Live, Wrong, try_case
    from fuzz_targets import KINDS

    live = Live(Path(world), Path(folder))
    kinds = {kind.name: kind for kind in KINDS if kind.tensorflow == tensorflow}
    expected = {}
    for kind in kinds.values():
        if kind.answer == EQUAL and kind.open not in expected:
            for path in kind.writes:
                live.touch(path)
            expected[kind.open] = kind.open(live.folder, None)
            live.restore()

    def reply(outcome, what="", detail=""):
        peak, memory = _measure_memory()
        about = {"outcome": outcome, "what": what, "detail": detail[-6000:]}
        print(json.dumps({**about, "peak": peak, "memory": memory}), file=replies, flush=True)

    reply("ready")
    for number, line in enumerate(sys.stdin, 1):
        name, case = json.loads(line)
        signal.alarm(SECONDS + 60)  # ends this process if the one that watches it has gone
        try:
            outcome = [try_case(kinds[name], case, live, expected.get(kinds[name].open))]
        except Wrong as wrong:
            outcome = [FAILED, wrong.what, wrong.detail]
        new = _clean(Path.cwd().parent, case)
        if new:
            outcome = [FAILED, f"a new file: {new[0][:100]!r}"]
        if tensorflow and number % 50 == 0:
            sys.modules["keras"].backend.clear_session()
        reply(*outcome)


def _clean(folder, case):
    """Removes what a case has made in the folders that must stay empty.

    Returns:
        The names of new files, apart from those that a command line was given.
    """
    from fuzz_kinds import remove

    new, given = (
        [],
        {str(word).replace("{world}", "/").split("/")[0] for word in case}
        if isinstance(case, list)
        else set(),
    )
    for inner in (folder, folder / "empty"):
        for path in inner.iterdir():
            if (inner, path.name) != (folder, "empty"):
                remove(path)
                if path.name not in given:
                    new.append(path.name)
    return new


def _measure_memory():
    """Returns (most bytes since the last call, bytes now) of this process."""
    memory = psutil.Process().memory_info().rss
    try:
        text = Path("/proc/self/status").read_text()
        peak = 1024 * int(text.partition("VmHWM:")[2].split()[0])
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, ValueError, IndexError):  # not Linux
        peak = memory
    return peak, memory


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    _serve(sys.argv[1], sys.argv[2], sys.argv[3] == "1", sys.argv[4])
