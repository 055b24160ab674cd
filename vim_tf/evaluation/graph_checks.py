"""Checks of an untrusted TensorFlow graph, made before it is passed to TensorFlow.

A graph is a program: TensorFlow has operations that write files, run Python or never end. So only
the operations of networks like the FID Inception are allowed. All of them only compute. But even
they can need any amount of memory or time, so there are limits. `read_graph` and `cut_out` check
the nodes, `check_tensors` checks the shapes and the work of one image.
"""

import graphlib
import math
import re
from collections.abc import Iterable, Iterator, Sequence

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import attr_value_pb2, graph_pb2, node_def_pb2

from vim_tf.annotations import Tensor
from vim_tf.errors import UserError
from vim_tf.messages import shorten, show

# Functions of TensorFlow no longer have it; a session of an old graph still does.
OLD_BATCH_NORM = "BatchNormWithGlobalNormalization"
# These are never computed: they are before the input.
NEVER_RUN = {"DecodeJpeg", "Placeholder"}
ALLOWED = NEVER_RUN | {
    "Add", "AddV2", "AvgPool", OLD_BATCH_NORM, "BiasAdd", "Cast", "CheckNumerics", "Concat",
    "ConcatV2", "Const", "Conv2D", "DepthwiseConv2dNative", "ExpandDims", "FusedBatchNorm",
    "FusedBatchNormV2", "FusedBatchNormV3", "Identity", "LRN", "MatMul", "MaxPool", "Maximum",
    "Mean", "Minimum", "Mul", "Neg", "NoOp", "RealDiv", "Relu", "Relu6", "Reshape",
    "ResizeBilinear", "Rsqrt", "Sigmoid", "Softmax", "Sqrt", "Square", "Squeeze", "Sub", "Tanh",
}  # fmt: skip
# Indices of the inputs that determine a shape. These inputs must be constants. Otherwise TensorFlow
# would compute them to infer the shape, before their cost can be checked.
SIZES = {"Concat": 0, "ConcatV2": -1, "ExpandDims": 1, "Mean": 1, "Reshape": 1, "ResizeBilinear": 1}
TYPES = {tf.float32, tf.int32, tf.int64, tf.uint8, tf.string}

MOST_NODES = 5_000
MOST_NODE_BYTES = 2**25  # serialized; the node of the FID Inception's largest matrix has 2^23
MOST_ENTRIES = 1_000  # inputs, attributes or characters of a name
MOST_NUMBER = 2_048  # of strides, windows and similar
MOST_CONSTANT_BYTES = 2**29  # of all constants
MOST_REPEATED = 2**16  # elements of a constant that is shorter than its shape
MOST_ELEMENTS = 2**26  # of any tensor of one image
MOST_IN_ALL = 2**28  # of all tensors of one image
MOST_OPERATIONS = 10**12  # multiplications for one image; the FID Inception takes 6 * 10^9

_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")
_NODES, _LIBRARY = 1, 2  # fields of a GraphDef


# Nodes --------------------------------------------------------------------------------------------


def read_graph(data: bytes, name: str) -> graph_pb2.GraphDef:
    """Parses a GraphDef and checks all of its nodes.

    Args:
        data: its bytes.
        name: its name in errors.

    Returns:
        A `GraphDef` of nodes without devices, and without attributes that are only notes.

    Raises:
        UserError: the bytes are no graph, an operation is not allowed, or a node is not valid.
    """
    graph = graph_pb2.GraphDef()
    total = 0
    for number, content in _split(data, name):
        if number == _LIBRARY and content:
            raise UserError(f"{name} holds functions, which are refused; give a frozen graph")
        if number != _NODES:
            continue
        if len(content) > MOST_NODE_BYTES:
            raise UserError(
                f"{name} has a node of {len(content):,} bytes; at most 2^25 are allowed"
            )
        try:
            found = node_def_pb2.NodeDef.FromString(bytes(content))
        except DecodeError:
            raise _no_graph(name) from None
        node = graph.node.add(name=found.name, op=found.op, input=found.input)
        for key, value in found.attr.items():
            if not key.startswith("_"):
                node.attr[key].CopyFrom(value)
        total += _check_node(node, name)
        if total > MOST_CONSTANT_BYTES:
            raise UserError(f"{name} has more than 512 MiB of constants; that is the limit")
    _check_connections(graph, name)
    return graph


def _split(message: bytes, name: str) -> Iterator[tuple[int, memoryview]]:
    """Yields (number, bytes) of the fields of a message.

    This allows the nodes to be parsed one by one: a parsed message can take fifty times its bytes.
    """
    data, place, fields = memoryview(message), 0, 0
    while place < len(data):
        key, place = _read_varint(data, place, name)
        length = {1: 8, 5: 4}.get(key & 7, 0)  # depends on the kind of the field
        if key & 7 == 2:
            length, place = _read_varint(data, place, name)
        elif key & 7 == 0:
            _, place = _read_varint(data, place, name)
        elif not length:
            raise _no_graph(name)
        if place + length > len(data):
            raise _no_graph(name)
        yield key >> 3, data[place : place + length]
        place += length
        fields += 1
        if fields > MOST_NODES:
            raise UserError(f"{name} has more than {MOST_NODES:,} nodes; that is the limit")


