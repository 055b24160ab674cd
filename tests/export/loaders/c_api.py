"""Runs a SavedModel through TensorFlow's C API by ctypes, without TensorFlow for Python.

`c_api.py SAVED_MODEL EXCHANGE LIBRARY TENSORS`: LIBRARY is libtensorflow_cc.so.2, TENSORS is a JSON
file {signature: {"inputs": {name: tensor}, "outputs": {name: tensor}}}.
"""

import ctypes
import json
import sys
from ctypes import c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path

import numpy as np
import tensor_files

STRING = 7
DTYPES = {1: "float32", 3: "int32", 4: "uint8", 9: "int64", STRING: "string"}  # of TF_DataType
NUMBERS = {name: number for number, name in DTYPES.items()}
STRING_SIZE = 24  # of a TF_TString


class Output(ctypes.Structure):
    _fields_ = [("operation", c_void_p), ("index", c_int)]


def declare(library):
    """Declares result types. Otherwise ctypes would cut pointers to 32 bits."""
    for name in (
        *("TF_NewStatus", "TF_NewGraph", "TF_NewSessionOptions", "TF_LoadSessionFromSavedModel"),
        *("TF_GraphOperationByName", "TF_AllocateTensor", "TF_TensorData"),
    ):
        getattr(library, name).restype = c_void_p
    library.TF_Message.restype = library.TF_StringGetDataPointer.restype = c_void_p
    library.TF_Dim.restype = c_int64
    library.TF_TensorByteSize.restype = library.TF_StringGetSize.restype = c_size_t
    return library


class Model:
    def __init__(self, library, saved_model):
        self._tf = declare(ctypes.CDLL(library))
        self._status = c_void_p(self._tf.TF_NewStatus())
        self._graph = c_void_p(self._tf.TF_NewGraph())
        tags = (c_char_p * 1)(b"serve")
        self._session = c_void_p(
            self._tf.TF_LoadSessionFromSavedModel(
                c_void_p(self._tf.TF_NewSessionOptions()),
                None,
                saved_model.encode(),
                tags,
                1,
                self._graph,
                None,
                self._status,
            )
        )
        self._check()

    def _check(self):
        if self._tf.TF_GetCode(self._status):
            message = c_void_p(self._tf.TF_Message(self._status))
            raise RuntimeError(ctypes.cast(message, c_char_p).value.decode())

    def _output(self, tensor):
        name, index = tensor.split(":")
        operation = self._tf.TF_GraphOperationByName(self._graph, name.encode())
        assert operation, f"no operation {name}"
        return Output(operation, int(index))

    def _tensor(self, array):
        number = STRING if array.dtype == object else NUMBERS[array.dtype.name]
        dims = (c_int64 * array.ndim)(*array.shape)
        size = STRING_SIZE * array.size if number == STRING else array.nbytes
        tensor = c_void_p(self._tf.TF_AllocateTensor(number, dims, array.ndim, c_size_t(size)))
        data = self._tf.TF_TensorData(tensor)
        if number == STRING:
            for i, value in enumerate(array.ravel()):
                place = c_void_p(data + STRING_SIZE * i)
                self._tf.TF_StringInit(place)
                self._tf.TF_StringCopy(place, value, c_size_t(len(value)))
        elif size:
            ctypes.memmove(data, array.tobytes(), size)
        return tensor

    def _array(self, tensor):
        shape = [self._tf.TF_Dim(tensor, i) for i in range(self._tf.TF_NumDims(tensor))]
        name = DTYPES[self._tf.TF_TensorType(tensor)]
        data = self._tf.TF_TensorData(tensor)
        if name != "string":
            return tensor_files.from_bytes(
                ctypes.string_at(data, self._tf.TF_TensorByteSize(tensor)), name, shape
            )
        values = []
        for i in range(int(np.prod(shape))):
            place = c_void_p(data + STRING_SIZE * i)
            start = self._tf.TF_StringGetDataPointer(place)
            values.append(ctypes.string_at(start, self._tf.TF_StringGetSize(place)))
        return np.array([*values, None], object)[:-1].reshape(shape)

    def run(self, inputs, outputs):
        """{tensor: array}, [tensor] -> [array]."""
        feeds = (Output * len(inputs))(*map(self._output, inputs))
        values = (c_void_p * len(inputs))(*(self._tensor(a).value for a in inputs.values()))
        fetches = (Output * len(outputs))(*map(self._output, outputs))
        results = (c_void_p * len(outputs))()
        self._tf.TF_SessionRun(
            self._session, None, feeds, values, len(inputs), fetches, results, len(outputs),
            None, 0, None, self._status,
        )  # fmt: skip
        self._check()
        return [self._array(c_void_p(result)) for result in results]


def main(saved_model, exchange, library, tensors):
    model = Model(library, saved_model)
    for signature, names in json.loads(Path(tensors).read_text()).items():
        folder = Path(exchange) / signature
        if not folder.exists():
            continue
        inputs = {
            tensor: tensor_files.read(folder / f"{name}.in")
            for name, tensor in names["inputs"].items()
        }
        answers = model.run(inputs, list(names["outputs"].values()))
        for name, answer in zip(names["outputs"], answers, strict=True):
            tensor_files.write(folder / f"{name}.out", answer)
    assert "tensorflow" not in sys.modules


main(*sys.argv[1:])
