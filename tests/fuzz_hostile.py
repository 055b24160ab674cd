"""Files that a stranger made by a program, not by damage: graphs, Keras archives, images, records.

They stay readable up to a point, so that the checks behind the first one are reached.
"""

import functools
import io
import json
import struct

import fuzz_mutations as mutations
from fuzz_kinds import Kind, Wrong, members_once
from fuzz_world import IMAGE_FORMATS

NUMBERS = (0, 1, -1, -16, -2, 2, 3, 7, 35, 2048, 2**40)
TF = {"tensorflow": True}

# Graphs ---------------------------------------------------------------------------------------

# Operations that only compute, and some that do harm.
OPERATIONS = (
    *("Identity", "Relu", "Conv2D", "MatMul", "Reshape", "Mean", "Concat", "Const", "Cast", "Mul"),
    *("ResizeBilinear", "MaxPool", "AvgPool", "Squeeze", "NoOp", "Placeholder", "DecodeJpeg"),
    *("WriteFile", "ReadFile", "PyFunc", "PrintV2", "While", "Fill", "Tile", "Abort", "Save"),
)


def draw_nodes(world, rng):
    """Changes of nodes: [name, node, more numbers], for `change_nodes`."""
    changes = []
    for _ in range(rng.choice([1, 1, 2, 4])):
        kind, node = rng.randrange(5), rng.randrange(64)
        if kind == 0:
            changes.append(["attribute", node, rng.randrange(8), rng.choice(NUMBERS)])
        elif kind == 1:
            changes.append(["input", node, rng.randrange(64), rng.randrange(5)])
        elif kind == 2:
            changes.append(["operation", node, rng.choice(OPERATIONS)])
        elif kind == 3:
            shape = [rng.choice([0, 1, 2, 3, 8, 35]) for _ in range(rng.randrange(5))]
            changes.append(["constant", node, shape, rng.choice([0, -1, 1, 2, 1000])])
        else:
            changes.append(["write", node])
    return changes


def change_nodes(live, changes):
    """Writes a graph that can still be parsed."""
    import tensorflow as tf

    graph = tf.compat.v1.GraphDef.FromString(live.read("net.pb"))
    for name, place, *rest in changes:
        _NODES[name](graph, graph.node[place % len(graph.node)], *rest)
    live.write("net.pb", graph.SerializeToString())


def _attribute(graph, node, place, number):
    names = [*sorted(node.attr), "strides", "ksize", "dilations", "N", "T"]
    value = node.attr[names[place % len(names)]]
    kind = value.WhichOneof("value") or "list"
    if kind == "list":
        value.list.i.append(number)
    elif kind == "s":
        value.s = (b"", b"VALID", b"SAME", b"NCHW", b"EXPLICIT", b"%s%n")[number % 6]
    elif kind in ("i", "type"):
        setattr(value, kind, min(abs(number), 2048) % (24 if kind == "type" else 2049))
    elif kind == "f":
        value.f = (0, -1, 1e30, float("nan"))[number % 4]
    elif kind == "b":
        value.b = not value.b


def _input(graph, node, other, kind):
    name = graph.node[other % len(graph.node)].name + ("", "", ":1", ":99", "")[kind]
    if kind == 4 and node.input:
        node.input.pop()
    elif node.input and kind:
        node.input[other % len(node.input)] = name
    else:
        node.input.append(name)


def _operation(graph, node, name):
    node.op = name


def _constant(graph, node, shape, fill):
    import numpy as np
    import tensorflow as tf

    dtype = ("float32", "int32", "int64")[sum(shape) % 3]
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.full(shape, fill, dtype)))
    node.attr["dtype"].type = node.attr["value"].tensor.dtype


def _write_file(graph, node):
    """Lets a node wait for one that writes a file: the network would run it."""
    import tensorflow as tf

    for name in ("canary", "contents"):
        new = graph.node.add(name=name, op="Const")
        new.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(name))
        new.attr["dtype"].type = tf.string.as_datatype_enum
    graph.node.add(name="write", op="WriteFile", input=["canary", "contents"])
    node.input.append("^write")


_NODES = {
    "attribute": _attribute,
    "input": _input,
    "operation": _operation,
    "constant": _constant,
    "write": _write_file,
}

# Keras archives -------------------------------------------------------------------------------

# Allowed layers and others; the others read files, run code or are not layers of a classifier.
LAYERS = (
    *("Activation", "Dropout", "Identity", "Masking", "RandomInvert", "Solarization"),
    *("Lambda", "TFSMLayer", "StringLookup", "Hashing", "Pipeline", "TorchModuleWrapper"),
    *("JaxLayer", "SpectralNormalization", "TimeDistributed", "LSTM", "Embedding", "Wrapper"),
)
EXTRA = ({}, {"factor": 0.5}, {"rate": 0.1}, {"value_range": [-1, 1]}, {"vocabulary": "canary"})


def draw_config(world, rng):
    """Either a layer to add, or changes of values in the archive's config."""
    if rng.randrange(2):
        return ["layer", rng.randrange(7), rng.choice(LAYERS), rng.choice(EXTRA)]
    members = members_once(world / "net.keras")
    return ["values", mutations.draw_changes(json.loads(members["config.json"]), rng)]


