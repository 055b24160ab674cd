"""The warm-up records, read in the way of TensorFlow Serving."""

import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from vim_tf.export.serving import warmup

pytestmark = pytest.mark.large


@pytest.fixture(scope="module")
def requests(export_dir):
    path = export_dir / "vim" / "1" / "assets.extra" / "tf_serving_warmup_requests"
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records]
    assert all(log.WhichOneof("log_type") == "predict_log" for log in logs)
    return [log.predict_log.request for log in logs]


def rows_of(request):
    (rows,) = {proto.tensor_shape.dim[0].size for proto in request.inputs.values()}
    return rows


def test_every_signature_has_a_single_row_and_a_batch(requests, export_dir):
    signatures = warmup.read_signatures(export_dir / "vim" / "1")
    covered = sorted((request.model_spec.signature_name, rows_of(request)) for request in requests)
    assert covered == sorted((name, rows) for name in signatures for rows in (1, 8))
    assert len(requests) <= 1000  # with more, the server does not load the version


def test_the_records_are_answered_without_a_row_refused(requests, server):
    import grpc
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(server.grpc))
    for request in requests:
        assert request.model_spec.name == "vim"
        outputs = stub.Predict(request, timeout=60).outputs
        errors = tf.make_ndarray(outputs["error"])
        assert len(errors) == rows_of(request)
        assert not any(errors), (request.model_spec.signature_name, errors)


def test_the_batch_takes_every_branch(requests):
    """Filters and guidance have their own branches of the graph."""
    settings = [
        {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        for request in requests
        if request.model_spec.signature_name == "generate"
    ]
    single, batch = sorted(settings, key=lambda inputs: len(inputs["seed"]))
    assert (single["top_k"], single["top_p"], single["guidance_scale"]) == (0, 1, 1)
    assert (batch["top_k"] > 0).any() and (batch["top_p"] < 1).any()
    assert (batch["guidance_scale"] != 1).any()
    assert len(set(batch["label"])) == 2
