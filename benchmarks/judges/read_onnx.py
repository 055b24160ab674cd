"""A network in ONNX: `read_onnx.py FILE.onnx IMAGES.npy OUT.npz`.

It runs in the reference environment. OUT gets the nodes as JSON, the weights by their names, and
what ONNX Runtime computes from the images: features and logits, the inputs of the last product of
matrices and of the softmax behind it.
"""

import json
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

path, images, out = sys.argv[1:]
model = onnx.load(path)
graph = model.graph
weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def attribute(given):
    """Returns the value of an attribute, as JSON can hold it."""
    value = helper.get_attribute_value(given)
    return value.decode() if isinstance(value, bytes) else value


nodes = [
    {
        "kind": node.op_type,
        "inputs": list(node.input),
        "outputs": list(node.output),
        "attributes": {given.name: attribute(given) for given in node.attribute},
    }
    for node in graph.node
]
product = [node for node in nodes if node["kind"] == "MatMul"][-1]
softmax = [node for node in nodes if node["kind"] == "Softmax"][-1]
names = [product["inputs"][0], softmax["inputs"][0]]
for name in names:
    graph.output.append(helper.make_empty_tensor_value_info(name))
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(
    model.SerializeToString(), options, providers=["CPUExecutionProvider"]
)
# The network takes blue, green and red, less the means of its training images.
inputs = np.load(images)[..., ::-1] - np.array([104, 117, 123], "float32")
features, logits = session.run(names, {session.get_inputs()[0].name: inputs})
arrays = {f"weights/{name}": array for name, array in weights.items()}
np.savez(out, features=features, logits=logits, nodes=json.dumps(nodes), **arrays)
