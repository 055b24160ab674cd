"""A small random graph with the tensor names and old operations of the FID Inception."""

import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture(scope="session")
def write_frozen_graph():
    """Gives tests the function below, as they cannot import from a test directory."""
    return make_frozen_graph


def make_frozen_graph(path, dim=6, spatial=8, classes=5, size=(35, 31), scaled=False):
    """Writes a graph with the names of the FID Inception and returns its GraphDef.

    We may not distribute the real weights, so this is a small copy of their graph: a JPEG
    decoder in front, shapes for one image, the batch normalisation that TensorFlow dropped in
    version 9, its check for NaN, and a logits matrix after a reshape to one row.
    """
    rng = np.random.default_rng(0)
    raw, v1 = tf.raw_ops, tf.compat.v1

    def normal(*shape):
        return rng.normal(size=shape).astype("float32")

    with tf.Graph().as_default() as building:
        contents = v1.constant(b"", name="DecodeJpeg/contents")
        x = raw.DecodeJpeg(contents=contents, channels=3, name="DecodeJpeg")
        x = raw.Cast(x=x, DstT=tf.float32, name="Cast")
        x = raw.ExpandDims(input=x, axis=0, name="ExpandDims")
        x = raw.ResizeBilinear(images=x, size=list(size), name="ResizeBilinear")
        x = raw.Sub(x=x, y=128.0, name="Sub")
        x = raw.Mul(x=x, y=0.0078125, name="Mul")
        raw.Conv2D(
            input=x, filter=normal(5, 5, 3, spatial), strides=[1, 4, 4, 1], padding="SAME",
            name="mixed_6/conv/Conv2D",
        )  # fmt: skip
        for name in ("mean", "variance", "beta", "gamma"):
            value = 0.5 + np.abs(normal(spatial))
            v1.constant(value, name=f"mixed_6/conv/batchnorm/{name}")
    graph = building.as_graph_def(add_shapes=True)
    prefix = "mixed_6/conv/batchnorm"
    node = graph.node.add(name=prefix, op="BatchNormWithGlobalNormalization")
    parts = ("mean", "variance", "beta", "gamma")
    node.input.extend(["mixed_6/conv/Conv2D", *(f"{prefix}/{part}" for part in parts), "^Mul"])
    node.attr["T"].type = 1
    node.attr["variance_epsilon"].f = 0.25
    node.attr["scale_after_normalization"].b = scaled
    side = [-(-length // 4) for length in size]
    with tf.Graph().as_default() as building:
        x = v1.placeholder(tf.float32, [1, *side, spatial], name=prefix)
        check = raw.CheckNumerics(tensor=x, message="batchnorm", name="mixed_6/conv/check")
        x = raw.Relu(features=check, name="mixed_6/conv")
        x = raw.Conv2D(
            input=x, filter=normal(1, 1, spatial, dim), strides=[1, 1, 1, 1], padding="SAME",
            name="last",
        )  # fmt: skip
        window = [1, *side, 1]
        x = raw.AvgPool(value=x, ksize=window, strides=window, padding="VALID", name="pool_3")
        x = raw.Reshape(tensor=x, shape=[1, dim], name="pool_3/_reshape")
        matrix = v1.constant(normal(dim, classes), name="softmax/weights")
        x = raw.MatMul(a=x, b=matrix, name="softmax/logits/MatMul")
        x = raw.BiasAdd(value=x, bias=normal(classes), name="softmax/logits")
        raw.Softmax(logits=x, name="softmax")
    rest = building.as_graph_def(add_shapes=True)
    graph.node.extend(node for node in rest.node if node.name != prefix)
    graph.versions.producer, graph.versions.min_consumer = 8, 0
    path.write_bytes(graph.SerializeToString())
    return graph