def _read_varint(data: memoryview, place: int, name: str) -> tuple[int, int]:
    """Returns (the number at a place, the place after it)."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        byte, place = data[place], place + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise _no_graph(name)


def _no_graph(name: str) -> UserError:
    return UserError(f"{name} is no TensorFlow graph, or is damaged")


def _check_node(node: node_def_pb2.NodeDef, name: str) -> int:
    """Checks a node; returns the bytes of its value if it is a constant, otherwise 0."""
    # The name is checked first, because the other messages show it.
    if len(node.name) > MOST_ENTRIES or not _NAME.fullmatch(node.name):
        raise UserError(f"{name} has a node called {show(node.name)}; that is no valid name")
    if node.op not in ALLOWED:
        raise UserError(
            f"{name} has the operation {shorten(node.op)} (node {shorten(node.name)}), which is "
            f"not among the {len(ALLOWED)} that are allowed; nothing of the graph was run"
        )
    if max(len(node.input), len(node.attr), *map(len, node.input), 0) > MOST_ENTRIES:
        raise _bad_node(name, node, f"has more than {MOST_ENTRIES:,} inputs or attributes")
    for key, value in node.attr.items():
        if not _is_allowed(node.op, key, value):
            raise _bad_node(name, node, f"has an attribute {shorten(key)} that is not allowed")
    if node.op.startswith("FusedBatchNorm") and (
        "is_training" not in node.attr or node.attr["is_training"].b
    ):
        raise _bad_node(name, node, "is in training mode; give a frozen graph")
    return _check_constant(node, name) if node.op == "Const" else 0


def _bad_node(name: str, node: node_def_pb2.NodeDef, what: str) -> UserError:
    return UserError(f"{name}: node {shorten(node.name)} ({node.op}) {what}")


def _is_allowed(op: str, key: str, value: attr_value_pb2.AttrValue) -> bool:
    kind = value.WhichOneof("value")
    if kind == "type":
        return value.type in {dtype.as_datatype_enum for dtype in TYPES}
    if kind == "i":
        return 0 <= value.i <= MOST_NUMBER
    if kind == "s":
        return len(value.s) <= MOST_ENTRIES
    if kind == "list":
        few = len(value.list.i) <= 16
        others = any(len(part) for field, part in value.list.ListFields() if field.name != "i")
        return few and not others and all(-16 <= i <= MOST_NUMBER for i in value.list.i)
    if kind == "shape":
        return op == "Placeholder" and len(value.shape.dim) <= 16
    if kind == "tensor":
        return (op, key) == ("Const", "value")
    return kind in ("f", "b")


def _check_constant(node: node_def_pb2.NodeDef, name: str) -> int:
    tensor = node.attr["value"].tensor
    dtype = node.attr["dtype"].type
    sizes = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.dtype != dtype or not dtype or tensor.tensor_shape.unknown_rank or len(sizes) > 8:
        raise _bad_node(name, node, "is no constant of one type and a known shape")
    if any(size < 0 for size in sizes):
        raise _bad_node(name, node, f"has the shape {shorten(str(sizes))}, with a negative size")
    count = math.prod(sizes)
    if dtype == tf.string.as_datatype_enum:
        size = sum(map(len, tensor.string_val)) + len(tensor.tensor_content)
        if count > 1 or len(tensor.string_val) > 1 or size > 2**20:
            raise _bad_node(
                name, node, "holds more than one text, or a text of more than 2^20 bytes"
            )
        return size
    width = tf.as_dtype(dtype).size
    values = {field.name: part for field, part in tensor.ListFields()}
    for key in ("dtype", "tensor_shape", "version_number"):
        values.pop(key, None)
    if set(values) <= {"tensor_content"}:
        there = len(tensor.tensor_content) / width
        fits = there == count
    else:
        there = max(len(part) if hasattr(part, "__len__") else 0 for part in values.values())
        fits = len(values) == 1 and (there == count or there < count <= MOST_REPEATED)
    if not fits:
        raise _bad_node(
            name,
            node,
            f"has the shape {shorten(str(sizes))} and {there:,g} values; both must agree",
        )
    return count * width


def _check_connections(graph: graph_pb2.GraphDef, name: str) -> None:
    nodes = {}
    for node in graph.node:
        if node.name in nodes:
            raise _bad_node(name, node, "occurs twice")
        nodes[node.name] = node
    for node in graph.node:
        for source in map(source_of, node.input):
            if source not in nodes:
                raise _bad_node(name, node, f"takes {show(source)}, which does not exist")
        place = SIZES.get(node.op)
        if place is not None:
            data = [source for source in node.input if not source.startswith("^")]
            if not -len(data) <= place < len(data) or nodes[source_of(data[place])].op != "Const":
                raise _bad_node(name, node, "must take its size or axis from a constant")
    try:
        tuple(
            graphlib.TopologicalSorter(
                {node.name: set(map(source_of, node.input)) for node in graph.node}
            ).static_order()
        )
    except graphlib.CycleError as error:
        raise UserError(f"{name} has a cycle at node {shorten(error.args[1][0])}") from None


def source_of(text: str) -> str:
    """Returns the name of the node that an input comes from: "x" for "x", "x:1" and "^x"."""
    return text.removeprefix("^").partition(":")[0]


def cut_out(
    graph: graph_pb2.GraphDef, entry: str, outputs: Sequence[str], name: str
) -> graph_pb2.GraphDef:
    """Returns the part of a graph that some nodes need, without the nodes before an entry.

    Args:
        graph: the result of `read_graph`.
        entry: name of the node whose output is the input of the part. The part does not contain it.
        outputs: names of the wanted nodes.
        name: the graph's name in errors.

    Raises:
        UserError: images would go to an operation other than a resize.
    """
    nodes = {node.name: node for node in graph.node}
    needed, waiting = set(), [*outputs]
    while waiting:
        node = nodes[waiting.pop()]
        if node.name in needed or node.name == entry:
            continue
        needed.add(node.name)
        if node.op in NEVER_RUN:
            raise _bad_node(
                name, node, f"is needed for {outputs[0]} and bypasses the input {entry}"
            )
        sources = list(map(source_of, node.input))
        # After a resize, all tensors have the same size for images of any size.
        if entry in sources and (node.op != "ResizeBilinear" or sources.index(entry) != 0):
            raise _bad_node(name, node, f"takes {entry}; only ResizeBilinear may take the images")
        waiting += sources
    part = graph_pb2.GraphDef(versions=graph.versions)
    part.node.extend(node for node in graph.node if node.name in needed)
    return part


# Shapes -------------------------------------------------------------------------------------------


def check_tensors(operations: Iterable[tf.Operation], name: str) -> dict[str, list[list[int]]]:
    """Checks how much memory and work one image takes.

    Args:
        operations: all `tf.Operation` of a graph whose input is one image.
        name: the graph's name in errors.

    Returns:
        {name of an operation: list of the shapes of its outputs}.

    Raises:
        UserError: a shape is not known, or there are more elements or more work than allowed.
    """
    shapes, elements, work = {}, 0, 0
    for operation in operations:
        # The last output of a batch norm has no known shape; it is only for training.
        outputs = operation.outputs[:5] if "BatchNorm" in operation.type else operation.outputs
        found = [_shape_of(tensor, operation, name) for tensor in outputs]
        shapes[operation.name] = found
        elements += sum(map(math.prod, found))
        work += _multiplications(operation)
    if elements > MOST_IN_ALL or work > MOST_OPERATIONS:
        raise UserError(
            f"{name} takes {elements:,} values and {work:.2g} multiplications for one image; at "
            f"most {MOST_IN_ALL:,} and {MOST_OPERATIONS:.2g} are allowed"
        )
    return shapes


def _shape_of(tensor: Tensor, operation: tf.Operation, name: str) -> list[int]:
    what = f"{name}: {shorten(operation.name)} ({operation.type}) gives"
    if not tensor.shape.is_fully_defined():
        raise UserError(f"{what} a tensor whose shape is not known from the graph")
    shape = tensor.shape.as_list()
    least = 0 if operation.type in ("Const", "Shape") else 1  # the shape of a scalar has no values
    if not least <= math.prod(shape) <= MOST_ELEMENTS:
        raise UserError(f"{what} {shape} for one image; it must be 1 to {MOST_ELEMENTS:,} values")
    return shape


def _multiplications(operation: tf.Operation) -> int:
    """Returns an upper bound; 0 for operations that do no more work than they have values."""
    kinds = ("Conv2D", "Conv2d", "Pool", "MatMul", "Einsum", "LRN")
    if not any(kind in operation.type for kind in kinds):
        return 0
    inputs = [math.prod(tensor.shape.as_list()) for tensor in operation.inputs]
    made = math.prod(operation.outputs[0].shape.as_list())
    if "Conv2D" in operation.type or "Conv2d" in operation.type:
        window = operation.inputs[1].shape.as_list()
        if operation.type == "DepthwiseConv2dNative":
            return made * window[0] * window[1]
        if operation.type == "Conv2DBackpropInput":
            return inputs[2] * math.prod(window[:3])
        return made * math.prod(window[:3])
    if "Pool" in operation.type:
        return made * math.prod(operation.get_attr("ksize"))
    if "MatMul" in operation.type or operation.type == "Einsum":
        # [a,c] by [c,b] takes abc, the root of ac * cb * ab; batches take more.
        return math.isqrt(math.prod(inputs) * made)
    return made * (2 * operation.get_attr("depth_radius") + 1)
