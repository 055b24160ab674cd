"""A signal stops a graph that the main thread runs."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import tensorflow as tf

from vim_tf import stopping
from vim_tf.training_loop.stop_signal import StopSignal


def endless(stop):
    """A graph that ends when the variable is set, or after some seconds."""

    @tf.function(autograph=False)
    def loop():
        start = tf.timestamp()
        return tf.while_loop(
            lambda steps: ~stop.read_value() & (tf.timestamp() - start < 20),
            lambda steps: steps + 1,
            [0],
        )

    return loop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_graph(number):
    said = []
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with StopSignal(said.append) as stop:
        loop = endless(stop.requested)
        timer = threading.Timer(0.3, os.kill, (os.getpid(), number))
        timer.start()
        loop()
        timer.join()
        assert stop.requested.numpy()
    assert len(said) == 1
    assert said[0].startswith(signal.Signals(number).name)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before


def test_other_signals_are_none_of_its_business():
    old = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with StopSignal(pytest.fail) as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert not stop.requested.numpy()
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_in_another_thread_it_listens_to_nothing():
    found = []

    def enter():
        with StopSignal(pytest.fail) as stop:
            found.append(bool(stop.requested.numpy()))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [False]


STUBBORN = """
import os, signal, sys, time
from vim_tf.training_loop.stop_signal import StopSignal
with StopSignal(lambda line: print(line, flush=True)):
    print("ready", flush=True)
    time.sleep(60)
    time.sleep(60)
"""


@pytest.mark.large
def test_the_second_signal_ends_the_process_at_once():
    given = [sys.executable, "-c", STUBBORN]
    with subprocess.Popen(given, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline().startswith("SIGTERM: saving after this step")
        time.sleep(2 * stopping.TOGETHER)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
