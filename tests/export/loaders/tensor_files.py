"""Tensors as files that both C++ and Python without TensorFlow can read.

A file has one line "dtype size size ...", then the values in C order, little-endian. A string is
its length as 8 bytes, then its bytes.
"""

import struct

import numpy as np


def write(path, array):
    array = np.asarray(array)
    name = "string" if array.dtype == object else array.dtype.name
    sizes = " ".join(map(str, array.shape))
    path.write_bytes(f"{name} {sizes}\n".encode() + to_bytes(array))


def read(path):
    header, _, data = path.read_bytes().partition(b"\n")
    name, *sizes = header.decode().split()
    return from_bytes(data, name, list(map(int, sizes)))


def to_bytes(array):
    if array.dtype != object:
        return array.tobytes()
    return b"".join(struct.pack("<Q", len(value)) + value for value in array.ravel())


def from_bytes(data, name, shape):
    if name != "string":
        return np.frombuffer(data, name).reshape(shape)
    values, place = [], 0
    for _ in range(int(np.prod(shape))):
        (length,) = struct.unpack_from("<Q", data, place)
        values.append(data[place + 8 : place + 8 + length])
        place += 8 + length
    return np.array([*values, None], object)[:-1].reshape(shape)
