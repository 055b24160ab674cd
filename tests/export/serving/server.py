"""A stand-in for tensorflow_model_server on the loopback interface, for tests and benchmarks.

Like the real server, it runs the model in a v1 Session of the C++ runtime, and joins requests into
batches by the export's own batching.config. It supports gRPC with the official stubs, and REST in
rows and columns. It tests the model, the requests and the client, not the real server's binary.

    python server.py --export out [--grpc-port 8500] [--rest-port 8501]

serves the newest version of out/vim. It prints one line of JSON with its ports when it is ready. It
stops when its standard input is closed, so it never outlives the process that started it.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.modules["keras"] = None  # a real server has no Keras

import rest  # noqa: E402
import rpc  # noqa: E402
import tensorflow as tf  # noqa: E402
from served_model import ServedModel  # noqa: E402
from tensorflow_serving.apis import prediction_log_pb2  # noqa: E402

MODEL_NAME = "vim"
MAX_REQUEST_BYTES = 32 << 20
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"


def read_batching(path):
    """Reads {name: number} from a file of BatchingParameters."""
    pairs = re.findall(r"^(\w+) \{ value: (\d+) \}", path.read_text(), re.MULTILINE)
    return {name: int(value) for name, value in pairs}


def warm_up(model, folder):
    """Answers the warm-up records, as the real server does before it is AVAILABLE."""
    path = folder / WARMUP_FILE
    if path.exists():
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            model.predict(request.model_spec.signature_name, rpc.to_arrays(model, request))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--export", required=True, type=Path, help="folder with vim/ and serving/")
    parser.add_argument("--grpc-port", type=int, default=0)
    parser.add_argument("--rest-port", type=int, default=0)
    arguments = parser.parse_args()
    folder = max((arguments.export / MODEL_NAME).glob("[0-9]*"), key=lambda path: int(path.name))
    batching = read_batching(arguments.export / "serving" / "batching.config")
    model = ServedModel(
        folder,
        batching["max_batch_size"],
        batching["batch_timeout_micros"] / 1e6,
        batching["max_enqueued_batches"],
    )
    warm_up(model, folder)
    grpc_server, grpc_port = rpc.start(model, MODEL_NAME, arguments.grpc_port, MAX_REQUEST_BYTES)
    _, rest_port = rest.start(model, MODEL_NAME, arguments.rest_port, MAX_REQUEST_BYTES)
    print(json.dumps({"grpc": grpc_port, "rest": rest_port, "pid": os.getpid()}), flush=True)
    sys.stdin.read()
    grpc_server.stop(grace=None).wait()


if __name__ == "__main__":
    main()
