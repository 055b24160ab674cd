"""The gRPC half of the stand-in: PredictionService and ModelService, with the official stubs."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import tensorflow as tf
from served_model import Refused, invalid
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)


def start(models, name, port, max_message_bytes):
    """Starts serving; returns (server, port).

    Args:
        models: the `ServedModel`.
        name: name of the model.
        port: 0 takes a free one.
        max_message_bytes: larger requests are refused by gRPC itself.
    """
    server = grpc.server(
        ThreadPoolExecutor(32),
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ],
    )
    servicer = Servicer(models, name)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, port


def to_arrays(model, request):
    """PredictRequest -> {input: array}; checks sizes before it allocates."""
    _, signature = model.signature(request.model_spec.signature_name)
    model.check_names(signature, request.inputs)
    arrays = {}
    for name, proto in request.inputs.items():
        spec = signature.inputs[name]
        if proto.dtype != spec.dtype:
            given, wanted = (
                tf.dtypes.as_dtype(dtype).name if dtype else "no type"
                for dtype in (proto.dtype, spec.dtype)
            )
            raise invalid(f"input {name} is {given}; it must be {wanted}")
        model.check_shape(name, spec, [dim.size for dim in proto.tensor_shape.dim])
        try:
            arrays[name] = tf.make_ndarray(proto)
        except (ValueError, TypeError) as error:
            raise invalid(f"input {name} is no whole tensor: {error}") from None
    return arrays


class Servicer(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    def __init__(self, model, name):
        self._model = model
        self._name = name

    def _check(self, spec, context):
        version = spec.version.value if spec.HasField("version") else self._model.version
        if spec.name != self._name or version != self._model.version:
            context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"Servable not found for request: {spec.name} version {version}",
            )

    def Predict(self, request, context):  # noqa: N802
        self._check(request.model_spec, context)
        try:
            outputs = self._model.predict(
                request.model_spec.signature_name, to_arrays(self._model, request)
            )
            wanted = list(request.output_filter) or list(outputs)
            for name in set(wanted) - set(outputs):
                raise invalid(f"output {name} is none of {', '.join(sorted(outputs))}")
        except Refused as error:
            context.abort(grpc.StatusCode[error.code], str(error))
        response = predict_pb2.PredictResponse()
        response.model_spec.name = self._name
        response.model_spec.version.value = self._model.version
        response.model_spec.signature_name = request.model_spec.signature_name or "serving_default"
        for name in wanted:
            response.outputs[name].CopyFrom(tf.make_tensor_proto(np.asarray(outputs[name])))
        return response

    def GetModelMetadata(self, request, context):  # noqa: N802
        self._check(request.model_spec, context)
        if list(request.metadata_field) != ["signature_def"]:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "metadata_field must be signature_def")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = self._name
        response.model_spec.version.value = self._model.version
        response.metadata["signature_def"].Pack(signature_map(self._model))
        return response

    def GetModelStatus(self, request, context):  # noqa: N802
        self._check(request.model_spec, context)
        return status(self._model)


def signature_map(model):
    """SignatureDefMap of a `ServedModel`."""
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in model.signatures.items():
        signatures.signature_def[name].CopyFrom(signature)
    return signatures


def status(model):
    """GetModelStatusResponse of a loaded model."""
    response = get_model_status_pb2.GetModelStatusResponse()
    version = response.model_version_status.add()
    version.version = model.version
    version.state = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    return response
