"""Graphs that do more than a feature network: each is refused by name, and nothing runs."""

import os
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from vim_tf.errors import UserError
from vim_tf.evaluation import graph_checks
from vim_tf.evaluation.features import open_extractor

FLOAT, STRING = tf.float32.as_datatype_enum, tf.string.as_datatype_enum


@pytest.fixture
def net(tmp_path, write_frozen_graph):
    """(path of a valid graph, the graph)."""
    path = tmp_path / "net.pb"
    return path, write_frozen_graph(path)


def node_of(graph, name):
    return next(node for node in graph.node if node.name == name)


def refused(path, message, **options):
    with pytest.raises(UserError, match=message) as caught:
        open_extractor(path, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 2_000
    assert str(path) in str(caught.value)


def add_constant(graph, name, value):
    node = graph.node.add(name=name, op="Const")
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    node.attr["dtype"].type = node.attr["value"].tensor.dtype


# Operations ---------------------------------------------------------------------------------------


def write_attack(path, graph, target):
    """Adds WriteFile before the first layer; loading it once replaced the module argparse."""
    add_constant(graph, "target", str(target).encode())
    add_constant(graph, "code", b"print('not argparse')")
    graph.node.add(name="attack", op="WriteFile", input=["target", "code"])
    node_of(graph, "Mul").input.append("^attack")
    path.write_bytes(graph.SerializeToString())


def test_a_graph_that_writes_a_module_is_refused(net, monkeypatch):
    path, graph = net
    folder = path.parent
    monkeypatch.chdir(folder)
    write_attack(path, graph, folder / "argparse.py")
    # Shows that it is an attack: TensorFlow itself runs the operation.
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.import_graph_def(graph, name="")
        session.run("attack")
    assert (folder / "argparse.py").read_text() == "print('not argparse')"
    (folder / "argparse.py").unlink()
    refused(path, r"has the operation WriteFile \(node attack\), which is not among the")
    refused(path, "has the SHA-256 .*, not 12ab as extractor_hash says", expected_hash="12ab")
    assert [entry.name for entry in folder.iterdir()] == ["net.pb"]


@pytest.mark.parametrize("name", ["net.pb", "net.keras"])
def test_another_hash_is_found_before_anything_is_parsed(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xff" * 100)
    refused(tmp_path / name, "has the SHA-256 .*, not 12ab", expected_hash="12ab")


@pytest.mark.parametrize(
    "op",
    [
        "ReadFile", "PyFunc", "EagerPyFunc", "While", "StatelessIf", "Switch", "Merge", "Enter",
        "PartitionedCall", "StatefulPartitionedCall", "FIFOQueueV2", "VarHandleOp", "VariableV2",
        "Print", "RandomUniform", "StringJoin", "DecodeRaw", "Fill", "Tile", "Range", "Pad",
        "Assert", "RestoreV2", "SaveV2", "ParseTensor", "no such\x1b[31m operation" + 999 * "x",
    ],
)  # fmt: skip
def test_other_operations_are_refused_by_name(net, op):
    path, graph = net
    graph.node.add(name="odd", op=op)
    path.write_bytes(graph.SerializeToString())
    refused(path, "has the operation " + (op if op.isalnum() else r"no such\\x1b\[31m operationx"))


def test_functions_are_refused(net):
    path, graph = net
    graph.library.function.add().signature.name = "f"
    path.write_bytes(graph.SerializeToString())
    refused(path, "holds functions")


def test_what_lies_before_the_input_is_not_needed(net):
    """DecodeJpeg passes, because it is never computed."""
    path, graph = net
    node_of(graph, "Sub").input[0] = "ExpandDims_1"
    graph.node.add().CopyFrom(node_of(graph, "ExpandDims"))
    graph.node[-1].name = "ExpandDims_1"
    path.write_bytes(graph.SerializeToString())
    refused(
        path, r"DecodeJpeg \(DecodeJpeg\) is needed for pool_3 and bypasses the input ExpandDims"
    )


def test_a_batch_norm_in_training_is_refused(net):
    path, graph = net
    node_of(graph, "mixed_6/conv/batchnorm").op = "FusedBatchNormV3"
    path.write_bytes(graph.SerializeToString())
    refused(path, "is in training mode; give a frozen graph")


# Nodes --------------------------------------------------------------------------------------------


def twice(graph):
    graph.node.add().CopyFrom(graph.node[0])


def missing(graph):
    node_of(graph, "Sub").input[0] = "nowhere"


def circle(graph):
    node_of(graph, "Sub").input[0] = "pool_3"


def computed_size(graph):
    node = graph.node.add(name="size", op="Identity", input=["pool_3/_reshape/shape"])
    node.attr["T"].type = tf.int32.as_datatype_enum
    node_of(graph, "pool_3/_reshape").input[1] = "size"


def name_of_megabytes(graph):
    graph.node.add(name="x" * 10**6, op="NoOp")


def name_with_codes(graph):
    graph.node.add(name="x\x1b[31m", op="NoOp")


def attributes(graph):
    for i in range(1001):
        graph.node[0].attr[f"a{i}"].i = 1


def function_attribute(graph):
    graph.node[0].attr["f"].func.name = "f"


def strides(graph):
    node_of(graph, "last").attr["strides"].list.i[:] = [1, 2**40, 1, 1]


def many_nodes(graph):
    for i in range(5001):
        graph.node.add(name=f"n{i}", op="NoOp")


def other_batch_norm(graph):
    del node_of(graph, "mixed_6/conv/batchnorm").input[2:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (twice, "occurs twice"),
        (missing, r'node Sub \(Sub\) takes "nowhere", which does not exist'),
        (circle, "has a cycle at node "),
        (computed_size, "pool_3/_reshape .*must take its size or axis from a constant"),
        (name_of_megabytes, "x characters|no valid name"),
        (name_with_codes, r"called .x.*31m.; that is no valid name"),
        (attributes, "has more than 1,000 inputs or attributes"),
        (function_attribute, "has an attribute f that is not allowed"),
        (strides, "has an attribute strides that is not allowed"),
        (many_nodes, "has more than 5,000 nodes"),
        (other_batch_norm, "cannot be run"),
    ],
)
def test_nodes_that_are_no_nodes_are_refused(net, change, message):
    path, graph = net
    change(graph)
    path.write_bytes(graph.SerializeToString())
    refused(path, message)


def test_a_damaged_graph_is_refused(net):
    path, graph = net
    whole = path.read_bytes()
    for data in (whole[:-3], b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0b" + whole):
        path.write_bytes(data)
        refused(path, "is no TensorFlow graph, or is damaged")


def test_small_fields_do_not_become_many_objects(net):
    """Each has two bytes, but takes a hundred after parsing."""
    path, _ = net
    path.write_bytes(b"\x0a\x00" * 2**24)
    start = time.time()
    refused(path, "no valid name|more than 5,000 nodes")
    assert time.time() - start < 5


# Memory -------------------------------------------------------------------------------------------


def test_a_constant_must_hold_its_values(net):
    path, graph = net
    tensor = node_of(graph, "softmax/weights").attr["value"].tensor
    tensor.Clear()
    tensor.dtype = FLOAT
    tensor.float_val.append(1)
    for sizes in ([10**9], [2**31, 2**31], [2**20, 2]):
        del tensor.tensor_shape.dim[:]
        for size in sizes:
            tensor.tensor_shape.dim.add(size=size)
        path.write_bytes(graph.SerializeToString())
        refused(
            path, r"softmax/weights \(Const\) has the shape \[.*\] and 1 values; both must agree"
        )
    tensor.tensor_shape.dim[0].size = -5
    path.write_bytes(graph.SerializeToString())
    refused(path, r"has the shape \[-5")


def test_one_value_may_stand_for_a_few(net):
    path, graph = net
    images = np.zeros((2, 20, 24, 3), "uint8")
    beta = node_of(graph, "mixed_6/conv/batchnorm/beta").attr["value"].tensor
    beta.CopyFrom(tf.make_tensor_proto(np.full(8, 0.5, "float32")))
    path.write_bytes(graph.SerializeToString())
    expected = open_extractor(path)(images).pooled
    shape = tf.TensorShape([8]).as_proto()
    beta.CopyFrom(tf.make_tensor_proto(0.5, tf.float32))
    beta.tensor_shape.CopyFrom(shape)
    path.write_bytes(graph.SerializeToString())
    np.testing.assert_array_equal(open_extractor(path)(images).pooled, expected)


def reshape(graph, source, shape, name):
    add_constant(graph, f"{name}/shape", np.array(shape, "int32"))
    node = graph.node.add(name=name, op="Reshape", input=[source, f"{name}/shape"])
    node.attr["T"].type = FLOAT


def add(graph, op, name, *sources):
    graph.node.add(name=name, op=op, input=sources).attr["T"].type = FLOAT
    return name


def outer_sum(graph):
    """[n,1] + [1,n], twice: n is 3,255, so the sum has ten million elements."""
    for source, name in (("Sub", "outer"), ("outer", "more")):
        reshape(graph, source, [-1, 1], f"{name}/column")
        reshape(graph, source, [1, -1], f"{name}/row")
        add(graph, "AddV2", name, f"{name}/column", f"{name}/row")
    return "more"


def large_window(graph):
    reshape(graph, "Sub", [-1, 1], "column")
    reshape(graph, "Sub", [1, -1], "row")
    reshape(graph, add(graph, "MatMul", "product", "column", "row"), [1, 3255, 3255, 1], "image")
    add(graph, "AvgPool", "pool", "image")
    node = node_of(graph, "pool")
    for key, value in (("ksize", [1, 2000, 2000, 1]), ("strides", [1, 1, 1, 1])):
        node.attr[key].list.i[:] = value
    node.attr["padding"].s = b"SAME"
    return "pool"


def mixed_images(graph):
    reshape(graph, "Sub", [1, -1, 31, 3], "mixed")
    return "mixed"


def squared_batch(graph):
    """[B,1] times [1,B]."""
    reshape(graph, "Sub", [-1, 3255], "flat")
    for axis, name in ((1, "a"), (0, "b")):
        add_constant(graph, f"{name}/axis", np.array([axis], "int32"))
        node = graph.node.add(name=name, op="Mean", input=["flat", f"{name}/axis"])
        node.attr["T"].type, node.attr["Tidx"].type = FLOAT, tf.int32.as_datatype_enum
        node.attr["keep_dims"].b = True
    reshape(graph, "a", [1, -1], "turned")
    return add(graph, "MatMul", "square", "a", "turned")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (outer_sum, r"more \(AddV2\) gives \[10595025, 10595025\] for one image"),
        (large_window, "multiplications for one image; at most"),
        (
            mixed_images,
            r"mixes images: mixed gives \[1, 35, 31, 3\] for one image and \[1, 70, 31, 3\]",
        ),
        (squared_batch, r"mixes images: turned gives \[1, 1\] for one image and \[1, 2\] for two"),
    ],
)
def test_memory_and_work_are_known_before_anything_runs(net, make, message):
    path, graph = net
    node_of(graph, "Mul").input.append(f"^{make(graph)}")
    path.write_bytes(graph.SerializeToString())
    start = time.time()
    refused(path, message)
    assert time.time() - start < 30


