"""Signals end a command with one line, one code and no traceback, wherever its threads are."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from vim_tf import stopping

NAMES = ["SIGTERM", "SIGINT", "SIGHUP"]
# command_line.run without TensorFlow. {body} is the command's work.
PROGRAM = """
import contextlib, os, signal, sys, threading, time
from vim_tf import command_line, stopping
stopping.GRACE = 0.5

def main():
{body}

command_line.run(main)
"""


def start(body, preexec_fn=None, **more):
    code = PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), "    "))
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=preexec_fn,
        **more,
    )


def ended(process):
    """(exit code, standard error, seconds until the end)."""
    begin = time.monotonic()
    _, said = process.communicate(timeout=20)
    return process.returncode, said, time.monotonic() - begin


def line(name, then="starts again"):
    return f"{name}: stopped before the end; the same command {then}\n"


READY = """
    print("ready", flush=True)
"""
CLEANS_UP = """
    try:
        print("ready", flush=True)
        time.sleep(30)
    finally:
        print("cleaned up", flush=True)
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_cleans_up_and_leaves_with_one_line(name):
    process = start(CLEANS_UP)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, name))
    assert process.stdout.readline() == "cleaned up\n"
    code, said, seconds = ended(process)
    assert (code, said) == (130, line(name))
    assert seconds < 5


# Each of these keeps the main thread from raising, or loses what it raises.
SWALLOWS = {
    "code without the lock": READY + "    __import__('ctypes').CDLL(None).sleep(30)\n",
    "a bare except": """
    try:
        print("ready", flush=True)
        time.sleep(30)
    except BaseException:
        time.sleep(30)
""",
    "a destructor": """
    stopping.GRACE = 30
    class Slow:
        def __del__(self):
            time.sleep(1)
    print("ready", flush=True)
    Slow()
    time.sleep(30)
""",
    "a function that forgets it": """
    stopping.GRACE = 30
    def careless():
        try:
            print("ready", flush=True)
            time.sleep(30)
        except BaseException:
            pass
    careless()
    careless()
    time.sleep(30)
""",
    "a thread that never ends": READY
    + """
    threading.Thread(target=time.sleep, args=(30,)).start()
    time.sleep(30)
""",
    "another error of the cleaning": """
    try:
        print("ready", flush=True)
        time.sleep(30)
    finally:
        raise RuntimeError("cannot clean up")
""",
}


@pytest.mark.parametrize("case", SWALLOWS)
def test_nothing_swallows_a_signal(case):
    process = start(SWALLOWS[case])
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    code, said, seconds = ended(process)
    assert (code, said) == (130, line("SIGTERM"))
    assert seconds < 5


def test_a_second_signal_ends_it_at_once():
    process = start("stopping.GRACE = 30\n" + textwrap.dedent(SWALLOWS["a bare except"]))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(2 * stopping.TOGETHER)
    process.send_signal(signal.SIGHUP)  # a closed terminal is no person who insists
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    code, said, seconds = ended(process)
    assert (code, said) == (128 + signal.SIGINT, "")
    assert seconds < 5


def test_one_stop_that_sends_several_signals_is_one():
    """Ctrl-C in a terminal, passed on by a supervisor too."""
    process = start(CLEANS_UP)
    assert process.stdout.readline() == "ready\n"
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    assert process.stdout.readline() == "cleaned up\n"
    assert ended(process)[:2] == (130, line("SIGINT"))


def test_the_children_of_a_terminal_add_no_line():
    """Ctrl-C reaches the whole group: the command and the program that it waits for."""
    child = "import time; print('child', flush=True); time.sleep(30)"
    body = f"""
    import subprocess
    subprocess.run([sys.executable, "-c", {child!r}], stderr=subprocess.PIPE)
    """
    process = start(body, start_new_session=True)
    assert process.stdout.readline() == "child\n"
    os.killpg(process.pid, signal.SIGINT)
    assert ended(process)[:2] == (130, line("SIGINT"))


def test_what_nohup_ignores_stays_ignored():
    process = start(CLEANS_UP, lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert ended(process)[:2] == (130, line("SIGTERM"))


def test_a_function_can_save_instead():
    body = """
    done = threading.Event()
    with stopping.saving(lambda name: (print(name, flush=True), done.set())):
        print("ready", flush=True)
        __import__("ctypes").CDLL(None).sleep(1)
        done.wait(20)
    sys.exit(7)
"""
    process = start(body)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    assert process.stdout.readline() == "SIGHUP\n"
    assert ended(process)[:2] == (7, "")


def test_handlers_are_those_of_before():
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    hooks = sys.unraisablehook, threading.excepthook
    with stopping.raising():
        assert signal.getsignal(signal.SIGTERM) not in before
    heard = []
    with stopping.saving(heard.append):
        os.kill(os.getpid(), signal.SIGTERM)
        end = time.monotonic() + 5
        while not heard and time.monotonic() < end:
            time.sleep(0.01)
    assert heard == ["SIGTERM"]
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before
    assert (sys.unraisablehook, threading.excepthook) == hooks


# Whole commands, from their first moment on -----------------------------------------------------

MODULES = ["train", "tokenize_dataset", "generate", "evaluate", "probe", "views", "export"]
# A file that Python runs when it starts. It stops the process when a module is first looked for.
AT_AN_IMPORT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.{signal})
sys.meta_path.insert(0, Finder())
"""


def stop_at(tmp_path, imported, command, name="SIGTERM"):
    text = AT_AN_IMPORT.format(module=imported, signal=name)
    (tmp_path / "sitecustomize.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("module", [*MODULES, "data.build_styles", "data.build_emoji"])
def test_a_command_that_begins_to_import(tmp_path, module):
    goes_on = module in ("train", "tokenize_dataset", "probe", "export")
    code, printed, said = stop_at(tmp_path, "argparse", [f"vim_tf.{module}", "--help"])
    then = "goes on from what is finished" if goes_on else "starts again"
    assert (code, printed, said) == (75 if goes_on else 130, "", line("SIGTERM", then))


@pytest.mark.large
@pytest.mark.parametrize("name", NAMES)
def test_a_command_that_imports_tensorflow(tmp_path, tiny_runs, name):
    given = ["vim_tf.generate", "--run", tiny_runs["vim"], "--out", tmp_path / "x.png"]
    for imported in ("tensorflow", "keras.src.layers"):
        code, printed, said = stop_at(tmp_path, imported, [*map(str, given)], name)
        assert (code, printed, said) == (130, "", line(name))
    assert not (tmp_path / "x.png").exists()
