"""Randomly damaged files that evaluation reads: no traceback, no abort, no hang."""

import gzip
import importlib.util
import io
import json
import os
import random
import resource
import struct
import time
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save

from vim_tf import formats
from vim_tf.data.sources.idx import read_idx
from vim_tf.errors import UserError
from vim_tf.evaluation import graph_checks, lpips
from vim_tf.evaluation.features import open_extractor
from vim_tf.evaluation.image_sources import open_images
from vim_tf.evaluation.reference import open_reference
from vim_tf.metrics.fid import FeatureStatistics

spec = importlib.util.spec_from_file_location(
    "fuzz_mutations", Path(__file__).parents[1] / "fuzz_mutations.py"
)
mutations = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mutations)

SECONDS = 60  # allowed time per file
MEMORY = 2**20  # allowed KiB above the undamaged file
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 12, 10, 3), "uint8")


def try_all(path, data, change, read, count):
    """Reads changed copies of a file, and checks the outcome."""
    path.write_bytes(data)
    read(path)
    files = {folder: sorted(os.listdir(folder)) for folder in (path.parent, os.getcwd())}
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + MEMORY
    refused = 0
    for case in range(count):
        path.write_bytes(change(data, mutations.seeded(path.name, case)))
        start = time.monotonic()
        try:
            read(path)
        except UserError as error:
            text = str(error)
            assert "\n" not in text and len(text) <= 2_000, f"case {case}: {text[:3000]}"
            refused += 1
        assert time.monotonic() - start < SECONDS, f"case {case}"
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < most, f"case {case}"
        for folder, names in files.items():
            assert sorted(os.listdir(folder)) == names, f"case {case}"
    assert refused > count / 10