def test_images_go_to_the_resize_alone(net):
    path, graph = net
    node_of(graph, "ResizeBilinear").op = "MatMul"
    path.write_bytes(graph.SerializeToString())
    refused(path, "ResizeBilinear .* takes ExpandDims; only ResizeBilinear may take the images")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (np.array([2049, 9], "int32"), r"resizes to \[2049, 9\] pixels; at most 2,048"),
        (np.array([0, 9], "int32"), r"ResizeBilinear/size is \[0 9\]"),
        (np.array([9], "int32"), r"ResizeBilinear/size is \[9\]"),
        (np.array([9.0, 9.0], "float32"), r"ResizeBilinear/size is \[9. 9.\]"),
    ],
)
def test_other_sizes_are_refused(net, size, message):
    path, graph = net
    tensor = node_of(graph, "ResizeBilinear/size").attr["value"].tensor
    tensor.CopyFrom(tf.make_tensor_proto(size))
    node_of(graph, "ResizeBilinear/size").attr["dtype"].type = tensor.dtype
    path.write_bytes(graph.SerializeToString())
    refused(path, message)


def test_logits_must_come_from_a_matrix(net):
    path, graph = net
    node_of(graph, "softmax/logits/MatMul").attr["transpose_b"].b = True
    path.write_bytes(graph.SerializeToString())
    refused(path, "softmax/logits/MatMul does not multiply by a matrix")


