"""Compiling functions of Keras models on whatever backend Keras runs on."""

import keras


def compiled(function, variables, rows=False):
    """Compiles a function of tensors once for each set of shapes, on the backend in use.

    Args:
        function: takes and returns nested tensors and None; may read `variables`, not assign them.
        variables: the Keras variables it reads; each call sees their values at that time.
        rows: every argument and every answer has one row a picture; on TensorFlow the replicas of
            the strategy in scope share them, see `replicas.over_replicas`.

    Returns:
        The compiled function, for positional arguments; uncompiled on an unknown backend.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if rows:
            from vim_tf.replicas import over_replicas

            return over_replicas(function)
        graph = tf.function(function, autograph=False)
        return lambda *inputs: graph(*inputs)  # a bare tf.function would be saved with a model
    if keras.backend.backend() == "jax":
        import jax

        @jax.jit
        def pure(values, *inputs):
            pairs = list(zip(variables, values, strict=True))
            with keras.StatelessScope(state_mapping=pairs):
                return function(*inputs)

        return lambda *inputs: pure([variable.value for variable in variables], *inputs)
    return function
