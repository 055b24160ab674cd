"""A fixture for two workers on this machine."""

import contextlib
import json
import os
import random
import socket

import pytest


def _free_ports(count):
    """Free ports outside the range that the system gives to connections, such as a worker's."""
    found = set()
    while len(found) < count:
        port = random.SystemRandom().randint(15_000, 30_000)
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("localhost", port))
            found.add(port)
    return found


@pytest.fixture(scope="session")
def two_workers():
    """A function () -> the environments of two processes, with a TF_CONFIG for one cluster."""

    def environments():
        addresses = [f"localhost:{port}" for port in _free_ports(2)]
        return [
            {
                **os.environ,
                "TF_CONFIG": json.dumps(
                    {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
                ),
            }
            for index in range(2)
        ]

    return environments
