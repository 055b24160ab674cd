"""An export of the tiny run, and a headless Chromium that opens its page."""

import functools
import json
import os
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vim_tf.export.browser import tfjs
from vim_tf.runs.trained_run import open_run

DRIVE = Path(__file__).with_name("drive.mjs")


@pytest.fixture(scope="package")
def node_modules():
    """Skips if these tests are not wanted; fails if one of their tools is missing."""
    named = os.environ.get("VIM_TF_NODE_MODULES")
    if not named:
        pytest.skip("VIM_TF_NODE_MODULES names no folder")
    tfjs.check_tools(named)
    return Path(named).resolve()


@pytest.fixture(scope="package")
def run(tiny_runs):
    return open_run(tiny_runs["vim"])


@pytest.fixture(scope="package")
def exported(run, node_modules, tmp_path_factory):
    """(folder, measurements) of the tiny run's export."""
    folder = tmp_path_factory.mktemp("tfjs")
    return folder, tfjs.export_tfjs(run, folder, node_modules)


@pytest.fixture(scope="package")
def about(exported):
    return json.loads((exported[0] / tfjs.EXAMPLES_FILE).read_text())


@pytest.fixture
def serve():
    """A function (handler class) -> address of a server on loopback, until the test ends."""
    servers = []

    def start(handler):
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def browse(node_modules, exported, serve, tmp_path):
    """A function (steps) -> answers, see drive.mjs. Addresses in "goto" are those of the page."""

    def go(steps, folder=exported[0], expect_problems=0, **plan):
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        assert chromium, "no chromium is on PATH: apt-get install chromium"
        assert (node_modules / "playwright-core").is_dir(), "npm install playwright-core"
        url = serve(functools.partial(QuietFiles, directory=str(folder)))
        steps = [[what, f"{url}/{rest[0]}"] if what == "goto" else [what, *rest]
                 for what, *rest in steps]  # fmt: skip
        plan_file, answers_file = tmp_path / "plan.json", tmp_path / "answers.json"
        plan_file.write_text(json.dumps({"steps": steps, **plan}))
        command = ["node", DRIVE, node_modules, chromium, plan_file, answers_file]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        answers = json.loads(answers_file.read_text())
        assert len(answers["problems"]) == expect_problems, answers["problems"]
        answers["elsewhere"] = [
            address for address in answers["requests"] if not address.startswith((url, "data:"))
        ]
        return answers

    return go


class QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass
