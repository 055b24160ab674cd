"""Tiny networks of the judges' kinds, and what they compute by their definitions, in NumPy."""

import types
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STRIDES = (1, 2, 1)


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def definitions():
    """The functions below that compute (features, logits) of images in [0,255]."""
    return types.SimpleNamespace(efficientnet=efficientnet, residual=residual, strides=STRIDES)


def windows(x, side, stride, pads, fill):
    """[B,H,W,C] -> [B,h,w,C,side,side] of images padded by (top, left, bottom, right)."""
    top, left, bottom, right = pads
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    found = np.lib.stride_tricks.sliding_window_view(x, (side, side), (1, 2))
    return found[:, ::stride, ::stride]


def convolve(x, kernel, stride=1, pads=(0, 0, 0, 0)):
    """A kernel [D,C,h,w]; [C,1,h,w] works on each channel alone."""
    found = windows(x, kernel.shape[-1], stride, pads, 0.0)
    if kernel.shape[1] == 1 < x.shape[-1]:
        return np.einsum("bhwcij,cij->bhwc", found, kernel[:, 0])
    return np.einsum("bhwcij,dcij->bhwd", found, kernel)


# EfficientNet-Lite --------------------------------------------------------------------------------


@pytest.fixture
def state():
    """A state as PyTorch names it: three blocks, of which the last has a shortcut."""
    random, found = np.random.default_rng(0), {}

    def convolution(name, norm, *shape):
        found[f"{name}.weight"] = random.normal(0, 2 / np.prod(shape[1:]) ** 0.5, shape)
        found[f"{norm}.weight"] = random.uniform(0.5, 1.5, shape[0])
        found[f"{norm}.bias"] = random.normal(0, 1, shape[0])
        found[f"{norm}.running_mean"] = random.normal(0, 0.2, shape[0])
        found[f"{norm}.running_var"] = random.uniform(0.02, 1, shape[0])
        found[f"{norm}.num_batches_tracked"] = np.int64(7)

    convolution("_conv_stem", "_bn0", 4, 3, 3, 3)
    convolution("_blocks.0._depthwise_conv", "_blocks.0._bn1", 4, 1, 3, 3)
    convolution("_blocks.0._project_conv", "_blocks.0._bn2", 2, 4, 1, 1)
    for number, inputs, inside, side in ((1, 2, 6, 5), (2, 3, 9, 3)):
        block = f"_blocks.{number}"
        convolution(f"{block}._expand_conv", f"{block}._bn0", inside, inputs, 1, 1)
        convolution(f"{block}._depthwise_conv", f"{block}._bn1", inside, 1, side, side)
        convolution(f"{block}._project_conv", f"{block}._bn2", 3, inside, 1, 1)
    convolution("_conv_head", "_bn1", 8, 3, 1, 1)
    found["_fc.weight"], found["_fc.bias"] = random.normal(0, 1, (5, 8)), random.normal(0, 1, 5)
    return {name: np.asarray(array, "float32") for name, array in found.items()}


def efficientnet(state, images):
    state = {name: array.astype("float64") for name, array in state.items()}

    def layer(x, name, norm, stride=1, relu=True):
        kernel = state[f"{name}.weight"]
        x = convolve(x, kernel, stride, same(x, kernel.shape[-1], stride))
        scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + 1e-3)
        x = (x - state[f"{norm}.running_mean"]) * scale + state[f"{norm}.bias"]
        return x.clip(0, 6) if relu else x

    x = layer((np.float64(images) - 127) / 128, "_conv_stem", "_bn0", 2)
    for number, stride in enumerate(STRIDES):
        block, start = f"_blocks.{number}", x
        if number:
            x = layer(x, f"{block}._expand_conv", f"{block}._bn0")
        x = layer(x, f"{block}._depthwise_conv", f"{block}._bn1", stride)
        x = layer(x, f"{block}._project_conv", f"{block}._bn2", relu=False)
        if number == 2:
            x = x + start
    features = layer(x, "_conv_head", "_bn1").mean((1, 2))
    return features, features @ state["_fc.weight"].T + state["_fc.bias"]


def same(x, side, stride):
    """TensorFlow's padding: ceil(size / stride) outputs, the larger half at the end."""
    totals = [max((-(-size // stride) - 1) * stride + side - size, 0) for size in x.shape[1:3]]
    return [total // 2 for total in totals] + [total - total // 2 for total in totals]


# ONNX ---------------------------------------------------------------------------------------------


def node(kind, inputs, output, **attributes):
    return {"kind": kind, "inputs": inputs, "outputs": [output], "attributes": attributes}


@pytest.fixture
def network():
    """(nodes, weights) of a residual network for images of 16 px."""
    random = np.random.default_rng(0)

    def draw(*shape):
        return random.normal(0, 1.5 / np.prod(shape[1:]) ** 0.5, shape).astype("float32")

    weights = {
        **{"k0": draw(6, 3, 7, 7), "b0": draw(6), "k1": draw(5, 6, 1, 1), "b1": draw(5)},
        **{"k2": draw(5, 6, 3, 3), "b2": draw(5), "product": draw(5, 4), "bias": draw(4)},
        **{"shape": np.array([-1, 1, 1, 5]), "shape2": np.array([-1, 5])},
    }
    first = {"pads": [3, 3, 3, 3], "auto_pad": "NOTSET", "dilations": [1, 1]}
    nodes = [
        node("Transpose", ["images"], "t", perm=[0, 3, 1, 2]),
        node("Conv", ["t", "k0", "b0"], "c0", strides=[2, 2], kernel_shape=[7, 7], **first),
        node("MaxPool", ["c0"], "p", strides=[2, 2], kernel_shape=[3, 3], pads=[0, 0, 1, 1]),
        node("Conv", ["p", "k1", "b1"], "c1", strides=[2, 2], kernel_shape=[1, 1]),
        node("Conv", ["p", "k2", "b2"], "c2", strides=[2, 2], pads=[0, 1, 2, 1]),
        node("Relu", ["c2"], "r2"),
        node("Add", ["r2", "c1"], "a"),
        node("Relu", ["a"], "r"),
        node("AveragePool", ["r"], "m", kernel_shape=[2, 2], strides=[1, 1]),
        node("Reshape", ["m", "shape"], "f4"),
        node("Reshape", ["f4", "shape2"], "f"),
        node("MatMul", ["f", "product"], "d"),
        node("Add", ["d", "bias"], "l"),
        node("Softmax", ["l"], "out", axis=1),
    ]
    return nodes, weights


def residual(weights, images, pads=(0, 0, 1, 1)):
    """`pads` are those of the maximum."""
    w = {name: array.astype("float64") for name, array in weights.items()}
    x = np.float64(images)[..., ::-1] - [104, 117, 123]
    x = convolve(x, w["k0"], 2, (3, 3, 3, 3)) + w["b0"]
    x = windows(x, 3, 2, pads, -np.inf).max((-2, -1))
    short = convolve(x, w["k1"], 2) + w["b1"]
    x = np.maximum(convolve(x, w["k2"], 2, (0, 1, 2, 1)) + w["b2"], 0)
    features = np.maximum(x + short, 0).mean((1, 2))
    return features, features @ w["product"] + w["bias"]
