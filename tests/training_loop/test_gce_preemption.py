"""The notices of Google Compute Engine's metadata server, from a server of the test."""

import http.server
import threading
import urllib.error

import pytest

from vim_tf.training_loop import gce_preemption
from vim_tf.training_loop.stop_signal import StopSignal

PLACE = "/computeMetadata/v1/instance/"


class Metadata(http.server.ThreadingHTTPServer):
    """Answers with `values`, or with 404 if there is none, as on machines without GPUs."""

    def __init__(self):
        self.values, self.asked = {"preempted": "FALSE"}, threading.Semaphore(0)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                value = self.server.values.get(self.path.removeprefix(PLACE))
                allowed = self.headers["Metadata-Flavor"] == "Google"
                self.send_response(403 if not allowed else 404 if value is None else 200)
                self.end_headers()
                self.wfile.write((value or "").encode())
                self.server.asked.release()

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    def wait(self, looks):
        """Waits until the server got so many more requests."""
        for _ in range(looks * len(gce_preemption.NOTICES)):
            assert self.asked.acquire(timeout=20)


@pytest.fixture
def metadata(monkeypatch):
    monkeypatch.setattr(gce_preemption, "SECONDS", 0.05)
    with Metadata() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # must not be used
        yield server
        server.shutdown()


@pytest.mark.parametrize(("key", "value"), gce_preemption.NOTICES.items())
def test_a_notice_asks_for_a_stop(metadata, key, value):
    heard, said = threading.Event(), []
    with StopSignal(lambda line: (said.append(line), heard.set())) as stop:
        metadata.wait(2)
        assert not stop.requested.numpy()
        metadata.values[key] = value
        assert heard.wait(20)
        assert stop.requested.numpy()
    assert said == [f"notice of Google Compute Engine ({key}): saving after this step"]


def test_a_notice_that_was_there_before_is_none(metadata):
    metadata.values["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
    with gce_preemption.watch(pytest.fail):
        metadata.wait(3)
        metadata.values["maintenance-event"] = "NONE"
        metadata.wait(2)


def test_other_values_are_none(metadata):
    metadata.values["maintenance-event"] = "MIGRATE_ON_HOST_MAINTENANCE"
    with gce_preemption.watch(pytest.fail):
        metadata.wait(3)


def test_a_server_that_does_not_answer_is_no_error(metadata):
    metadata.shutdown()
    metadata.server_close()
    with pytest.raises(urllib.error.URLError):
        gce_preemption.urllib.request.urlopen(f"http://127.0.0.1:{metadata.server_port}")
    with gce_preemption.watch(pytest.fail):
        threading.Event().wait(0.3)


def test_only_machines_of_google_are_asked(monkeypatch, tmp_path):
    monkeypatch.delenv("GCE_METADATA_HOST", raising=False)
    monkeypatch.setattr(gce_preemption, "PRODUCT", tmp_path / "product_name")
    assert gce_preemption.metadata_host() is None
    for product, host in (
        ("Google Compute Engine\n", "metadata.google.internal"),
        ("other", None),
    ):
        (tmp_path / "product_name").write_text(product)
        assert gce_preemption.metadata_host() == host
    with gce_preemption.watch(pytest.fail):
        assert not any("_watch" in thread.name for thread in threading.enumerate())
