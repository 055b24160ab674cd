"""Compiling functions of Keras models on whatever backend Keras runs on."""

import contextvars

import keras

_traced_for_xla = contextvars.ContextVar("traced_for_xla", default=False)


def is_for_xla():
    """Whether what is traced now will be compiled by XLA: always on JAX, as asked for elsewhere."""
    return keras.backend.backend() == "jax" or _traced_for_xla.get()


def compiled(function, variables, rows=False, xla=False):
    """Compiles a function of tensors once for each set of shapes, on the backend in use.

    Args:
        function: takes and returns nested tensors and None; may read `variables`, not assign them.
        variables: the Keras variables it reads; each call sees their values at that time.
        rows: every argument and every answer has one row an image; on TensorFlow the replicas of
            the strategy in scope share them, see `replicas.over_replicas`.
        xla: compile with XLA on TensorFlow, too: seconds for each set of shapes, and faster then.

    Returns:
        The compiled function, for positional arguments; uncompiled on an unknown backend.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if xla:
            function = _with_xla(function)
        if rows:
            from vim_tf.distribution.replicas import over_replicas

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


def _with_xla(function):
    import tensorflow as tf

    def marked(*inputs):
        token = _traced_for_xla.set(True)
        try:
            return function(*inputs)
        finally:
            _traced_for_xla.reset(token)

    def on_one_replica(*inputs):  # each replica needs a function with its own copies of variables
        return tf.function(marked, jit_compile=True, autograph=False)(*inputs)

    return on_one_replica