# Files --------------------------------------------------------------------------------------------


def test_a_pipe_is_refused(tmp_path):
    for name in ("net.pb", "net.keras"):
        os.mkfifo(tmp_path / name)
    refused(tmp_path / "net.pb", "no regular file")
    with pytest.raises(UserError, match="no classifier"):
        open_extractor(tmp_path / "net.keras")


def test_files_above_512_mib_are_not_read(tmp_path):
    for name in ("net.pb", "net.keras"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(2**29 + 1)  # without using space on the disk
        refused(tmp_path / name, "has 536,870,913 bytes; a network may have 512 MiB")


def test_the_graph_that_passes_is_not_changed_but_for_notes(net):
    path, graph = net
    read = graph_checks.read_graph(path.read_bytes(), "x")
    for node in graph.node:
        node.device = ""
        for key in [key for key in node.attr if key.startswith("_")]:
            del node.attr[key]
    assert list(read.node) == list(graph.node)
    assert isinstance(read, graph_pb2.GraphDef)


def test_logits_must_not_come_from_the_images(net):
    path, graph = net
    node_of(graph, "softmax/logits/MatMul").input[1] = "Sub"
    path.write_bytes(graph.SerializeToString())
    refused(path, "computes the matrix of softmax/logits/MatMul from the images")


def test_a_damaged_matrix_is_refused(net):
    path, graph = net
    tensor = node_of(graph, "softmax/weights").attr["value"].tensor
    tensor.CopyFrom(tf.make_tensor_proto(np.full((6, 5), np.nan, "float32")))
    path.write_bytes(graph.SerializeToString())
    refused(path, "has NaN or infinity in the matrix of softmax/logits/MatMul")
