"""The folder beside the exported versions that puts TensorFlow Serving to work on them."""

import json
import string
from pathlib import Path
from types import ModuleType
from typing import Any

from vim_tf.errors import UserError
from vim_tf.files import write_atomically

MODEL_NAME = "vim"
FOLDER = "serving"
PROTOSET_FILE = "serving.protoset"
API_INSTALL = "pip install 'tensorflow-serving-api>=2.20,<2.21'"
_PACKAGE = "tensorflow.serving"
_KIT = Path(__file__).parent / "kit"
_COPIED = ("models.config", "batching.config", "monitoring.config", "compose.yaml", "client.py")


def write_kit(out: Path) -> list[Path]:
    """Writes `out`/serving: configuration, compose file, client, README and gRPC descriptors.

    Files that are there already are left alone, so that they may be edited.

    Args:
        out: the folder of exports, with at least one version in out/vim; the README's calls are
            for the newest.

    Returns:
        The list of paths written.

    Raises:
        UserError: tensorflow-serving-api is not installed.
    """
    versions = (path for path in (Path(out) / MODEL_NAME).iterdir() if path.name.isdecimal())
    newest = max(versions, key=lambda path: int(path.name))
    protocol = json.loads((newest / "assets" / "protocol.json").read_text())
    files = {name: (_KIT / name).read_bytes() for name in _COPIED}
    files["README.md"] = readme(protocol).encode()
    files[PROTOSET_FILE] = protoset()
    folder = Path(out) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    new = [folder / name for name in files if not (folder / name).exists()]
    for path in new:
        write_atomically(path, files[path.name])
    return new


def readme(protocol: dict[str, Any]) -> str:
    """Returns the README for a model of this `saved_model.protocol`.

    That of a tokenizer alone has no chapter on generating.
    """
    height, width = protocol["image_size"]
    rows, columns = protocol["token_grid"]
    classes = protocol.get("classes")  # None: a tokenizer alone
    values = {
        "height": height,
        "width": width,
        "tokens": rows * columns,
        "last_code": protocol["codes"] - 1,
        "max_pixels": f"{protocol['max_pixels']:,}",
        "zeros": ", ".join(["0"] * (rows * columns)),
        "last_label": (classes or 0) - 1,
        "generates": "" if classes is None else ", generate, embed",
        # Of a model without labels nothing else is asked than a seed.
        "label_row": '"label": 0, ' if classes else "",
        "label_column": '"label": [0, 0], ' if classes else "",
        "label_tensor": '"label": {"dtype": "DT_INT32", "tensor_shape": {"dim": [{"size": 2}]}, '
        '"int_val": [0]}, '
        if classes
        else "",
        # 1 is the only one for a model that never saw the null label.
        "guidance": f', "guidance_scale": {2.0 if protocol["label_drop"] else 1.0}'
        if classes
        else "",
        "label_option": "--label 0 " if classes else "",
        "label_about": f"Labels are 0 to {(classes or 0) - 1}: line i + 1 of "
        "vim/<version>/assets/class_names.txt is the name of label i. "
        if classes
        else "",
    }
    names = ["README.md"] if classes is None else ["README.md", "README_generate.md"]
    text = "\n".join((_KIT / name).read_text() for name in names)
    return string.Template(text).substitute(values)


def protoset() -> bytes:
    """Returns the serving API as a FileDescriptorSet, for grpcurl: the server has no reflection.

    It holds the calls that are of use here: Predict, GetModelMetadata and GetModelStatus.

    Raises:
        UserError: tensorflow-serving-api is not installed.
    """
    from google.protobuf import descriptor_pb2

    api = import_api()
    result = descriptor_pb2.FileDescriptorSet()
    done = set()

    def add(descriptor):
        if descriptor.name not in done:
            done.add(descriptor.name)
            for dependency in descriptor.dependencies:
                add(dependency)
            descriptor.CopyToProto(result.file.add())  # after what it needs

    # The package's own descriptors of the services do not import beside protobuf 6 and later.
    for service, modules in (
        (
            "PredictionService",
            {"Predict": api.predict_pb2, "GetModelMetadata": api.get_model_metadata_pb2},
        ),
        ("ModelService", {"GetModelStatus": api.get_model_status_pb2}),
    ):
        for module in modules.values():
            add(module.DESCRIPTOR)
        file = result.file.add(name=f"{service}.proto", package=_PACKAGE, syntax="proto3")
        file.dependency.extend(module.DESCRIPTOR.name for module in modules.values())
        methods = file.service.add(name=service).method
        for name in modules:
            request, response = (f".{_PACKAGE}.{name}{kind}" for kind in ("Request", "Response"))
            methods.add(name=name, input_type=request, output_type=response)
    return result.SerializeToString(deterministic=True)


def import_api() -> ModuleType:
    """Returns `tensorflow_serving.apis` with its modules imported; UserError if there is none."""
    try:
        from tensorflow_serving import apis
        from tensorflow_serving.apis import (  # noqa: F401
            get_model_metadata_pb2,
            get_model_status_pb2,
            predict_pb2,
            prediction_log_pb2,
        )
    except ImportError:
        raise UserError(
            "the SavedModel's warm-up records and serving kit need tensorflow-serving-api, which "
            f"is not installed; {API_INSTALL}"
        ) from None
    return apis
