"""Several workers on this machine."""

import json
import os
import socket

import pytest


@pytest.fixture(scope="session")
def two_workers():
    """A function () -> the environments of two processes that TF_CONFIG makes one cluster."""

    def environments():
        with socket.socket() as first, socket.socket() as second:
            for free in (first, second):
                free.bind(("localhost", 0))
            addresses = [f"localhost:{free.getsockname()[1]}" for free in (first, second)]
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
