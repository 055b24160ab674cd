"""Good and bad requests to a served model, for serving_load.py."""

import http.client
import io
import json
import math
import struct
import urllib.parse
import zlib

import grpc
import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

BOMB_SIDE = 20_000
HUGE_BYTES = 33 << 20  # more than the test server accepts
MANY_ROWS = 33  # more than batching.config allows
KINDS = ("PNG", "JPEG")


def read_protocol(export_dir):
    """protocol.json of the newest version in a folder of exports."""
    newest = max((export_dir / "vim").glob("[0-9]*"), key=lambda path: int(path.name))
    return json.loads((newest / "assets" / "protocol.json").read_text())


def make_inputs(protocol, names, rows, rng):
    """Random good values {input: [value of each row]} for the inputs `names`."""
    size = (*protocol["image_size"], 3)
    images = rng.integers(0, 256, (rows, *size), "uint8")
    values = {
        "images": lambda: images.tolist(),
        "image_bytes": lambda: [encode(image, rng.choice(["PNG", "JPEG"])) for image in images],
        "tokens": lambda: rng.integers(
            0, protocol["codes"], (rows, math.prod(protocol["token_grid"]))
        ).tolist(),
        "label": lambda: rng.integers(0, max(protocol.get("classes", 1), 1), rows).tolist(),
        "seed": lambda: rng.integers(-(2**31), 2**32, rows).tolist(),
        "temperature": lambda: rng.choice([0.0, 0.7, 1.0], rows).tolist(),
        "top_k": lambda: rng.choice([0, 1, min(10, protocol["codes"])], rows).tolist(),
        "top_p": lambda: rng.choice([0.9, 1.0], rows).tolist(),
        "guidance_scale": lambda: rng.choice([1.0, 2.0], rows).tolist(),
    }
    return {name: values[name]() for name in names}


def encode(image, kind):
    """Encodes an image uint8 [H,W,3] as a file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def equal_answers(one, other):
    """Whether two answers are equal. Pixels and features may differ by rounding."""
    if one.keys() != other.keys() or one["error"] != other["error"]:
        return False
    for name, values in one.items():
        if name in ("images", "image_bytes"):
            pairs = zip(values, other[name], strict=True)
            if not all(equal_images(a, b) for a, b in pairs):
                return False
        elif name == "features":
            if not np.allclose(values, other[name], rtol=1e-3, atol=1e-3):
                return False
        elif values != other[name]:
            return False
    return True


def equal_images(one, other):
    """Whether two images, as pixels or PNG files, differ by at most one grey level."""
    if isinstance(one, bytes) and isinstance(other, bytes):
        if not one or not other:
            return one == other
        one, other = (Image.open(io.BytesIO(data)) for data in (one, other))
    return np.abs(np.asarray(one, "int32") - np.asarray(other, "int32")).max() <= 1


# Bad requests -----------------------------------------------------------------------------------


def make_bomb():
    """A valid PNG of 20,000 x 20,000 pixels: 388 kB that need 400 MB of memory."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(9)
    row = bytes(1 + BOMB_SIDE)  # filter type and grey pixels
    pixels = b"".join(packer.compress(row) for _ in range(BOMB_SIDE)) + packer.flush()
    header = struct.pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    )