def change_config(live, case):
    """Writes an archive with a changed config and the same weights."""

    def change(members):
        config = json.loads(members["config.json"])
        if case[0] == "values":
            config = mutations.apply_changes(config, case[1])
        else:
            _, place, name, extra = case
            layer = {"module": "keras.layers", "class_name": name, "registered_name": None}
            layer["config"] = {"name": "canary", "trainable": True, "dtype": "float32", **extra}
            config["config"]["layers"].insert(1 + place, layer)
        return members | {"config.json": json.dumps(config).encode()}

    live.write("net.keras", mutations.repack(live.read("net.keras"), change))


def open_layers(live, case):
    """Opens and runs a classifier; none of its layers may be another than a classifier has."""
    import fuzz_targets

    from vim_tf.evaluation import keras_archive

    name = case[2] if case[0] == "layer" else None
    found = fuzz_targets.open_keras(live)
    if name is not None and name not in keras_archive.LAYERS:
        raise Wrong("a layer that is not allowed was loaded", name)
    return found


# Images ---------------------------------------------------------------------------------------

MOST_PIXELS = 2**25  # of models for images up to 724 pixels a side, see docs/data.md
SIZES = ((1, 1), (8193, 8193), (30_000, 30_000), (2**16, 2**16), (2**31 - 1, 1), (1, 2**31), (0, 5))
DEPTHS = ((8, 0), (1, 0), (8, 2), (8, 6), (16, 0), (8, 3), (3, 9))  # and colour types


def draw_image(world, rng):
    """Damage of an image of any format, or a PNG of any stated size."""
    if rng.randrange(4) == 3:
        return ["png", [*rng.choice(SIZES), *rng.choice(DEPTHS)]]
    ending = rng.choice(IMAGE_FORMATS)
    data = (world / "formats" / f"x.{ending}").read_bytes()
    return [ending, mutations.draw_edits(data, rng)]


def change_image(live, case):
    """Writes the image."""
    ending, how = case
    if ending == "png" and how and isinstance(how[0], int):
        live.write("formats/x.png", mutations.make_png(*how))
    else:
        name = f"formats/x.{ending}"
        live.write(name, mutations.apply_edits(live.read(name), how))


def open_image(live, case):
    """Reads the header, and decodes by Pillow and by TensorFlow's operations."""
    import tensorflow as tf

    from vim_tf.data import decoding, image_headers

    path = live / "formats" / f"x.{case[0]}"
    image_headers.read_headers([path])
    data = tf.constant(path.read_bytes())
    by_pillow = functools.partial(decoding.decode_by_pillow, max_pixels=MOST_PIXELS)
    for decode in (decoding.decode_image, by_pillow):
        try:
            pixels = int(tf.size(decode(data))) // 3
        except tf.errors.InvalidArgumentError:  # its callers refuse the file in one line
            continue
        if pixels > MOST_PIXELS:
            raise Wrong("an image above the limit was decoded", f"{pixels:,} pixels")


# Records --------------------------------------------------------------------------------------

RECORDS = "records/train-00000-of-00001"


def draw_records(world, rng):
    """Edits of the content of the first record."""
    return mutations.draw_edits(_read_record((world / RECORDS).read_bytes()), rng)


def _read_record(data):
    (length,) = struct.unpack("<Q", data[:8])
    return data[12 : 12 + length]


def change_records(live, edits):
    """Writes a TFRecord file with right checksums."""
    import tensorflow as tf

    data = mutations.apply_edits(_read_record(live.read(RECORDS)), edits)
    with tf.io.TFRecordWriter(str(live.touch(RECORDS))) as writer:
        writer.write(data)
        writer.write(_read_record(live.read(RECORDS)))


def open_records(live, case):
    import fuzz_targets

    fuzz_targets.open_records(live)


def change_arrays(live, case):
    """Writes an .npz with arrays of any header."""
    import numpy as np

    name, arrays = case
    packed = io.BytesIO()
    made = {key: np.zeros([min(n, 50) for n in shape], dtype) for key, shape, dtype in arrays}
    np.savez(packed, **made)
    live.write(name, packed.getvalue())


def draw_arrays(world, rng):
    """Arrays of any name, shape and type for an .npz: [file, [[name, shape, dtype], ...]]."""
    names = ("arr_0", "mu", "sigma", "mu_s", "sigma_s", "format", "extractor", "count")
    dtypes = ("uint8", "float64", "float32", "int64", "U3", "bool", "complex64", "S2")
    arrays = {
        rng.choice(names): [[rng.choice([0, 1, 2, 3, 6, 16]) for _ in range(rng.randrange(5))],
                            rng.choice(dtypes)]
        for _ in range(1 + rng.randrange(4))
    }  # fmt: skip
    file = rng.choice(["images.npz", "statistics.npz"])
    return [file, [[name, *found] for name, found in arrays.items()]]


def open_arrays(live, case):
    import fuzz_targets

    if case[0] == "images.npz":
        fuzz_targets.open_npz(live)
    else:
        fuzz_targets.open_statistics(live)


def _open_net(live, case):
    import fuzz_targets

    return fuzz_targets.open_net(live)


HOSTILE = [
    Kind("nodes of a graph", draw_nodes, change_nodes, _open_net, **TF),
    Kind("config of a Keras archive", draw_config, change_config, open_layers, **TF),
    Kind("image of any format", draw_image, change_image, open_image, **TF),
    Kind("TFRecord, resealed", draw_records, change_records, open_records, **TF),
    Kind("arrays of an .npz", draw_arrays, change_arrays, open_arrays, **TF),
]
