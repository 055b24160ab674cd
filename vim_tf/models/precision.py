"""The number format in which models compute."""

import contextlib
from collections.abc import Iterator

from vim_tf.errors import UserError

PRECISIONS = ("float32", "mixed_bfloat16")


def check_policy(name: str) -> None:
    """Raises UserError for a dtype policy of Keras in which these models do not compute.

    In float16 logits overflow. In bfloat16 or float16 alone also weights lose digits, so a preset
    would not have the hash of its weights.
    """
    if name not in PRECISIONS:
        raise UserError(
            f"the dtype policy of Keras is {name}; vim_tf's models compute in "
            f"{' or '.join(PRECISIONS)}: call keras.config.set_dtype_policy('float32') first, and "
            "look at floatx in ~/.keras/keras.json"
        )


@contextlib.contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Models made inside compute in "float32", or ("mixed_bfloat16") in bfloat16 where it is safe.

    Weights are float32 in either case, and so are, by themselves, the quantizer, the softmax of
    attention, the statistics of norms, and what leaves a model.
    """
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
