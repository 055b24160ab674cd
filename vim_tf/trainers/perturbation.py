"""Tokens changed at random into tokens of near codes, as a model of tokens errs."""

import numpy as np
import tensorflow as tf

from vim_tf.annotations import Tensor
from vim_tf.config.sections import PerturbationConfig
from vim_tf.errors import UserError
from vim_tf.models.quantizer import VectorQuantizer
from vim_tf.models.seeded_dropout import row_bits

_SALTS = (2**29, 2**29 + 1)  # of the draws: which tokens change, and into which neighbour
_BLOCK = 1024  # codes at a time in the search for neighbours


class TokenPerturbation:
    """Replaces a share of tokens by tokens of near codes (after arXiv 2509.12474).

    A token's draw is a function of its row's key and its place, see `seeded_dropout.row_keys`.

    Args:
        quantizer: the frozen `VectorQuantizer`.
        config: the share of tokens, and the number of neighbours to choose from.

    Raises:
        UserError: the codebook has not so many neighbours.
    """

    def __init__(self, quantizer: VectorQuantizer, config: PerturbationConfig) -> None:
        codes = quantizer.config.codes
        check_nearest(config, codes)
        self.share, self.nearest = config.share, config.nearest
        codebook = np.asarray(quantizer.lookup(np.arange(codes, dtype="int32")))
        self.neighbours = tf.constant(find_neighbours(codebook, self.nearest))

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens [B,N] int32 -> the same shape, some of them replaced."""
        if not self.share:
            return tokens
        places = tf.range(tokens.shape[1])
        chance, choice = (row_bits(None, salt, places) for salt in _SALTS)
        changed = chance < np.uint32(min(self.share * 2**32, 2**32 - 1))
        choice = tf.cast(tf.bitwise.right_shift(choice, np.uint32(1)), tf.int32) % self.nearest
        others = tf.gather(self.neighbours, tokens)  # [B,N,nearest]
        others = tf.gather(others, choice, batch_dims=2)
        return tf.where(changed, others, tokens)


def check_nearest(config: PerturbationConfig, codes: int) -> None:
    """Raises UserError if a codebook of so many codes has not so many neighbours of each."""
    if config.nearest >= codes:
        raise UserError(
            f"perturbation.nearest is {config.nearest}, and the tokenizer has {codes} codes; "
            f"give at most {codes - 1}"
        )


def find_neighbours(codebook: np.ndarray, nearest: int) -> np.ndarray:
    """Codes [K,d] -> the numbers of each code's nearest other codes, near to far, [K,n] int32."""
    squares = np.square(codebook).sum(1)
    found = []
    for start in range(0, len(codebook), _BLOCK):
        part = codebook[start : start + _BLOCK]
        distances = squares - 2 * part @ codebook.T  # up to the part's own squares
        distances[np.arange(len(part)), start + np.arange(len(part))] = np.inf
        near = np.argpartition(distances, nearest - 1, axis=1)[:, :nearest]
        order = np.argsort(np.take_along_axis(distances, near, 1), axis=1, kind="stable")
        found.append(np.take_along_axis(near, order, 1))
    return np.concatenate(found).astype("int32")
