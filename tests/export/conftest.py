"""A tiny exported model, Keras' answers for a batch of each signature, and a stand-in server."""

import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vim_tf.data.transforms import normalize, to_uint8
from vim_tf.export.serving import saved_model, serving_kit, warmup
from vim_tf.export.serving.signatures import Signatures
from vim_tf.runs.trained_run import open_run

HERE = Path(__file__).parent
# Rows with different settings. The last is refused.
GENERATE = {
    "label": np.array([0, 1, 1, 0, 1, 2], "int32"),
    "seed": np.array([1, -5, 2**32 - 1, 7, 1, 3], "int64"),
    "temperature": np.array([1.0, 0.7, 0.0, 2.0, 1.0, 1.0], "float32"),
    "top_k": np.array([0, 3, 0, 16, 0, 0], "int32"),
    "top_p": np.array([1.0, 1.0, 0.9, 0.5, 1.0, 1.0], "float32"),
    "guidance_scale": np.array([1.0, 2.0, 1.0, 0.0, 3.5, 1.0], "float32"),
}
BAD = "image_bytes is neither JPEG nor PNG"


@pytest.fixture(scope="session")
def served_run(tiny_runs):
    return open_run(tiny_runs["vim"])


@pytest.fixture(scope="session")
def export_dir(served_run, tmp_path_factory):
    """A folder as the export command makes it: vim/1 with warm-up records, and serving/."""
    folder = tmp_path_factory.mktemp("export")
    signatures = Signatures(served_run.tokenizer, served_run.vim)
    saved_model.write_saved_model(signatures, served_run, folder / "vim" / "1")
    warmup.write_warmup(folder / "vim" / "1", served_run)
    serving_kit.write_kit(folder)
    return folder


@pytest.fixture(scope="session")
def cases(served_run):
    """{signature: (inputs, Keras' outputs)} as arrays. Some rows are refused."""
    tokenizer, vim = served_run.tokenizer, served_run.vim
    pixels = served_run.images(4)
    files = np.array([*map(to_png, pixels), b"no image"], object)
    tokens = np.asarray(tokenizer.tokenize(normalize(pixels)))
    bad_tokens = np.concatenate([tokens, tokens[:1] + 16])
    images = to_uint8(tokenizer.decode_tokens(tokens))
    features = np.asarray(vim.features(tokens, 1))
    good = {name: value[:-1] for name, value in GENERATE.items()}
    label, seed = good["label"], good["seed"]
    settings = {name: good[name] for name in ("temperature", "top_k", "top_p")}

    def answer(errors, **outputs):
        """Inserts the placeholders of refused rows."""
        refused = {"tokens": -1, "images": 0, "features": 0, "image_bytes": b""}
        outputs["error"] = np.array([b"" for _ in next(iter(outputs.values()))], object)
        for error in errors:
            for name, value in outputs.items():
                row = np.full((1, *value.shape[1:]), refused.get(name, error), value.dtype)
                outputs[name] = np.concatenate([value, row])
        return outputs

    def sample(errors, labels, seed, **settings):
        tokens = np.asarray(vim.generate(labels, seed, **settings))
        pixels = to_uint8(tokenizer.decode_tokens(tokens))
        files = np.array([*map(to_png, pixels), None], object)[:-1]
        return answer(errors, tokens=tokens, image_bytes=files)

    wrong_label = [b"label is 2; it must be from 0 to 1"]
    wrong_tokens = [f"tokens is {bad_tokens[-1, 0]}; it must be from 0 to 15".encode()]
    generated = sample(wrong_label, label, seed, **settings, guidance_scale=good["guidance_scale"])
    unlabelled = {name: GENERATE[name][:-1] for name in ("seed", *settings)}
    defaults = {name: GENERATE[name] for name in ("label", "seed")}
    files_of_images = np.array([*map(to_png, images), None], object)[:-1]
    return {
        "tokenize": ({"images": pixels}, answer([], tokens=tokens)),
        "tokenize_bytes": ({"image_bytes": files}, answer([BAD.encode()], tokens=tokens)),
        "decode": ({"tokens": bad_tokens}, answer(wrong_tokens, images=images)),
        "decode_bytes": ({"tokens": bad_tokens}, answer(wrong_tokens, image_bytes=files_of_images)),
        "reconstruct": ({"images": pixels}, answer([], images=images)),
        "embed": ({"images": pixels}, answer([], features=features)),
        "embed_bytes": ({"image_bytes": files}, answer([BAD.encode()], features=features)),
        "generate": (GENERATE, generated),
        "serving_default": (GENERATE, generated),
        "generate_default": (defaults, sample(wrong_label, label, seed)),
        "generate_unlabelled": (unlabelled, sample([], None, seed, **settings)),
    }


@pytest.fixture(scope="session")
def assert_answers():
    """Compares {output: values} with Keras' outputs, for all rows or for some."""

    def check(actual, expected, rows=slice(None)):
        assert set(actual) == set(expected)
        for name, wanted in expected.items():
            got, wanted = actual[name], wanted[rows]
            if name == "error":
                assert [as_bytes(error) for error in got] == list(wanted)
            elif name == "features":
                np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)
            elif name == "tokens":
                np.testing.assert_array_equal(got, wanted)
            elif name == "images":
                assert_pixels(got, wanted)
            else:
                assert name == "image_bytes"
                assert [not data for data in got] == [not data for data in wanted]
                for data, image in zip(got, wanted, strict=True):
                    if image:
                        assert_pixels(from_png(data), from_png(image))

    return check


def assert_pixels(actual, expected):
    """At most one grey level of difference, from rounding."""
    actual = np.asarray(actual)
    assert actual.shape == expected.shape
    assert np.abs(actual.astype("int32") - expected).max() <= 1


def as_bytes(text):
    return text if isinstance(text, bytes) else text.encode()


def to_png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def from_png(data):
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture(scope="session")
def start_server():
    """A function (export folder) -> {"grpc", "rest", "pid"} of a stand-in server.

    All servers are stopped at the end.
    """
    processes = []

    def start(folder):
        command = [sys.executable, HERE / "serving" / "server.py", "--export", folder]
        process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        line = process.stdout.readline()  # empty if the server died
        assert line, "the stand-in server did not start"
        ports = json.loads(line)
        return SimpleNamespace(
            rest=f"http://127.0.0.1:{ports['rest']}",
            grpc=f"127.0.0.1:{ports['grpc']}",
            pid=ports["pid"],
        )

    yield start
    for process in processes:
        process.stdin.close()
        process.stdout.close()
        assert process.wait(30) == 0


@pytest.fixture(scope="session")
def server(start_server, export_dir):
    return start_server(export_dir)


@pytest.fixture(scope="session")
def client():
    """The kit's client.py, as a module."""
    from vim_tf.export.serving.kit import client

    return client


@pytest.fixture(scope="session")
def tensor_files():
    """The module loaders/tensor_files.py, which the loading programs also use."""
    path = HERE / "loaders" / "tensor_files.py"
    spec = importlib.util.spec_from_file_location("tensor_files", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
