import io
import os
import struct

import h5py
import keras
import numpy as np
import pytest

from vim_tf.errors import UserError
from vim_tf.models.weights_files import count_elements, read_shapes


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.weights.h5"


def refused(path, message):
    for check in (read_shapes, count_elements, lambda p: read_shapes(io.BytesIO(p.read_bytes()))):
        with pytest.raises(UserError, match=message) as caught:
            check(path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) <= 2_000


def test_weights_of_keras_pass_and_are_counted(path):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    model.save_weights(path)
    assert count_elements(path) == count_elements(io.BytesIO(path.read_bytes())) == 5 * 3 + 3
    assert read_shapes(path) == {"layers/dense/vars/0": (5, 3), "layers/dense/vars/1": (3,)}


def make_links(path, kind):
    """A file with a dataset that is stored in another file or under another name."""
    other = path.with_name("other.h5")
    with h5py.File(other, "w") as file:
        file["x"] = np.arange(4.0)
    other.with_suffix(".raw").write_bytes(bytes(32))
    layout = h5py.VirtualLayout((4,), "float64")
    layout[:] = h5py.VirtualSource(str(other), "x", (4,))
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/dense/vars")
        if kind == "ExternalLink":
            group["0"] = h5py.ExternalLink(str(other), "/x")
        elif kind == "SoftLink":
            group["1"] = np.arange(4.0)
            group["0"] = h5py.SoftLink("/layers/dense/vars/1")
        elif kind == "a virtual dataset":
            group.create_virtual_dataset("0", layout)
        else:
            raw = [(str(other.with_suffix(".raw")), 0, 32)]
            group.create_dataset("0", (4,), "float64", external=raw)


@pytest.mark.parametrize(
    "kind", ["ExternalLink", "SoftLink", "a virtual dataset", "a dataset in another file"]
)
def test_links_out_of_the_file_are_refused(path, kind):
    make_links(path, kind)
    refused(path, f"{kind} at /layers/dense/vars/0; .* save the weights")


def test_sizes_that_the_file_does_not_hold_are_refused(path):
    for options in (
        {"fillvalue": 0.0},  # never written
        {"chunks": (2**20,), "compression": "gzip"},
    ):
        with h5py.File(path, "w") as file:
            file.create_dataset("vars/0", (2**40,), "float32", **options)
        refused(path, "more values than its [0-9,]+ bytes hold, or compressed ones at /vars/0")
    with h5py.File(path, "w") as file:
        file.create_dataset("vars/0", data=np.zeros(10**6, "float32"), compression="gzip")
    assert os.path.getsize(path) < 10**5
    refused(path, "or compressed ones")


def test_one_dataset_under_many_names_counts_each_time(path):
    with h5py.File(path, "w") as file:
        file["0"] = np.zeros(1000)
        for i in range(1, 9):
            file[str(i)] = file["0"]
    refused(path, "more values than its")


def test_circles_and_depth_end(path):
    with h5py.File(path, "w") as file:
        file["a/b"] = file.create_group("a")
    refused(path, "nested more than 64 deep")
    with h5py.File(path, "w") as file:
        group = file
        for _ in range(66):
            group = group.create_group("g")
    refused(path, "nested more than 64 deep")


@pytest.mark.parametrize(
    ("value", "kind"),
    [("text", "object"), (np.zeros(2, "V2"), r"\|V2"), (h5py.Empty("f4"), "float32")],
)
def test_values_that_are_no_numbers_are_refused(path, value, kind):
    with h5py.File(path, "w") as file:
        file["vars/0"] = value
    refused(path, f"values of the type {kind} at /vars/0")


def test_the_text_that_keras_would_read_is_refused(path):
    """Damaged text of variable length makes the HDF5 library hang."""
    with h5py.File(path, "w") as file:
        file["vars/0"] = np.zeros(3)
        file["vars/0"].attrs["dtype"] = "bfloat16"
    refused(path, "has a dtype that HDF5 defines itself")


def test_free_blocks_without_an_end_are_refused(path):
    """HDF5 itself would take memory without end when it opens the group."""
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = np.arange(4.0)
    data = bytearray(path.read_bytes())
    place = data.find(b"HEAP\0\0\0\0")
    _, block, segment = struct.unpack_from("<QQQ", data, place + 8)
    assert struct.unpack_from("<Q", data, segment + block) == (1,)  # it is the last one
    struct.pack_into("<Q", data, segment + block, block)
    path.write_bytes(data)
    refused(path, "the names of its groups have free blocks without an end")


def test_files_whose_heaps_cannot_be_checked_are_refused(path):
    settings = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    settings.set_sizes(4, 4)
    h5py.h5f.create(bytes(path), h5py.h5f.ACC_TRUNC, settings).close()
    refused(path, "does not begin as those of h5py do")
    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"] = np.arange(4.0)
    refused(path, "does not begin as those of h5py do")


def test_other_files_are_refused(path):
    with pytest.raises(UserError, match="x.weights.h5 is no regular file"):
        read_shapes(path)
    os.mkfifo(path)
    with pytest.raises(UserError, match="x.weights.h5 is no regular file"):
        read_shapes(path)
    path.unlink()
    path.write_bytes(b"text")
    refused(path, "is no HDF5 file that can be read \\(")
    with pytest.raises(UserError, match="^model.weights.h5 in a.keras is no HDF5 file"):
        read_shapes(io.BytesIO(b"text"), "model.weights.h5 in a.keras")
    with h5py.File(path, "w") as file:
        file["0"] = np.zeros(100)
    path.write_bytes(path.read_bytes()[:-100])
    refused(path, "is no HDF5 file that can be read")
