"""Networks in Keras compute what NumPy computes by their definitions."""

import numpy as np
import pytest


# At even and at odd sizes, "same" pads different sides.
@pytest.mark.parametrize("size", [13, 16, 18])
def test_efficientnet_equals_its_definition(definitions, state, size):
    from judges import efficientnet_lite

    images = np.random.default_rng(1).integers(0, 256, (3, size, size, 3))
    model = efficientnet_lite.build(state, size, definitions.strides)
    features, logits = definitions.efficientnet(state, images)
    assert features.std() > 0.1
    np.testing.assert_allclose(model(images / 127.5 - 1), logits, rtol=1e-4, atol=1e-4)


def test_every_weight_is_used(definitions, state):
    from judges import efficientnet_lite

    with pytest.raises(ValueError, match=r"15 weights are left over, first _blocks.2._bn0.bias"):
        efficientnet_lite.build(state, 16, definitions.strides[:2])
    del state["_blocks.2._bn1.bias"]
    with pytest.raises(KeyError, match="_blocks.2._bn1.bias"):
        efficientnet_lite.build(state, 16, definitions.strides)


# At an odd size, TensorFlow's "same" pads both sides. Without padding it is another network.
@pytest.mark.parametrize(
    ("size", "pads", "side"), [(16, [0, 0, 1, 1], 2), (17, [1, 1, 1, 1], 3), (19, [0, 0, 0, 0], 2)]
)
def test_nodes_of_onnx_equal_their_definition(definitions, network, size, pads, side):
    from judges import onnx_nodes

    nodes, weights = network
    nodes[2]["attributes"]["pads"] = pads
    nodes[8]["attributes"]["kernel_shape"] = [side, side]
    images = np.random.default_rng(1).integers(0, 256, (3, size, size, 3))
    model = onnx_nodes.build(nodes, weights, size)
    features, logits = definitions.residual(weights, images, pads)
    assert features.std() > 1
    np.testing.assert_allclose(model(images / 127.5 - 1), logits, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("number", "kind", "attributes"),
    [
        (0, "Transpose", {"perm": [0, 2, 3, 1]}),
        (1, "Conv", {"dilations": [2, 2]}),
        (1, "Conv", {"group": 3}),
        (1, "Conv", {"auto_pad": "SAME_LOWER"}),
        (2, "MaxPool", {"pads": [1, 1, 0, 0]}),
        (2, "MaxPool", {"ceil_mode": 1}),
        (2, "MaxPool", {"dilations": [2, 2]}),
        (5, "Relu", {"alpha": 0.1}),
        (5, "Sigmoid", {}),
        (8, "AveragePool", {"kernel_shape": [1, 1]}),
        (8, "AveragePool", {"pads": [0, 0, 1, 1]}),
        (11, "Gemm", {}),
        (13, "Softmax", {"axis": 0}),
    ],
)
def test_unknown_nodes_of_onnx_are_refused(network, number, kind, attributes):
    from judges import onnx_nodes

    nodes, weights = network
    nodes[number]["kind"] = kind
    nodes[number]["attributes"] |= attributes
    with pytest.raises(ValueError, match=f"{kind}.* not supported"):
        onnx_nodes.build(nodes, weights, 16)


@pytest.mark.parametrize(
    ("number", "inputs"),
    [(1, ["r", "k0", "b0"]), (6, ["r2", "p"]), (7, ["unknown"]), (9, ["m", "shape3"])],
)
def test_nodes_that_do_not_fit_together_are_refused(network, number, inputs):
    from judges import onnx_nodes

    nodes, weights = network
    weights["shape3"] = np.array([-1, 10])
    nodes[number]["inputs"] = inputs
    with pytest.raises(ValueError, match=f"{nodes[number]['kind']}.* not supported"):
        onnx_nodes.build(nodes, weights, 16)
