"""A Keras model from the nodes of a network in ONNX, as `read_onnx.py` writes them.

Only what a residual network from TensorFlow consists of is known; everything else is refused.
"""

import keras
import numpy as np
from keras import layers

# The network takes red, green and blue of [0,255] less these, in the order blue, green, red.
MEANS = (123, 117, 104)
# {kind: {attribute: its value if it is absent}} (ONNX' "Operators", opset 9). A node with another
# attribute is refused. An attribute of the kind must have the value here unless it is used below.
ATTRIBUTES = {
    "Transpose": {"perm": None},
    "Conv": {"kernel_shape": None, "pads": [0, 0, 0, 0], "strides": [1, 1]}
    | {"auto_pad": "NOTSET", "dilations": [1, 1], "group": 1},
    "Relu": {},
    "MaxPool": {"kernel_shape": None, "pads": [0, 0, 0, 0], "strides": [1, 1]}
    | {"auto_pad": "NOTSET", "ceil_mode": 0, "dilations": [1, 1], "storage_order": 0},
    "AveragePool": {"kernel_shape": None, "strides": [1, 1], "pads": [0, 0, 0, 0]}
    | {"auto_pad": "NOTSET", "ceil_mode": 0, "count_include_pad": 0},
    "Reshape": {},
    "MatMul": {},
    "Add": {},
    "Softmax": {"axis": 1},
}
USED = {"perm", "kernel_shape", "pads", "strides"}


def build(nodes, weights, size=224):
    """Builds the network.

    Args:
        nodes: of each node its kind, inputs, outputs and attributes. The first is the transposition
            of the images. The last three are the last layer and the softmax.
        weights: {name: array}.
        size: height and width of the images.

    Returns:
        A functional model: RGB images [B,size,size,3] in [-1,1] -> features [B,D] -> logits [B,K].

    Raises:
        ValueError: a node is of another kind, or is used in a way that is not supported.
    """
    first, *inner, product, bias, last = map(_with_defaults, nodes)
    _check(first, first["kind"] == "Transpose" and first["attributes"]["perm"] == [0, 3, 1, 2])
    images = layers.Input((size, size, 3), name="images")
    offsets = [127.5 - mean for mean in MEANS]
    x = layers.Rescaling(127.5, offset=offsets, name="rescaling")(images)
    tensors, arrays = {first["outputs"][0]: x}, {}
    for number, node in enumerate(inner):
        name = f"{node['kind'].lower()}_{number}"
        inputs = [tensors[given] for given in node["inputs"] if given in tensors]
        constants = [weights[given] for given in node["inputs"] if given in weights]
        _check(node, inputs and len(inputs) + len(constants) == len(node["inputs"]))
        if node["kind"] == "Conv":
            kernel, offset = constants
            if node["inputs"][0] == first["outputs"][0]:
                kernel = kernel[:, ::-1]  # it sees blue, green, red
            arrays[name] = [kernel.transpose(2, 3, 1, 0), offset]
            x = _convolution(inputs[0], node["attributes"], kernel, name)
        elif node["kind"] == "Relu":
            x = layers.ReLU(name=name)(inputs[0])
        elif node["kind"] == "MaxPool":
            x = _max_pool(inputs[0], node, name)
        elif node["kind"] == "AveragePool":
            given = node["attributes"]
            whole = list(inputs[0].shape[1:3]) == given["kernel_shape"] and not any(given["pads"])
            _check(node, whole)
            x = layers.GlobalAveragePooling2D(name="features")(inputs[0])
        elif node["kind"] == "Reshape":  # the average is [B,D] already
            x = inputs[0]
            _check(node, len(x.shape) == 2 and np.prod(constants[0][1:]) == x.shape[1])
        elif node["kind"] == "Add":
            _check(node, len(inputs) == 2 and inputs[0].shape == inputs[1].shape)
            x = layers.Add(name=name)(inputs)
        else:
            _check(node, False)
        tensors[node["outputs"][0]] = x
    logits = _last_layer(x, product, bias, last, weights, inner[-1]["outputs"][0], arrays)
    model = keras.Model(images, logits, name="onnx")
    for name, values in arrays.items():
        model.get_layer(name).set_weights(values)
    return model


def _convolution(x, given, kernel, name):
    top, left, bottom, right = given["pads"]
    if any(given["pads"]):
        x = layers.ZeroPadding2D(((top, bottom), (left, right)), name=f"{name}_pad")(x)
    return layers.Conv2D(kernel.shape[0], kernel.shape[2:], given["strides"], name=name)(x)


def _max_pool(x, node, name):
    given = node["attributes"]
    kernel, strides, pads = given["kernel_shape"], given["strides"], given["pads"]
    # Keras pads a maximum only at "same": ceil(size / stride) outputs, the larger half at the end.
    totals = [
        max((-(-size // stride) - 1) * stride + side - size, 0)
        for size, stride, side in zip(x.shape[1:3], strides, kernel, strict=True)
    ]
    same = [total // 2 for total in totals] + [total - total // 2 for total in totals]
    _check(node, pads == same or not any(pads))
    padding = "same" if pads == same else "valid"
    return layers.MaxPooling2D(kernel, strides, padding, name=name)(x)


def _last_layer(x, product, bias, last, weights, features, arrays):
    _check(product, product["kind"] == "MatMul" and product["inputs"][0] == features)
    _check(bias, bias["kind"] == "Add" and bias["inputs"][0] == product["outputs"][0])
    _check(last, last["kind"] == "Softmax" and last["inputs"] == bias["outputs"])
    kernel = weights[product["inputs"][1]]
    arrays["logits"] = [kernel, weights[bias["inputs"][1]]]
    return layers.Dense(kernel.shape[1], name="logits")(x)


def _with_defaults(node):
    kind, given = node["kind"], node["attributes"]
    defaults = ATTRIBUTES.get(kind, {})
    _check(node, kind in ATTRIBUTES and set(given) <= set(defaults))
    for name in set(given) - USED:
        _check(node, given[name] == defaults[name])
    return {**node, "attributes": defaults | given}


def _check(node, holds):
    if not holds:
        raise ValueError(
            f"a {node['kind']} of {node['inputs']} with {node['attributes']} is not supported"
        )
