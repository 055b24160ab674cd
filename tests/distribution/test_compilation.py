import keras
import numpy as np
from keras import ops

from vim_tf.distribution.compilation import compiled, is_for_xla


def test_compiled_traces_once_a_shape_and_reads_variables_anew():
    variable = keras.Variable(np.float32(2))
    traces = []

    def scale(x, y):
        traces.append(x.shape)
        return x * variable if y is None else x * variable + y

    function = compiled(scale, [variable])
    one, two = ops.ones((1,)), ops.ones((2,))
    assert np.asarray(function(one, None)) == 2
    variable.assign(5)
    assert np.asarray(function(one, None)) == 5
    assert np.asarray(function(two, two)).tolist() == [6, 6]
    function(one * 3, None)
    assert traces == [(1,), (2,)]


def test_what_is_compiled_by_xla_knows_it():
    variable, seen = keras.Variable(np.float32(2)), []

    def scale(x):
        seen.append(is_for_xla())
        return x * variable

    for xla in (False, True):
        for rows in (False, True):
            function = compiled(scale, [variable], rows=rows, xla=xla)
            assert np.asarray(function(ops.ones((3,)))).tolist() == [2, 2, 2]
            assert set(seen) == {xla}
            seen.clear()
    assert not is_for_xla()
