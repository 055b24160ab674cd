"""Asks a served model for tokens, images and features. Needs only Python; see README.md.

    python client.py status
    python client.py tokenize a.jpg b.png --out tokens.json
    python client.py decode tokens.json --out images
    python client.py generate --label cats --n 4 --seed 10 --top-p 0.95 --out images
    python client.py embed a.jpg b.png --out features.json

`--server http://host:8501` speaks REST and needs nothing but Python's standard library;
`--server grpc://host:8500` needs `pip install tensorflow-serving-api`. Rows that the model refuses
are named on standard error, the others are answered, and the exit code is then 1.
"""

import argparse
import base64
import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

EXIT_ROW_REFUSED = 1
EXIT_MISTAKE = 2


class ClientError(Exception):
    """Something went wrong that one line can explain."""


# The two protocols ------------------------------------------------------------------------------


class RestServer:
    """A model that is served over REST at "http://host:8501"; timeout: seconds for one call."""

    def __init__(self, address: str, model: str, timeout: float) -> None:
        self._url = f"{address.rstrip('/')}/v1/models/{model}"
        self._timeout = timeout

    def status(self) -> list[tuple[int, str]]:
        """Returns [(version, state)] of the loaded versions."""
        versions = self._call("")["model_version_status"]
        return [(int(version["version"]), version["state"]) for version in versions]

    def signatures(self) -> dict[str, list[str]]:
        """Returns {signature: [names of its inputs]}."""
        definition = self._call("/metadata")["metadata"]["signature_def"]["signature_def"]
        return {name: list(signature["inputs"]) for name, signature in definition.items()}

    def predict(self, signature: str, inputs: dict[str, list]) -> dict[str, list]:
        """Asks one batch; {input: [value of each row]} -> {output: [value of each row]}."""
        content = {"signature_name": signature, "inputs": _to_json(inputs)}
        return _from_json(self._call(":predict", content)["outputs"])

    def _call(self, path, content=None):
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(
            self._url + path, data, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            reason = _error_text(error.read())
            raise ClientError(f"the server answers {error.code}: {reason}") from None
        except urllib.error.URLError as error:
            raise ClientError(f"{self._url} cannot be reached: {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:  # also a timeout
            reason = str(error) or type(error).__name__
            raise ClientError(f"the connection to {self._url} broke: {reason}") from None
        except ValueError:
            raise ClientError(f"{self._url} is no TensorFlow Serving: no JSON came back") from None


def _to_json(value):
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    return [_to_json(item) for item in value] if isinstance(value, list) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"b64"}:
            return base64.b64decode(value["b64"])
        return {key: _from_json(item) for key, item in value.items()}
    return [_from_json(item) for item in value] if isinstance(value, list) else value


def _error_text(body):
    try:
        return json.loads(body)["error"]
    except (ValueError, TypeError, KeyError):
        return body[:200].decode(errors="replace") or "without a message"


class GrpcServer:
    """A model that is served over gRPC at "host:8500"; the same calls as `RestServer`."""

    def __init__(self, address: str, model: str, timeout: float) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no lines of TensorFlow's own
        try:
            import grpc
            import tensorflow as tf
            from tensorflow_serving.apis import get_model_metadata_pb2 as metadata
            from tensorflow_serving.apis import get_model_status_pb2 as status
            from tensorflow_serving.apis import (
                model_service_pb2_grpc,
                predict_pb2,
                prediction_service_pb2_grpc,
            )
        except ImportError as error:
            raise ClientError(
                f"grpc:// needs a package that is not installed ({error}); "
                "pip install tensorflow-serving-api, or use http://"
            ) from None
        self._grpc, self._tf = grpc, tf
        self._metadata, self._status, self._predict = metadata, status, predict_pb2
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        channel = grpc.insecure_channel(address, unlimited)
        self._address, self._model, self._timeout = address, model, timeout
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(channel)
        self._dtypes = {}  # of the inputs, by signature

    def status(self) -> list[tuple[int, str]]:
        """Returns [(version, state)] of the loaded versions."""
        request = self._status.GetModelStatusRequest()
        request.model_spec.name = self._model
        versions = self._call(self._models.GetModelStatus, request).model_version_status
        names = self._status.ModelVersionStatus.State
        return [(version.version, names.Name(version.state)) for version in versions]

    def signatures(self) -> dict[str, list[str]]:
        """Returns {signature: [names of its inputs]}."""
        request = self._metadata.GetModelMetadataRequest()
        request.model_spec.name = self._model
        request.metadata_field.append("signature_def")
        answer = self._call(self._predictions.GetModelMetadata, request)
        definition = self._metadata.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(definition)
        self._dtypes = {
            name: {key: spec.dtype for key, spec in signature.inputs.items()}
            for name, signature in definition.signature_def.items()
        }
        return {name: list(inputs) for name, inputs in self._dtypes.items()}

    def predict(self, signature: str, inputs: dict[str, list]) -> dict[str, list]:
        """Asks one batch; {input: [value of each row]} -> {output: [value of each row]}."""
        if not self._dtypes:
            self.signatures()
        request = self._predict.PredictRequest()
        request.model_spec.name = self._model
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            try:
                proto = self._tf.make_tensor_proto(value, self._dtypes[signature][name])
            except (TypeError, ValueError) as error:
                raise ClientError(f"{name} does not fit: {error}") from None
            request.inputs[name].CopyFrom(proto)
        outputs = self._call(self._predictions.Predict, request).outputs
        answer = {name: self._tf.make_ndarray(proto).tolist() for name, proto in outputs.items()}
        return answer | {"error": [error.decode() for error in answer["error"]]}

    def _call(self, method, request):
        try:
            return method(request, timeout=self._timeout)
        except self._grpc.RpcError as error:
            reason = f"the server answers {error.code().name}"
            if error.code() == self._grpc.StatusCode.UNAVAILABLE:
                reason = f"grpc://{self._address} cannot be reached"
            raise ClientError(f"{reason}: {error.details()}") from None


def connect(address: str, model: str, timeout: float) -> RestServer | GrpcServer:
    """Returns a server for "http://...", "https://..." or "grpc://..."."""
    if address.startswith(("http://", "https://")):
        return RestServer(address, model, timeout)
    if address.startswith("grpc://"):
        return GrpcServer(address.removeprefix("grpc://").rstrip("/"), model, timeout)
    raise ClientError(f"--server is {address}; it must start with http://, https:// or grpc://")


class Session:
    """One command's calls to a server, `batch_size` rows at once, and the rows that it refused."""

    def __init__(self, server: RestServer | GrpcServer, batch_size: int) -> None:
        self.server = server
        self.batch_size = batch_size
        self.refused = 0

    def ask(
        self, signature: str, names: Sequence[str], inputs: dict[str, list]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields (name, {output: value}) of the rows that were answered; names the others.

        `names` are of the rows, for people; inputs are {input: [value of each row]}.
        """
        for start in range(0, len(names), self.batch_size):
            rows = slice(start, start + self.batch_size)
            part = {key: value[rows] for key, value in inputs.items()}
            outputs = self.server.predict(signature, part)
            for i, name in enumerate(names[rows]):
                if outputs["error"][i]:
                    self.refused += 1
                    sys.stderr.write(f"{name}: {outputs['error'][i]}\n")
                else:
                    yield name, {key: value[i] for key, value in outputs.items()}


def show_status(session: Session, _: argparse.Namespace) -> None:
    """Prints each version's state."""
    for version, state in session.server.status():
        print(f"version {version}: {state}")


def ask_of_files(
    session: Session, arguments: argparse.Namespace, signature: str, output: str
) -> None:
    """Tokens or features of image files, as a JSON list of {"file", output}."""
    _check_signature(session, signature)
    if arguments.out:
        _check_new(Path(arguments.out))
    data = [_read(name) for name in arguments.files]
    rows = session.ask(signature, arguments.files, {"image_bytes": data})
    text = json.dumps([{"file": name, output: row[output]} for name, row in rows])
    if arguments.out:
        Path(arguments.out).write_text(text + "\n")
    else:
        print(text)


def tokenize(session: Session, arguments: argparse.Namespace) -> None:
    """Tokens of image files."""
    ask_of_files(session, arguments, "tokenize_bytes", "tokens")


def embed(session: Session, arguments: argparse.Namespace) -> None:
    """Features of image files."""
    ask_of_files(session, arguments, "embed_bytes", "features")


def decode(session: Session, arguments: argparse.Namespace) -> None:
    """Images of tokens: a JSON list of token lists, or what `tokenize` wrote."""
    try:
        rows = json.loads(_read(arguments.file))
        tokens = [row["tokens"] if isinstance(row, dict) else row for row in rows]
        names = [
            f"{i}-{Path(row['file']).stem}" if isinstance(row, dict) else str(i)
            for i, row in enumerate(rows)
        ]
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in tokens):
            raise TypeError
    except (ValueError, TypeError, KeyError):
        raise ClientError(
            f"{arguments.file} is no list of tokens; give tokenize's file, or [[0, 1, ...]]"
        ) from None
    _check_signature(session, "decode_bytes")
    _write_images(session, arguments, "decode_bytes", names, {"tokens": tokens})


def generate(session: Session, arguments: argparse.Namespace) -> None:
    """New images of a class, or of none."""
    signatures = _check_signature(session, "generate")
    has_labels = "label" in signatures["generate"]
    signature = "generate"
    if arguments.label is None and has_labels:
        signature = "generate_unlabelled"
        if signature not in signatures:
            raise ClientError("this model needs a class; give --label")
        if arguments.guidance_scale != 1.0:
            raise ClientError("--guidance-scale needs a class; give --label")
    elif arguments.label is not None and not has_labels:
        raise ClientError("this model was trained without labels; leave --label out")
    elif arguments.label is not None:
        arguments.label = label_number(arguments.label, _class_names(arguments.class_names))
    if arguments.n < 1:
        raise ClientError(f"--n is {arguments.n}; it must be 1 or more")
    seeds = list(range(arguments.seed, arguments.seed + arguments.n))
    settings = {name: [value] * arguments.n for name, value in vars(arguments).items()}
    inputs = {name: settings[name] for name in signatures[signature]} | {"seed": seeds}
    names = [f"seed{seed}" for seed in seeds]
    _write_images(session, arguments, signature, names, inputs)


def label_number(text: str, names: Sequence[str]) -> int:
    """Returns the number of a class: text is a name first; digits are a number if no name is."""
    if text in names:
        return list(names).index(text)
    digits = [name for name in (text, *names) if name.isascii() and name.isdecimal()]
    if digits == [text]:
        return int(text)
    raise ClientError(
        f"--label is {text}, which is no class; give a name of class_names.txt (--class-names), or "
        "a number if no name is a number"
    )


def _class_names(path):
    """The lines of `path`, or of the newest version that was exported beside this file's folder."""
    files = sorted(
        Path(__file__).resolve().parent.parent.glob("vim/*/assets/class_names.txt"),
        key=lambda file: (len(file.parts[-3]), file.parts[-3]),
    )
    found = [Path(path)] if path else files[-1:]
    return _read(found[0]).decode().splitlines() if found else []


def _write_images(session, arguments, signature, names, inputs):
    folder = Path(arguments.out)
    paths = {name: folder / f"{name}.png" for name in names}
    for path in paths.values():
        _check_new(path)
    folder.mkdir(parents=True, exist_ok=True)
    for name, row in session.ask(signature, names, inputs):
        paths[name].write_bytes(row["image_bytes"])
        print(paths[name])


def _check_signature(session, name):
    signatures = session.server.signatures()
    if name not in signatures:
        raise ClientError(f"the served model has no {name}; it has {', '.join(sorted(signatures))}")
    return signatures


def _check_new(path):
    if path.exists():
        raise ClientError(f"{path} exists; give another --out")


def _read(name):
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise ClientError(f"{name} cannot be read: {error.strerror}") from None


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--server", default="http://localhost:8501", help="http:// or grpc://")
    common.add_argument("--model", default="vim", help="name in models.config (default vim)")
    common.add_argument("--timeout", type=float, default=60, help="seconds per call (default 60)")
    common.add_argument("--batch-size", type=int, default=16, help="rows per call (default 16)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(command, about):
        sub = commands.add_parser(
            command.__name__.removeprefix("show_"), help=about, parents=[common]
        )
        sub.set_defaults(command=command)
        return sub

    add(show_status, "which versions are served")
    for command, about in ((tokenize, "images to tokens"), (embed, "images to features")):
        sub = add(command, about)
        sub.add_argument("files", nargs="+", metavar="IMAGE", help="JPEG or PNG")
        sub.add_argument("--out", help="JSON file (default: standard output)")
    sub = add(decode, "tokens to images")
    sub.add_argument("file", metavar="TOKENS.json")
    sub.add_argument("--out", required=True, help="folder for PNG files")
    sub = add(generate, "new images")
    sub.add_argument("--label", help="name or number of the class (default: none)")
    sub.add_argument("--class-names", help="class_names.txt (default: of the export beside this)")
    sub.add_argument("--n", type=int, default=1, help="number of images (default 1)")
    sub.add_argument("--seed", type=int, default=0, help="of the first image; then it counts up")
    sub.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default 1)")
    sub.add_argument("--top-k", type=int, default=0, help="0 is off (default)")
    sub.add_argument("--top-p", type=float, default=1.0, help="1 is off (default)")
    sub.add_argument("--guidance-scale", type=float, default=1.0, help="1 is off (default)")
    sub.add_argument("--out", required=True, help="folder for PNG files")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = parse_arguments(arguments)
    try:
        if given.batch_size < 1:
            raise ClientError(f"--batch-size is {given.batch_size}; it must be 1 or more")
        server = connect(given.server, given.model, given.timeout)
        session = Session(server, given.batch_size)
        given.command(session, given)
    except ClientError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_MISTAKE
    return EXIT_ROW_REFUSED if session.refused else 0


if __name__ == "__main__":
    sys.exit(main())
