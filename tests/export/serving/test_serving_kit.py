"""The files in out/serving, read as their users read them; the client on answers made up here."""

import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from vim_tf.errors import UserError
from vim_tf.export.serving import serving_kit, warmup
from vim_tf.export.serving.kit import client
from vim_tf.generation.labels import label_number

FILES = {
    *("README.md", "batching.config", "client.py", "compose.yaml", "models.config"),
    *("monitoring.config", "serving.protoset"),
}
TOKENIZER = {"image_size": [16, 24], "token_grid": [4, 6], "codes": 32, "max_pixels": 5000}
GENERATOR = TOKENIZER | {"classes": 7, "label_drop": 0.1}


@pytest.fixture
def out(tmp_path):
    """A folder of exports: an old version of a tokenizer, a new one of a generator."""
    for version, protocol in ((9, TOKENIZER), (10, GENERATOR)):
        assets = tmp_path / "vim" / str(version) / "assets"
        assets.mkdir(parents=True)
        (assets / "protocol.json").write_text(json.dumps(protocol))
    return tmp_path


def test_files_are_written_once(out):
    written = serving_kit.write_kit(out)
    assert {path.name for path in written} == FILES
    assert {path.name for path in (out / "serving").iterdir()} == FILES
    (out / "serving" / "models.config").write_text("mine")
    (out / "serving" / "README.md").unlink()
    assert serving_kit.write_kit(out) == [out / "serving" / "README.md"]
    assert (out / "serving" / "models.config").read_text() == "mine"
    assert "labels" in (out / "serving" / "README.md").read_text().lower()  # of version 10


def test_the_readme_is_for_the_model():
    generator, tokenizer = serving_kit.readme(GENERATOR), serving_kit.readme(TOKENIZER)
    unlabelled = serving_kit.readme(GENERATOR | {"classes": 0})
    for text in (generator, tokenizer, unlabelled):
        assert "16 x 24 pixels, which are 24 tokens from 0 to 31" in text
        assert "${" not in text and "5,000 pixels" in text
        for body in re.findall(r"-d '(.*?)' ", text):
            json.loads(body)
    assert "Labels are 0 to 6" in generator and '"label": 0' in generator
    assert "generate" in unlabelled and "label" not in unlabelled.lower().replace("unlabelled", "")
    assert "generate" not in tokenizer
    assert '"guidance_scale": 2.0' in generator
    always = serving_kit.readme(GENERATOR | {"label_drop": 0.0})
    assert '"guidance_scale": 1.0' in always and '"guidance_scale": 2.0' not in always


def make_message(fields):
    """A message class of {name: type}, because no package has the server's own description."""
    file = descriptor_pb2.FileDescriptorProto(name="settings.proto", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    messages = {"Message": fields, "Prometheus": {"enable": "bool", "path": "string"}}
    for name, contents in messages.items():
        message = file.message_type.add(name=name)
        for number, (key, kind) in enumerate(contents.items(), 1):
            field = message.field.add(name=key, number=number, label=1)
            if kind in ("bool", "string"):
                field.type = {"bool": 8, "string": 9}[kind]
            else:
                field.type, field.type_name = 11, kind
    from google.protobuf import wrappers_pb2

    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Message"))


def test_the_servers_settings_parse(out):
    from tensorflow_serving.config import model_server_config_pb2

    serving_kit.write_kit(out)
    folder = out / "serving"
    config = text_format.Parse(
        (folder / "models.config").read_text(), model_server_config_pb2.ModelServerConfig()
    )
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path) == ("vim", "/models/vim")
    assert model.model_platform == "tensorflow"
    number = ".google.protobuf.Int64Value"
    names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    batching = text_format.Parse(
        (folder / "batching.config").read_text(), make_message(dict.fromkeys(names, number))()
    )
    assert all(getattr(batching, name).value > 0 for name in names)
    assert batching.max_batch_size.value >= 16  # the client's calls need this size
    monitoring = text_format.Parse(
        (folder / "monitoring.config").read_text(),
        make_message({"prometheus_config": ".Prometheus"})(),
    )
    assert monitoring.prometheus_config.enable


def test_the_compose_file_names_what_is_there(out):
    serving_kit.write_kit(out)
    folder = out / "serving"
    (service,) = yaml.safe_load((folder / "compose.yaml").read_text())["services"].values()
    mounts = dict(volume.split(":")[:2] for volume in service["volumes"])
    assert (folder / "../vim").samefile(out / "vim")
    assert mounts == {"../vim": "/models/vim", ".": "/serving"}
    for argument in service["command"]:
        name, value = argument.split("=")
        if name.endswith("_file"):
            assert (folder / value.removeprefix("/serving/")).is_file()
    assert {port.split(":")[0] for port in service["ports"]} == {"127.0.0.1"}  # only this machine
    assert "--enable_batching=true" in service["command"]


@pytest.mark.parametrize(("state", "healthy"), [("AVAILABLE", True), ("LOADING", False)])
def test_the_health_check(out, make_server, state, healthy):
    serving_kit.write_kit(out)
    compose = yaml.safe_load((out / "serving" / "compose.yaml").read_text())
    kind, *command = compose["services"]["vim"]["healthcheck"]["test"]
    address = make_server(200, {"model_version_status": [{"version": "1", "state": state}]})
    command = [part.replace("8501", address.split(":")[-1]) for part in command]
    assert kind == "CMD" and command[0] == "bash"
    assert (subprocess.run(command, check=False).returncode == 0) == healthy


