"""A Keras model from the nodes of a network in ONNX, as `read_onnx.py` writes them.

Only what residual networks from TensorFlow consist of is known; everything else is refused.
"""

import keras
import numpy as np
from keras import layers

# The network takes red, green and blue of [0,255] less these, in the order blue, green, red.
MEANS = (123, 117, 104)
# Attributes that may be absent, with their values then (ONNX' "Operators", opset 9).
DEFAULTS = {"dilations": [1, 1], "group": 1, "auto_pad": "NOTSET", "strides": [1, 1]}


def build(nodes, weights, size=224):
    """Builds the network.

    Args:
        nodes: of each node its kind, inputs, outputs and attributes. The first is the transposition
            of the images, the last the softmax.
        weights: {name: array}.
        size: height and width of the images.

    Returns:
        A functional model: RGB images [B,size,size,3] in [-1,1] -> features [B,D] -> logits [B,K].

    Raises:
        ValueError: a node is of another kind, or its attributes have values that are not supported.
    """
    images = layers.Input((size, size, 3), name="images")
    offsets = [127.5 - mean for mean in MEANS]
    x = layers.Rescaling(127.5, offset=offsets, name="rescaling")(images)
    first, *nodes, last = nodes
    _check(first, first["kind"] == "Transpose" and first["attributes"]["perm"] == [0, 3, 1, 2])
    _check(last, last["kind"] == "Softmax" and last["attributes"].get("axis", 1) == 1)
    tensors, arrays = {first["outputs"][0]: x}, {}
    turned = False
    waiting = None  # a product of matrices, to which its bias is added
    for number, node in enumerate(nodes):
        kind, given = node["kind"], DEFAULTS | node["attributes"]
        name = f"{kind.lower()}_{number}"
        inputs = [tensors[name] for name in node["inputs"] if name in tensors]
        constants = [weights[name] for name in node["inputs"] if name in weights]
        _check(node, len(inputs) + len(constants) == len(node["inputs"]))
        if kind == "Conv":
            kernel, bias = constants
            if not turned:  # it sees blue, green, red
                _check(node, node["inputs"][0] == first["outputs"][0])
                kernel, turned = kernel[:, ::-1], True
            x = _convolution(inputs[0], node, given, kernel, name)
            arrays[name] = [kernel.transpose(2, 3, 1, 0), bias]
        elif kind == "Relu":
            x = layers.ReLU(name=name)(inputs[0])
        elif kind == "MaxPool":
            x = _max_pool(inputs[0], node, given, name)
        elif kind == "AveragePool":
            # It pools all there is, so its way to treat borders does not matter.
            _check(node, list(inputs[0].shape[1:3]) == given["kernel_shape"])
            _check(node, not any(given.get("pads", ())))
            x = layers.GlobalAveragePooling2D(name="features")(inputs[0])
        elif kind == "Reshape":
            _check(node, len(inputs[0].shape) == 2)  # already [B,D]
            x = inputs[0]
        elif kind == "MatMul":
            waiting, x = constants[0], inputs[0]
        elif kind == "Add" and waiting is not None:
            arrays["logits"] = [waiting, *constants]
            x = layers.Dense(waiting.shape[1], name="logits")(inputs[0])
        elif kind == "Add":
            _check(node, len(inputs) == 2 and inputs[0].shape == inputs[1].shape)
            x = layers.Add(name=name)(inputs)
        else:
            raise ValueError(f"node {number} is a {kind}, which is not supported")
        tensors[node["outputs"][0]] = x
    _check(last, last["inputs"] == nodes[-1]["outputs"])
    model = keras.Model(images, x, name="onnx")
    for name, values in arrays.items():
        model.get_layer(name).set_weights(values)
    return model


def _convolution(x, node, given, kernel, name):
    _check(node, given["dilations"] == [1, 1] and given["group"] == 1)
    _check(node, given["auto_pad"] == "NOTSET")
    top, left, bottom, right = given.get("pads", [0, 0, 0, 0])
    if top or left or bottom or right:
        x = layers.ZeroPadding2D(((top, bottom), (left, right)), name=f"{name}_pad")(x)
    return layers.Conv2D(kernel.shape[0], kernel.shape[2:], given["strides"], name=name)(x)


def _max_pool(x, node, given, name):
    _check(node, given["auto_pad"] == "NOTSET" and not given.get("ceil_mode", 0))
    kernel, strides = given["kernel_shape"], given["strides"]
    top, left, bottom, right = given.get("pads", [0, 0, 0, 0])
    # Keras pads a maximum only at "same", and with the smallest number.
    total = [
        max((-(-size // stride) - 1) * stride + side - size, 0)
        for size, stride, side in zip(x.shape[1:3], strides, kernel, strict=True)
    ]
    same = [*(pad // 2 for pad in total), *(pad - pad // 2 for pad in total)]
    pads = [top, left, bottom, right]
    _check(node, pads == same or not any(pads))
    padding = "same" if pads == same else "valid"
    return layers.MaxPooling2D(kernel, strides, padding, name=name)(x)


def _check(node, holds):
    if not holds:
        shown = {key: np.asarray(value).tolist() for key, value in node["attributes"].items()}
        raise ValueError(f"a {node['kind']} node with {shown} is not supported here")
