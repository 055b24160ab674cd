"""Compilation of functions of Keras models, on every backend of Keras."""

import contextvars
from collections.abc import Callable, Sequence
from typing import Any

import keras

_traced_for_xla = contextvars.ContextVar("traced_for_xla", default=False)


def is_for_xla() -> bool:
    """Returns whether XLA compiles the traced function: always on JAX, elsewhere if asked for."""
    return keras.backend.backend() == "jax" or _traced_for_xla.get()


def compiled(
    function: Callable[..., Any],
    variables: Sequence[keras.Variable],
    rows: bool = False,
    xla: bool = False,
) -> Callable[..., Any]:
    """Compiles a function of tensors once for each set of shapes, on the backend in use.

    Args:
        function: takes and returns nested tensors and None; may read `variables`, but not assign
            them.
        variables: the Keras variables that it reads; each call uses their current values.
        rows: whether every argument and every result has one row per image; on TensorFlow the
            rows are sharded over the replicas of the strategy in scope, see
            `replicas.over_replicas`.
        xla: whether to compile with XLA also on TensorFlow: this takes seconds for each set of
            shapes, and calls are faster.

    Returns:
        The compiled function, for positional arguments; on an unknown backend, `function` itself.
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
        def pure(values: Sequence[Any], *inputs: Any) -> Any:
            pairs = list(zip(variables, values, strict=True))
            with keras.StatelessScope(state_mapping=pairs):
                return function(*inputs)

        return lambda *inputs: pure([variable.value for variable in variables], *inputs)
    return function


def _with_xla(function: Callable[..., Any]) -> Callable[..., Any]:
    import tensorflow as tf

    def marked(*inputs: Any) -> Any:
        token = _traced_for_xla.set(True)
        try:
            return function(*inputs)
        finally:
            _traced_for_xla.reset(token)

    def on_one_replica(*inputs: Any) -> Any:  # a function per replica, with its own variables
        return tf.function(marked, jit_compile=True, autograph=False)(*inputs)

    return on_one_replica
