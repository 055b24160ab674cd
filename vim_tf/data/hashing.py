"""Numbers that depend only on their arguments: (seed, epoch, position), or a name.

Orders, augmentations and the validation split are computed from them. So these are the same on
every machine, for every batch size and after every interruption.
"""

import numpy as np
import tensorflow as tf

from vim_tf.annotations import Tensor
from vim_tf.errors import UserError

_NAME_RANGE = 1 << 30
ALL = (0, _NAME_RANGE)  # bounds of every hash of a name
_GOLDEN = 0x9E3779B97F4A7C15


def hash_integers(seed: int, *parts: Tensor | int) -> Tensor:
    """Mixes integers into one 64-bit number, by SplitMix64 (doi 10.1145/2660193.2660195).

    Args:
        seed: any Python integer.
        *parts: int64 tensors of one shape, such as epochs and positions, or Python integers.

    Returns:
        uint64, of the shape of the parts.
    """
    value = _mix(_word(seed % 2**64) + _word(_GOLDEN))
    for part in parts:
        # + 1: a part of 0 must also change the value.
        value = _mix(value + (tf.cast(part, tf.uint64) + _word(1)) * _word(_GOLDEN))
    return value


def draw_uniform(count: int, seed: int, *parts: Tensor | int) -> Tensor:
    """Returns [..., count] float32, uniform in [0, 1), from `hash_integers(seed, *parts)`."""
    state = hash_integers(seed, *parts)[..., tf.newaxis]
    counter = tf.range(1, count + 1, dtype=tf.int64)
    value = _mix(state + tf.cast(counter, tf.uint64) * _word(_GOLDEN))
    bits = tf.cast(tf.bitwise.right_shift(value, _word(40)), tf.int64)  # the upper 24
    return tf.cast(bits, tf.float32) * 2.0**-24


def shuffle_index(position: Tensor, size: int, seed: int, epoch: Tensor) -> Tensor:
    """Returns the index in stored order of the image at `position` of a shuffled epoch.

    It is a permutation of 0 to size - 1 for each epoch, computed without a table in memory.

    Args:
        position: int64, scalar or vector.
        size: number of images.
        seed: any Python integer.
        epoch: int64, of the shape of `position`.
    """
    keys = [tf.bitcast(hash_integers(seed, epoch, word), tf.int64) for word in range(3)]
    # The raw operation, since tf.random.experimental.index_shuffle pads a batch of seeds wrongly.
    return tf.raw_ops.RandomIndexShuffle(
        index=position, seed=tf.stack(keys, -1), max_index=tf.constant(size - 1, tf.int64), rounds=4
    )


def hash_names(names: Tensor) -> Tensor:
    """Returns an int64 from 0 to 2**30 - 1 for each string, by FarmHash Fingerprint64."""
    return tf.strings.to_hash_bucket_fast(names, _NAME_RANGE)


def validation_threshold(hashes: np.ndarray, fraction: float, what: str) -> int:
    """Returns the threshold: names with a hash below it belong to validation.

    Neither side is left empty: the smallest hash always belongs to validation and the largest to
    training.

    Args:
        hashes: NumPy integers from `hash_names`, one per image.
        fraction: share of images wanted in validation.
        what: the data set's name in an error.

    Raises:
        UserError: there are no two images with different hashes.
    """
    if len(hashes) == 0 or hashes.min() == hashes.max():
        raise UserError(
            f"{what} has too few images ({len(hashes)}) to hold some out for validation; "
            "give at least 2, better hundreds"
        )
    wanted = round(fraction * _NAME_RANGE)
    return int(min(max(wanted, hashes.min() + 1), hashes.max()))


def _word(value: int) -> Tensor:
    return tf.constant(np.uint64(value))


def _mix(value: Tensor) -> Tensor:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = tf.bitwise.bitwise_xor(value, tf.bitwise.right_shift(value, _word(shift)))
        value *= _word(factor)
    return tf.bitwise.bitwise_xor(value, tf.bitwise.right_shift(value, _word(31)))