class BadRequests:
    """Requests that must be refused, whole or in one row.

    Args:
        protocol: protocol.json of the model.
        signatures: {signature: names of its inputs}.

    Attributes:
        rows: [(name, signature, changes, word)]: `changes` {input: value} make one row bad. The
           error of this row must contain the word.
        whole: {"REST" or "gRPC": [(name, request to post, status, word in the error)]}.
    """

    def __init__(self, protocol, signatures):
        rng = np.random.default_rng(1)
        image = rng.integers(0, 256, (64, 48, 3), "uint8")
        jpeg, png = encode(image, "JPEG"), encode(image, "PNG")
        tokens = math.prod(protocol["token_grid"])
        good = [0] * tokens
        undecodable = "cannot be decoded"
        self.rows = [
            (
                "not an image",
                "tokenize_bytes",
                {"image_bytes": b"GIF? no."},
                "neither JPEG nor PNG",
            ),
            ("empty image", "tokenize_bytes", {"image_bytes": b""}, "neither JPEG nor PNG"),
            ("cut JPEG", "tokenize_bytes", {"image_bytes": jpeg[: len(jpeg) // 2]}, undecodable),
            ("JPEG start", "tokenize_bytes", {"image_bytes": jpeg[:3]}, undecodable),
            ("cut PNG", "tokenize_bytes", {"image_bytes": png[: len(png) // 2]}, undecodable),
            ("bomb", "tokenize_bytes", {"image_bytes": make_bomb()}, "pixels; at most"),
            ("token", "decode", {"tokens": [protocol["codes"], *good[1:]]}, "tokens is"),
            ("token below 0", "decode_bytes", {"tokens": [*good[1:], -1]}, "tokens is -1"),
        ]
        if "generate" in signatures:
            self.rows += [
                ("NaN temperature", "generate", {"temperature": math.nan}, "temperature is nan"),
                ("infinite", "generate", {"temperature": math.inf}, "temperature is inf"),
                ("top_k", "generate", {"top_k": protocol["codes"] + 1}, "top_k is"),
                ("top_p", "generate", {"top_p": 0.0}, "top_p is 0"),
                ("seed", "generate", {"seed": 2**32}, "seed is 4294967296"),
            ]
        if protocol.get("classes"):
            label = protocol["classes"]
            self.rows += [
                ("label", "generate", {"label": label}, f"label is {label}"),
                ("label below 0", "generate_default", {"label": -1}, "label is -1"),
                ("guidance", "generate", {"guidance_scale": math.nan}, "guidance_scale is nan"),
            ]
        self.whole = {"REST": rest_requests(good), "gRPC": grpc_requests(good)}


def rest_requests(good):
    """Bad bodies made from a row of `good` tokens; None is a huge body."""
    named = {"signature_name": "decode"}
    return [
        ("shape", named | {"inputs": {"tokens": [[0]]}}, 400, "shape"),
        ("type", named | {"inputs": {"tokens": [[0.5] * len(good)]}}, 400, "int32"),
        ("range", named | {"inputs": {"tokens": [[2**40] * len(good)]}}, 400, "int32"),
        ("ragged", named | {"inputs": {"tokens": [good, [0]]}}, 400, "ragged"),
        ("many rows", named | {"inputs": {"tokens": [good] * MANY_ROWS}}, 400, "rows"),
        ("missing input", named | {"inputs": {}}, 400, "missing"),
        ("unknown input", named | {"inputs": {"token": [good]}}, 400, "unknown"),
        ("unknown signature", {"signature_name": "x", "inputs": good}, 400, "not found"),
        ("invalid JSON", b'{"inputs": [', 400, "JSON"),
        ("no JSON", b"\xff\xfe\x00", 400, "JSON"),
        ("empty body", b"", 400, "JSON"),
        ("huge body", None, 413, "at most"),
    ]


def grpc_requests(good):
    """Bad PredictRequests made from a row of `good` tokens."""

    def make(value, dtype="int32", model="vim", signature="decode", key="tokens"):
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = model, signature
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value, dtype))
        return request

    torn, claims = make([good, good]), make([good])
    torn.inputs["tokens"].tensor_content = b"123"
    claims.inputs["tokens"].tensor_shape.dim[0].size = 2**40  # from a few bytes
    missing = make([good])
    missing.inputs.clear()
    wrong = "INVALID_ARGUMENT"
    return [
        ("shape", make([[0]]), wrong, "shape"),
        ("type", make([good], "float32"), wrong, "int32"),
        ("strings", make([["0"] * len(good)], "string"), wrong, "int32"),
        ("many rows", make([good] * MANY_ROWS), wrong, "rows"),
        ("missing input", missing, wrong, "missing"),
        ("unknown input", make([good], key="token"), wrong, "unknown"),
        ("unknown signature", make([good], signature="x"), wrong, "not found"),
        ("unknown model", make([good], model="x"), "NOT_FOUND", "not found"),
        ("torn tensor", torn, wrong, "no whole tensor"),
        ("claimed rows", claims, wrong, "rows"),
        ("huge message", make([bytes(HUGE_BYTES)], "string"), "RESOURCE_EXHAUSTED", "larger"),
    ]


class Rest:
    """Raw REST calls of one client over one open connection.

    Args:
        address: "http://host:port".
    """

    def __init__(self, address):
        self._host = urllib.parse.urlsplit(address).netloc
        self._connection = None

    def post(self, content):
        """Sends bytes or JSON, None for a huge body; returns (status, error)."""
        if content is None:
            content = b" " * HUGE_BYTES
        elif not isinstance(content, bytes):
            content = json.dumps(content).encode()
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._host, timeout=60)
        self._connection.request("POST", "/v1/models/vim:predict", content)
        response = self._connection.getresponse()
        answer = json.load(response)
        if response.will_close:
            self._connection.close()
            self._connection = None
        return response.status, answer.get("error", "")


class Grpc:
    """Raw gRPC calls, with the same methods as `Rest`.

    Args:
        address: "grpc://host:port".
    """

    def __init__(self, address):
        channel = grpc.insecure_channel(
            urllib.parse.urlsplit(address).netloc, [("grpc.max_send_message_length", -1)]
        )
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def post(self, request):
        """Sends a PredictRequest; returns (name of the status, error)."""
        try:
            self._predictions.Predict(request, timeout=60)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        return "OK", ""