def test_without_the_api_there_is_one_line(out, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    for call in (lambda: serving_kit.write_kit(out), warmup.check_tools):
        with pytest.raises(UserError, match="pip install 'tensorflow-serving-api>=2.20,<2.21'"):
            call()
    assert not (out / "serving").exists()


# The client's labels ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [["cats", "dogs"], ["0", "1", "10"], ["1", "0"], ["a, b", "7"], []]
)
@pytest.mark.parametrize(
    "label", ["0", "1", "2", "10", "cats", "a, b", " cats", "", "x", "01", "٣"]
)
def test_the_client_has_the_rule_of_generate(names, label):
    """It cannot import it. Without names it does not know how many classes there are."""
    known = names or [f"class {i}" for i in range(11)]
    try:
        expected = label_number(label, known)
    except UserError:
        expected = None
    try:
        found = client.label_number(label, names)
    except client.ClientError as error:
        assert str(error).startswith(f"--label is {label}, which is no class; give a name of ")
        found = None
    if expected is None and found is not None:  # a number that is too large: the server refuses it
        assert found >= len(known)
    else:
        assert found == expected


def test_the_client_finds_the_names_of_the_newest_version(out, tmp_path, monkeypatch):
    for version, text in (("9", "old\n"), ("10", "cats\ndogs, small\n")):
        (out / "vim" / version / "assets" / "class_names.txt").write_text(text)
    serving_kit.write_kit(out)
    monkeypatch.setattr(client, "__file__", str(out / "serving" / "client.py"))
    assert client._class_names(None) == ["cats", "dogs, small"]
    assert client._class_names(str(out / "vim/9/assets/class_names.txt")) == ["old"]
    with pytest.raises(client.ClientError, match="nowhere.txt cannot be read"):
        client._class_names("nowhere.txt")
    monkeypatch.setattr(client, "__file__", str(tmp_path / "elsewhere" / "client.py"))
    (tmp_path / "vim").rename(tmp_path / "moved")
    assert client._class_names(None) == []


# The client's mistakes and the server's ---------------------------------------------------------


@pytest.fixture
def make_server():
    """A function (status, JSON or bytes) -> address of a server that always answers this."""
    servers = []

    def make(code, content):
        body = content if isinstance(content, bytes) else json.dumps(content, indent=1).encode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802
                self.send_response(code)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def metadata(*signatures):
    definitions = {name: {"inputs": {"seed": {}}} for name in signatures}
    return {"metadata": {"signature_def": {"signature_def": definitions}}}


@pytest.fixture
def run(client, capsys, tmp_path, monkeypatch):
    """A function (*arguments) -> (exit code, standard error) of a client in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = client.main(list(arguments))
        return code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "--server", "localhost:8501"], "must start with http://, https:// or grpc://"),
        (["status", "--server", "http://127.0.0.1:9"], "127.0.0.1:9/v1/models/vim cannot be reach"),
        (["status", "--server", "grpc://127.0.0.1:9"], "grpc://127.0.0.1:9 cannot be reached"),
        (["status", "--batch-size", "0"], "--batch-size is 0; it must be 1 or more"),
    ],
)
def test_client_without_a_server(run, arguments, message):
    code, error = run(*arguments)
    assert code == 2 and message in error and error.startswith("error: ")
    assert "Traceback" not in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((404, {"error": "no such model"}), "the server answers 404: no such model"),
        ((502, b"<html>"), "the server answers 502: <html>"),
        ((200, b"<html>"), "is no TensorFlow Serving"),
    ],
)
def test_client_of_another_server(run, make_server, answer, message):
    code, error = run("status", "--server", make_server(*answer))
    assert code == 2 and message in error


@pytest.mark.parametrize(
    ("signatures", "arguments", "message"),
    [
        (["decode"], ["generate", "--out", "x"], "the served model has no generate; it has decode"),
        (["generate"], ["generate", "--label", "1", "--out", "x"], "leave --label out"),
        (["generate"], ["generate", "--n", "0", "--out", "x"], "--n is 0"),
        (["tokenize_bytes"], ["tokenize", "none.png"], "none.png cannot be read"),
        (["tokenize_bytes"], ["embed", "none.png"], "has no embed_bytes"),
        (["decode_bytes"], ["decode", "none.json", "--out", "x"], "none.json cannot be read"),
    ],
)
def test_client_asked_for_what_is_not_there(run, make_server, signatures, arguments, message):
    code, error = run(*arguments, "--server", make_server(200, metadata(*signatures)))
    assert code == 2 and message in error


def test_client_refuses_what_is_no_list_of_tokens(run, tmp_path):
    (tmp_path / "x.json").write_text('{"tokens": 1}')
    code, error = run("decode", "x.json", "--out", "x")
    assert code == 2 and "x.json is no list of tokens" in error


def test_client_needs_the_standard_library_alone(client):
    code = "import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]; import client"
    folder = serving_kit._KIT
    subprocess.run([sys.executable, "-S", "-c", code], cwd=folder, check=True)
