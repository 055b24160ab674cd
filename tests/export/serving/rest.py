"""The REST half of the stand-in: status, metadata and predict in rows and columns."""

import base64
import binascii
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import rpc
import tensorflow as tf
from google.protobuf import json_format
from served_model import Refused, invalid

HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 413,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
}
DRAINED_BYTES = 256 << 20
CHUNK = 1 << 16
PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?(/metadata|:\w+)?")


def start(model, name, port, max_body_bytes):
    """Starts serving; returns (server, port); arguments as in `rpc.start`."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    handler = type(
        "Handler", (Handler,), {"model": model, "name": name, "max_body_bytes": max_body_bytes}
    )
    server = Server(("127.0.0.1", port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, server.server_port


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60  # for a client that sends nothing more
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_GET(self):  # noqa: N802
        if self.path == "/stand_in/batches":
            return self._send(200, self.model.batch_sizes())
        return self._respond(self._get)

    def do_POST(self):  # noqa: N802
        return self._respond(self._post)

    def _respond(self, answer):
        try:
            self._send(200, answer())
        except Refused as error:
            self._send(HTTP_STATUS[error.code], {"error": str(error)})

    def _send(self, code, content):
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _route(self):
        match = PATH.fullmatch(self.path)
        if not match:
            self.close_connection = True  # a body, if any, is not read
            raise invalid(f"Malformed request: {self.command} {self.path}")
        name, version, action = match.groups()
        if name != self.name or int(version or self.model.version) != self.model.version:
            self.close_connection = True
            raise Refused(
                "NOT_FOUND", f"Servable not found for request: {name} version {version or 'any'}"
            )
        return action

    def _get(self):
        action = self._route()
        if action is None:
            return as_json(rpc.status(self.model))
        if action == "/metadata":
            signatures = as_json(rpc.signature_map(self.model))
            spec = {"name": self.name, "signature_name": "", "version": str(self.model.version)}
            return {"model_spec": spec, "metadata": {"signature_def": signatures}}
        raise invalid(f"Malformed request: GET {self.path}")

    def _post(self):
        action = self._route()
        body = self._read_body()
        if action != ":predict":
            raise invalid(f"Malformed request: POST {self.path}")
        try:
            content = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise invalid(f"JSON Parse error: {error}") from None
        if not isinstance(content, dict):
            raise invalid("the request must be a JSON object")
        rows, columns = content.get("instances"), content.get("inputs")
        if (rows is None) == (columns is None):
            raise invalid('give either "instances" or "inputs"')
        name, signature = self.model.signature(content.get("signature_name"))
        values = columns if rows is None else to_columns(rows, signature)
        if not isinstance(values, dict) or set(values) == {"b64"}:
            values = {self._only_input(signature): values}
        self.model.check_names(signature, values)
        inputs = {
            key: to_array(key, value, signature.inputs[key].dtype) for key, value in values.items()
        }
        outputs = {
            key: to_values(key, value) for key, value in self.model.predict(name, inputs).items()
        }
        only = next(iter(outputs.values())) if len(outputs) == 1 else None
        if rows is None:
            return {"outputs": only or outputs}
        count = len(next(iter(outputs.values())))
        return {
            "predictions": only
            or [{key: value[i] for key, value in outputs.items()} for i in range(count)]
        }

    def _read_body(self):
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            self.close_connection = True
            raise invalid("a request needs a Content-Length") from None
        if not 0 <= length <= self.max_body_bytes:
            self.close_connection = True
            # Reads and drops the body, up to a limit: if the connection is closed while the client
            # is sending, it never gets the answer.
            left = min(length, DRAINED_BYTES)
            while left > 0:
                left -= len(self.rfile.read(min(left, CHUNK))) or left
            raise Refused(
                "RESOURCE_EXHAUSTED",
                f"the body has {length} bytes; at most {self.max_body_bytes} are taken",
            )
        return self.rfile.read(length)

    def _only_input(self, signature):
        if len(signature.inputs) != 1:
            raise invalid(f"name the inputs: {', '.join(sorted(signature.inputs))}")
        return next(iter(signature.inputs))


def as_json(message):
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def to_columns(rows, signature):
    """[{input: value}] or [value] of a single input -> {input: [value]}."""
    if not isinstance(rows, list) or not rows:
        raise invalid('"instances" must be a list of at least one row')
    if not all(isinstance(row, dict) and set(row) != {"b64"} for row in rows):
        return rows
    if any(set(row) != set(rows[0]) for row in rows):
        raise invalid("the rows of instances have unlike inputs")
    return {name: [row[name] for row in rows] for name in rows[0]}


def to_array(name, values, dtype):
    """JSON values -> array of a TensorFlow type, without a change of any value."""
    dtype = tf.as_dtype(dtype)
    if dtype == tf.string:
        if not isinstance(values, list):
            raise invalid(f"input {name} must be a list of strings")
        return np.array([to_bytes(name, value) for value in values] + [None], object)[:-1]
    try:
        array = np.array(values)
    except ValueError:
        raise invalid(f"input {name} is ragged; give lists of equal lengths") from None
    kinds = "iuf" if dtype.is_floating else "iu"
    if array.size and array.dtype.kind not in kinds:
        raise invalid(f"input {name} holds something else than {dtype.name}")
    if (
        array.size
        and dtype.is_integer
        and not (dtype.min <= array.min() <= array.max() <= dtype.max)
    ):
        raise invalid(f"input {name} holds numbers outside {dtype.name}")
    return array.astype(dtype.as_numpy_dtype)


def to_bytes(name, value):
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except binascii.Error as error:
            raise invalid(f"input {name} is no base64: {error}") from None
    raise invalid(f'input {name} must hold strings or {{"b64": ...}}')


def to_values(name, array):
    """Array -> JSON values. Strings are base64 only if the output's name ends in _bytes."""
    if array.dtype != object:
        return array.tolist()
    if name.endswith("_bytes"):
        return [{"b64": base64.b64encode(value).decode()} for value in array]
    return [value.decode() for value in array]
