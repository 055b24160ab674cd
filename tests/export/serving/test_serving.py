"""The exported model by gRPC and REST, on a stand-in for TensorFlow Serving's binary."""

import base64
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytestmark = pytest.mark.large
REST, GRPC = "rest", "grpc"


@pytest.fixture(params=[REST, GRPC])
def connection(request, server, client):
    """The kit's own client, for both protocols."""
    if request.param == REST:
        return client.connect(server.rest, "vim", 60)
    return client.connect(f"grpc://{server.grpc}", "vim", 60)


def to_lists(inputs):
    return {name: value.tolist() for name, value in inputs.items()}


def post(server, content, path="/v1/models/vim:predict"):
    """Returns (status, JSON) of one REST call, without the kit's client."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    try:
        with urllib.request.urlopen(server.rest + path, data, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


# The same answers as Keras ----------------------------------------------------------------------


def test_the_kits_client_gets_keras_answers(connection, cases, assert_answers):
    assert set(connection.signatures()) == set(cases)
    assert connection.status() == [(1, "AVAILABLE")]
    for name, (inputs, expected) in cases.items():
        assert_answers(connection.predict(name, to_lists(inputs)), expected)


def test_rest_by_rows(server, cases, assert_answers):
    for name, (inputs, expected) in cases.items():
        count = len(next(iter(inputs.values())))
        rows = [{key: to_json(value[i]) for key, value in inputs.items()} for i in range(count)]
        code, answer = post(server, {"signature_name": name, "instances": rows})
        assert code == 200, answer
        columns = {key: [from_json(row[key]) for row in answer["predictions"]] for key in expected}
        assert_answers(columns, expected)


def test_rest_takes_the_only_input_without_its_name(server, cases, assert_answers):
    inputs, expected = cases["tokenize_bytes"]
    files = [to_json(data) for data in inputs["image_bytes"]]
    body = {"signature_name": "tokenize_bytes"}
    for columns in (body | {"inputs": files}, body | {"inputs": {"image_bytes": files}}):
        assert_answers(post(server, columns)[1]["outputs"], expected)
    rows = post(server, body | {"instances": files})[1]["predictions"]
    assert_answers({key: [row[key] for row in rows] for key in expected}, expected)


def test_no_signature_is_generate(server, cases, assert_answers):
    inputs, expected = cases["generate"]
    code, answer = post(server, {"inputs": to_lists(inputs)})
    assert code == 200
    answer["outputs"]["image_bytes"] = list(map(from_json, answer["outputs"]["image_bytes"]))
    assert_answers(answer["outputs"], expected)


def to_json(value):
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    return value.tolist()


def from_json(value):
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value


# Server-side batching ---------------------------------------------------------------------------


def test_joined_requests_get_what_they_get_alone(connection, server, cases, assert_answers):
    """Many clients at once, each with its own settings. Some rows and requests are refused."""
    inputs, expected = cases["generate"]
    rng = np.random.default_rng(0)
    parts = [rng.permutation(6)[: rng.integers(1, 4)] for _ in range(40)]

    def ask(rows):
        return connection.predict("generate", to_lists({k: v[rows] for k, v in inputs.items()}))

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, parts))
    for rows, answer in zip(parts, answers, strict=True):
        assert_answers(answer, expected, rows)
    with urllib.request.urlopen(f"{server.rest}/stand_in/batches") as response:
        batches = json.load(response)["generate"]
    assert max(map(len, batches)) > 3, "the server joined nothing, so this test shows nothing"
    assert max(map(sum, batches)) <= 32


def test_a_refused_row_does_not_change_its_neighbours(connection, cases):
    """Good encoded images give the same answers in a batch with and without bad ones."""
    inputs, _ = cases["embed_bytes"]
    files = inputs["image_bytes"][:4].tolist()
    jpeg_start, png_start = b"\xff\xd8\xff", files[0][:40]
    mixed = [b"", files[0], jpeg_start, files[1], png_start, files[2], b"x" * 99, files[3]]
    alone = connection.predict("embed_bytes", {"image_bytes": files})
    joined = connection.predict("embed_bytes", {"image_bytes": mixed})
    np.testing.assert_allclose(joined["features"][1::2], alone["features"], rtol=1e-4, atol=1e-5)
    assert all(joined["error"][::2]) and not any(joined["error"][1::2])
    assert not np.any(joined["features"][::2])


# Refused requests -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"{", 400, "JSON Parse error"),
        (b"[" * 100_000, 400, "JSON Parse error"),
        ([], 400, "must be a JSON object"),
        ({"instances": [], "inputs": []}, 400, 'either "instances" or "inputs"'),
        ({"instances": []}, 400, "at least one row"),
        ({"signature_name": "paint", "instances": [1]}, 400, "there are decode, "),
        ({"signature_name": "decode", "instances": [{"tokens": [1]}]}, 400, r"be \[-1, 16\]"),
        ({"signature_name": "decode", "instances": [{"tokens": [0.5] * 16}]}, 400, "than int32"),
        ({"signature_name": "decode", "instances": [{"tokens": ["1"] * 16}]}, 400, "than int32"),
        ({"signature_name": "decode", "inputs": [[2**31] * 16]}, 400, "outside int32"),
        ({"signature_name": "decode", "inputs": [[1] * 16, [1]]}, 400, "ragged"),
        ({"signature_name": "decode", "inputs": [[1] * 16] * 33}, 400, "1 to 32"),
        ({"signature_name": "tokenize_bytes", "inputs": [{"b64": "?"}]}, 400, "no base64"),
        ({"signature_name": "tokenize_bytes", "inputs": [7]}, 400, "must hold strings"),
        ({"signature_name": "generate_default", "inputs": {"seed": [1]}}, 400, "missing: label"),
        (
            {"signature_name": "generate_default", "inputs": {"seed": [1], "label": [0, 0]}},
            400,
            "rows disagree",
        ),
        (b"x" * (33 << 20), 413, "at most"),
    ],
)
def test_rest_refuses(server, content, code, message):
    got, answer = post(server, content)
    assert got == code
    assert re.search(message, answer["error"]), answer


def test_rest_refuses_unknown_paths(server):
    assert post(server, {}, "/v1/models/vit:predict")[0] == 404
    assert post(server, {}, "/v1/models/vim/versions/7:predict")[0] == 404
    assert post(server, {}, "/v2")[0] == 400


def test_grpc_refuses(server):
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(server.grpc))

    def refusal(tensor, signature="decode", name="vim", key="tokens"):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = name
        request.model_spec.signature_name = signature
        request.inputs[key].CopyFrom(tensor)
        with pytest.raises(grpc.RpcError) as error:
            stub.Predict(request, timeout=60)
        return error.value.code().name, error.value.details()

    good = tf.make_tensor_proto(np.zeros((1, 16), "int32"))
    assert refusal(good, name="vit")[0] == "NOT_FOUND"
    for tensor, changes, message in (
        (good, {"signature": "paint"}, "not found"),
        (good, {"key": "token"}, "missing: tokens"),
        (tf.make_tensor_proto(np.zeros((1, 16), "int64")), {}, "must be int32"),
        (tf.make_tensor_proto(np.zeros((1, 15), "int32")), {}, "must be [-1, 16]"),
        (tf.make_tensor_proto(np.zeros(16, "int32")), {}, "must be [-1, 16]"),
        (tf.make_tensor_proto(np.zeros((33, 16), "int32")), {}, "1 to 32"),
    ):
        code, details = refusal(tensor, **changes)
        assert code == "INVALID_ARGUMENT" and message in details
    torn = tf.make_tensor_proto(np.arange(32, dtype="int32").reshape(2, 16))
    torn.tensor_content = torn.tensor_content[:-3]
    assert refusal(torn)[0] == "INVALID_ARGUMENT"
    huge = tf.make_tensor_proto(np.zeros((1, 16), "int32"))
    huge.tensor_shape.dim[0].size = 2**40  # a few bytes that ask for 64 TiB
    assert refusal(huge)[0] == "INVALID_ARGUMENT"


# The README and the client's commands -----------------------------------------------------------


def test_the_readmes_curl_lines(server, export_dir, cases, tmp_path):
    (tmp_path / "image.png").write_bytes(cases["tokenize_bytes"][0]["image_bytes"][0])
    blocks = read_blocks(export_dir)
    lines = [block for block in blocks if "curl -s" in block]
    assert len(lines) == 6
    answers = []
    for line in lines:
        line = line.replace("http://localhost:8501", server.rest)
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        answers.append(json.loads(done.stdout))
    assert answers[0]["model_version_status"][0]["state"] == "AVAILABLE"
    assert "generate" in answers[1]["metadata"]["signature_def"]["signature_def"]
    expected = cases["tokenize_bytes"][1]["tokens"][0].tolist()
    assert answers[3]["predictions"] == [{"tokens": expected, "error": ""}]
    for answer in (answers[2]["predictions"], answers[4]["predictions"]):
        assert answer[0]["error"] == "" and answer[0]["image_bytes"]["b64"]
    assert answers[5]["outputs"]["error"] == ["", ""]


def test_the_readmes_grpc_lines(server, export_dir):
    """grpcurl is not installed here: the messages are read with serving.protoset, as in grpcurl."""
    import grpc
    from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

    files = descriptor_pb2.FileDescriptorSet.FromString(
        (export_dir / "serving" / "serving.protoset").read_bytes()
    )
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    channel = grpc.insecure_channel(server.grpc)
    lines = [block for block in read_blocks(export_dir) if block.startswith("grpcurl")]
    assert len(lines) == 3
    for line in lines:
        before, body, after = line.split("'")
        assert "-protoset serving.protoset" in before
        service, method = after.split()[-1].split("/")
        method = pool.FindServiceByName(service).FindMethodByName(method)
        make = message_factory.GetMessageClass
        request = json_format.Parse(body, make(method.input_type)())
        call = channel.unary_unary(
            f"/{service}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=make(method.output_type).FromString,
        )
        answer = call(request, timeout=60)
        if method.name == "Predict":
            assert not any(answer.outputs["error"].string_val)
        else:
            assert answer.model_version_status[0].version == 1


def read_blocks(export_dir):
    text = (export_dir / "serving" / "README.md").read_text()
    return [block.split("```")[0].strip() for block in text.split("```sh\n")[1:]]


@pytest.mark.parametrize("protocol", [REST, GRPC])
def test_the_clients_commands(server, export_dir, served_run, cases, protocol, tmp_path):
    """Runs the file alone in another process, as users do."""
    address = server.rest if protocol == REST else f"grpc://{server.grpc}"
    files = cases["tokenize_bytes"][0]["image_bytes"]
    for i, data in enumerate(files):
        (tmp_path / f"{i}.png").write_bytes(data)

    def run(*arguments):
        script = export_dir / "serving" / "client.py"
        command = [sys.executable, script, *arguments, "--server", address]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    assert run("status") == (0, "version 1: AVAILABLE\n", "")
    names = [f"{i}.png" for i in range(len(files))]
    # The last file is no image: the others are answered, and the exit code shows the error.
    code, _, error = run("tokenize", *names, "--out", "tokens.json", "--batch-size", "2")
    assert (code, error) == (1, "4.png: image_bytes is neither JPEG nor PNG\n")
    rows = json.loads((tmp_path / "tokens.json").read_text())
    expected = cases["tokenize_bytes"][1]["tokens"][:-1].tolist()
    assert rows == [
        {"file": name, "tokens": tokens} for name, tokens in zip(names[:-1], expected, strict=True)
    ]
    assert run("decode", "tokens.json", "--out", "decoded")[0] == 0
    assert len(list((tmp_path / "decoded").glob("*.png"))) == 4
    settings = [
        "--label",
        "1",
        "--n",
        "3",
        "--seed",
        "5",
        "--top-p",
        "0.9",
        "--guidance-scale",
        "2",
    ]
    assert run("generate", *settings, "--out", "new")[0] == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "seed5.png",
        "seed6.png",
        "seed7.png",
    ]
    code, _, error = run("generate", "--label", "2", "--out", "none")
    assert (code, error) == (1, "seed0: label is 2; it must be from 0 to 1\n")
    code, text, _ = run("embed", "0.png")
    assert code == 0 and len(json.loads(text)[0]["features"]) == 16
    code, _, error = run("generate", *settings, "--out", "new")
    assert code == 2 and error.startswith("error: new/seed5.png exists")
