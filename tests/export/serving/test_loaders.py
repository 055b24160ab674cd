"""The SavedModel gives Keras' answers in programs with TensorFlow but without Keras."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from vim_tf.export.serving import warmup

HERE = Path(__file__).parents[1]
LOADERS = HERE / "loaders"
TENSORFLOW = Path(importlib.util.find_spec("tensorflow").origin).parent
REFERENCE = "VIM_TF_REFERENCE_PYTHON"

pytestmark = pytest.mark.large


@pytest.fixture(scope="module")
def model_dir(export_dir):
    return export_dir / "vim" / "1"


@pytest.fixture
def exchange(cases, tensor_files, tmp_path):
    """A folder of inputs for the loading programs."""
    folder = tmp_path / "exchange"
    for name, (inputs, _) in cases.items():
        (folder / name).mkdir(parents=True)
        for key, value in inputs.items():
            tensor_files.write(folder / name / f"{key}.in", value)
    return folder


@pytest.fixture
def assert_answered(cases, exchange, tensor_files, assert_answers):
    """Runs a command that fills the exchange folder, and compares the answers with Keras'."""

    def check(*command):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        for name, (_, expected) in cases.items():
            files = (exchange / name).glob("*.out")
            assert_answers({path.stem: tensor_files.read(path) for path in files}, expected)

    return check


@pytest.mark.parametrize("program", ["v2_loader.py", "v1_session.py"])
def test_tensorflow_without_keras(assert_answered, program, model_dir, exchange):
    assert_answered(sys.executable, LOADERS / program, model_dir, exchange)


def test_the_c_api_without_python_tensorflow(assert_answered, model_dir, exchange, tmp_path):
    tensors = {
        name: {
            side: {key: spec.name for key, spec in getattr(signature, side).items()}
            for side in ("inputs", "outputs")
        }
        for name, signature in warmup.read_signatures(model_dir).items()
    }
    (tmp_path / "tensors.json").write_text(json.dumps(tensors))
    library = TENSORFLOW / "libtensorflow_cc.so.2"
    program = LOADERS / "c_api.py"
    assert_answered(
        sys.executable, program, model_dir, exchange, library, tmp_path / "tensors.json"
    )


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_cpp(assert_answered, model_dir, exchange, tmp_path):
    program = tmp_path / "load"
    subprocess.run(
        [
            *("g++", "-std=c++17", "-w", "-I", TENSORFLOW / "include", HERE / "cpp" / "load.cc"),
            *("-o", program, "-L", TENSORFLOW, f"-Wl,-rpath,{TENSORFLOW}"),
            *("-Wl,--no-as-needed", "-l:libtensorflow_cc.so.2"),
            "-l:libtensorflow_framework.so.2",
        ],
        check=True,
    )
    assert_answered(program, model_dir, exchange)


@pytest.mark.skipif(REFERENCE not in os.environ, reason=f"{REFERENCE} is not set")
@pytest.mark.parametrize("program", ["v2_loader.py", "v1_session.py"])
def test_tensorflow_2_15(assert_answered, program, model_dir, exchange):
    python = os.environ[REFERENCE]
    code = "import tensorflow; print(tensorflow.__version__)"
    version = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert version.stdout.strip() == "2.15.1"
    assert_answered(python, LOADERS / program, model_dir, exchange)


def test_saved_model_cli_shows_it(model_dir):
    cli = Path(sys.executable).parent / "saved_model_cli"
    shown = subprocess.run(
        [cli, "show", "--all", "--dir", model_dir], capture_output=True, text=True, check=True
    ).stdout
    for name, signature in warmup.read_signatures(model_dir).items():
        assert f"signature_def['{name}']" in shown
        for key in (*signature.inputs, *signature.outputs):
            assert f"['{key}'] tensor_info" in shown


# The graph --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graph(model_dir):
    from tensorflow.core.protobuf import saved_model_pb2

    data = (model_dir / "saved_model.pb").read_bytes()
    return saved_model_pb2.SavedModel.FromString(data).meta_graphs[0].graph_def


def test_only_tensorflows_own_operations(graph):
    functions = {function.signature.name for function in graph.library.function}
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    operations = {node.op for node in nodes} - functions
    assert {"DecodePng", "MatMul"} <= operations  # also inside functions
    assert not [name for name in operations if re.search("Xla|Assert|PyFunc|Random", name)]
    assert not [name for name in operations if not hasattr(tf.raw_ops, name)]


def test_nothing_is_compiled_for_a_shape(graph):
    for function in graph.library.function:
        assert not function.attr["_XlaMustCompile"].b, function.signature.name


def test_every_first_dimension_is_the_batch(model_dir, cases):
    signatures = warmup.read_signatures(model_dir)
    assert set(signatures) == set(cases)
    for signature in signatures.values():
        for spec in (*signature.inputs.values(), *signature.outputs.values()):
            assert spec.tensor_shape.dim[0].size == -1
        assert "error" in signature.outputs


def test_a_new_batch_size_traces_nothing(model_dir, cases):
    from tensorflow.python.eager import context

    signatures = tf.saved_model.load(str(model_dir)).signatures
    for name, (inputs, _) in cases.items():

        def ask(rows, answer=signatures[name], inputs=inputs):
            return answer(
                **{k: tf.constant(np.resize(v, (rows, *v.shape[1:]))) for k, v in inputs.items()}
            )

        ask(2)
        functions = set(context.context().list_function_names())
        for rows in (1, 3, 7):
            assert len(ask(rows)["error"]) == rows
        assert set(context.context().list_function_names()) == functions, name