def change_member(data, rng, name=None, change=mutations.mutate):
    """Changes one member of a zip archive, and packs it again with the right checksum."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    name = name or rng.choice(sorted(members))
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, change(content, rng) if member == name else content)
    return changed.getvalue()


def change_any(data, rng):
    return mutations.mutate(data, rng) if rng.random() < 0.3 else change_member(data, rng)


# Networks -----------------------------------------------------------------------------------------


def run_network(path):
    open_extractor(path)(IMAGES)


def change_nodes(data, rng):
    """Changes nodes of a graph that can still be parsed."""
    graph = tf.compat.v1.GraphDef.FromString(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        node = rng.choice(graph.node)
        rng.choice([change_attribute, change_input, change_operation, change_constant])(
            node, graph, rng
        )
    return graph.SerializeToString()


NUMBERS = (-16, -2, -1, 0, 1, 2, 3, 7, 35, 2048, 2**40)


def change_attribute(node, graph, rng):
    value = node.attr[rng.choice([*sorted(node.attr), "strides", "ksize", "dilations", "N", "T"])]
    kind = value.WhichOneof("value") or rng.choice(["list", "i"])
    if kind == "list":
        value.list.i.append(0)
        value.list.i[rng.randrange(len(value.list.i))] = rng.choice(NUMBERS)
    elif kind == "s":
        value.s = rng.choice([b"", b"VALID", b"SAME", b"NCHW", b"EXPLICIT", b"%s%n"])
    elif kind in ("i", "type"):
        setattr(value, kind, rng.choice(NUMBERS[3:9]))
    elif kind == "f":
        value.f = rng.choice([0, -1, 1e30, float("nan")])
    elif kind == "b":
        value.b = not value.b


def change_input(node, graph, rng):
    other = rng.choice(graph.node).name + rng.choice(["", "", ":1", ":99"])
    kind = rng.randrange(3)
    if kind == 0 or not node.input:
        node.input.append(other)
    elif kind == 1:
        node.input[rng.randrange(len(node.input))] = other
    else:
        node.input.pop()


def change_operation(node, graph, rng):
    node.op = rng.choice(sorted(graph_checks.ALLOWED))


def change_constant(node, graph, rng):
    shape = [rng.choice([0, 1, 2, 3, 8, 35]) for _ in range(rng.randrange(5))]
    dtype = rng.choice(["float32", "int32", "int64"])
    tensor = tf.make_tensor_proto(np.full(shape, rng.choice([-1, 0, 1, 2, 1000]), dtype))
    node.attr["value"].tensor.CopyFrom(tensor)
    node.attr["dtype"].type = tensor.dtype


def change_config(data, rng):
    def change(content, rng):
        content = json.loads(content)
        for _ in range(rng.choice([1, 1, 2, 4])):
            content = mutations.mutate_json(content, rng)
        return json.dumps(content).encode()

    return change_member(data, rng, "config.json", change)


def change_weights(data, rng):
    return change_member(data, rng, "model.weights.h5")


@pytest.mark.large
@pytest.mark.parametrize(("change", "count"), [(mutations.mutate, 400), (change_nodes, 600)])
def test_graphs(tmp_path, monkeypatch, write_frozen_graph, change, count):
    monkeypatch.chdir(tmp_path)
    write_frozen_graph(tmp_path / "net.pb")
    path = tmp_path / "net.pb"
    try_all(path, path.read_bytes(), change, run_network, count)


@pytest.mark.large
@pytest.mark.parametrize(
    ("change", "count"), [(mutations.mutate, 60), (change_config, 150), (change_weights, 100)]
)
@pytest.mark.filterwarnings("ignore")  # Keras warns of odd configs
def test_keras_archives(tmp_path, monkeypatch, change, count):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.keras"
    layers = keras.layers
    inputs = keras.Input((12, 10, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, activation="gelu")(inputs))
    x = layers.UpSampling2D()(layers.Add()([x, layers.Conv2D(4, 1)(x)]))
    x = layers.MultiHeadAttention(2, 2)(*[layers.Reshape((320, 4))(x)] * 2)
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling1D()(x))
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(5, "relu")])
    keras.Model(inputs, layers.Dense(3, "softmax")(inner(x))).save(path)
    try_all(path, path.read_bytes(), change, run_network, count)


@pytest.mark.large
def test_weights_of_lpips(tmp_path, monkeypatch):
    # Only the small ones: most changes in 59 MB would have no effect.
    small = {name: shape for name, shape in lpips._shapes().items() if np.prod(shape) < 3000}
    monkeypatch.setattr(lpips, "_shapes", lambda: small)
    data = save({name: np.ones(shape, "float32") for name, shape in small.items()})

    def read(path):
        lpips._read_tensors(path.read_bytes(), "--lpips")

    try_all(tmp_path / "x.safetensors", data, mutations.mutate, read, 1000)


# Arrays -------------------------------------------------------------------------------------------


class Network:
    path, sha256, mode, dim, spatial_dim = "net.pb", "ab", "adm", 6, 7


@pytest.mark.large
def test_statistics(tmp_path):
    pooled, spatial = FeatureStatistics(6), FeatureStatistics(7)
    pooled.update(RNG.normal(size=(20, 6)))
    spatial.update(RNG.normal(size=(20, 7)))
    about = {"format": formats.NUMBERS["statistics"], "written_by": formats.WRITTEN_BY}
    path = tmp_path / "x.npz"
    pooled.save(path, spatial, extractor="ab", resize="adm", **about)

    def read(path):
        open_reference(path, "reference", Network)

    try_all(path, path.read_bytes(), change_any, read, 1000)


@pytest.mark.large
def test_images(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, IMAGES)

    def read(path):
        list(open_images(path, "images").batches(2))

    try_all(path, path.read_bytes(), change_any, read, 1000)


@pytest.mark.large
@pytest.mark.parametrize("name", ["x", "x.gz"])
def test_idx(tmp_path, name):
    data = struct.pack(">4B3I", 0, 0, 8, 3, 4, 6, 5) + bytes(range(120))

    def change(data, rng):
        if name == "x":
            return mutations.mutate(data, rng)
        if rng.random() < 0.5:
            return gzip.compress(mutations.mutate(gzip.decompress(data), rng))
        return mutations.mutate(data, rng)

    whole = gzip.compress(data) if name == "x.gz" else data
    try_all(tmp_path / name, whole, change, read_idx, 1000)


def test_changes_are_the_same_each_time():
    data = bytes(range(200))
    first = [mutations.mutate(data, random.Random(seed)) for seed in range(50)]
    assert first == [mutations.mutate(data, random.Random(seed)) for seed in range(50)]
    assert len(set(first)) > 40 and data not in first
