"""Google Compute Engine's notice that it will stop this machine, sent before the SIGTERM.

The metadata server gives it 30 seconds before for spot machines, and up to an hour before for
machines with GPUs: https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys
"""

import contextlib
import os
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path

NOTICES = {"preempted": "TRUE", "maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"}
HOST_VARIABLE = "GCE_METADATA_HOST"  # as in Google's libraries
SECONDS = 5  # between two polls, and the longest wait for an answer
PRODUCT = Path("/sys/class/dmi/id/product_name")


def metadata_host() -> str | None:
    """Returns the host of the metadata server; None on a machine that is not Google's."""
    try:
        made_by_google = "Google" in PRODUCT.read_text()
    except OSError:
        made_by_google = False
    return os.environ.get(HOST_VARIABLE) or ("metadata.google.internal" if made_by_google else None)


@contextlib.contextmanager
def watch(on_notice: Callable[[str], None]) -> Iterator[None]:
    """During the body, calls `on_notice` with a line, from a thread, when the cloud gives notice.

    A notice that is already pending is ignored: a person who starts a run knows of it, and a
    supervisor would start the run again and again.
    """
    host = metadata_host()
    if host is None:
        yield
        return
    left = threading.Event()
    thread = threading.Thread(target=_watch, args=(host, left, on_notice), daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()


def _watch(host: str, left: threading.Event, on_notice: Callable[[str], None]) -> None:
    before = _notices(host)
    while not left.wait(SECONDS):
        now = _notices(host)
        if now - before:
            on_notice(f"notice of Google Compute Engine ({', '.join(sorted(now - before))})")
            return
        before = now


def _notices(host: str) -> set[str]:
    """The keys with a notice; none if the server does not answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never by a proxy
    found = set()
    for key, notice in NOTICES.items():
        request = urllib.request.Request(
            f"http://{host}/computeMetadata/v1/instance/{key}",
            headers={"Metadata-Flavor": "Google"},
        )
        with (
            contextlib.suppress(OSError, HTTPException),
            opener.open(request, timeout=SECONDS) as answer,
        ):
            if answer.read().strip() == notice.encode():
                found.add(key)
    return found
