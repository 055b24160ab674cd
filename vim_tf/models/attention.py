"""Multi-head self-attention: over all positions at once, or one position at a time.

Paper: https://arxiv.org/abs/2110.04627, sections 3.1 (no mask) and 3.4 (causal).
"""

from typing import Any

import keras
from keras import layers, ops

from vim_tf.annotations import Tensor
from vim_tf.distribution.compilation import is_for_xla
from vim_tf.models.query_blocks import attend_in_blocks
from vim_tf.models.seeded_dropout import RowDropout

Cache = tuple[Tensor, Tensor]  # keys and values
HIDDEN = -1e9  # added to the score of a position that does not count; finite, so that no NaN arises


def fan_in_normal(fan_in: int) -> keras.initializers.Initializer:
    """Returns a new truncated normal initialiser of deviation `fan_in ** -0.5`.

    A new one each time: one instance gives every variable of a shape the same values.
    """
    return keras.initializers.TruncatedNormal(stddev=fan_in**-0.5)


class Attention(layers.Layer):
    """Multi-head self-attention with one product for queries, keys and values.

    There is no bias: that of keys has a true gradient of zero and would only drift.

    Args:
        dim: width D of input and output.
        heads: number of heads; divides `dim`.
        dropout: share of attention weights dropped in training.
        causal: whether position i sees positions 0..i only.
        salt: of its dropout, see `RowDropout`.

    Attributes:
        query_block: in training, the attention weights of so many queries at a time are kept, see
            `attend_in_blocks`; 0 keeps those of all queries.
    """

    query_block = 0

    def __init__(
        self, dim: int, heads: int, dropout: float, causal: bool, salt: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.heads = heads
        self.head_dim = dim // heads
        self.causal = causal
        self.qkv = layers.Dense(
            3 * dim, use_bias=False, kernel_initializer=fan_in_normal(dim), name="qkv"
        )
        self.projection = layers.Dense(
            dim, kernel_initializer=fan_in_normal(dim), name="projection"
        )
        self.dropout = RowDropout(dropout, salt)

    def build(self, input_shape: tuple) -> None:
        """Creates the weights for inputs [B,N,D]."""
        self.qkv.build(input_shape)
        self.projection.build(input_shape)

    # All positions ------------------------------------------------------------------------------

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        """Attends within x: [B,N,D] -> [B,N,D]."""
        if not training and self._has_fused_kernel():
            y = ops.dot_product_attention(*self._split(x), is_causal=self.causal)
            return self._join(y, x.shape[1])
        query, key, value = self._heads_first(x)
        if training and 0 < self.query_block < x.shape[1]:
            y = attend_in_blocks(self._attend, query, key, value, self.query_block, self.causal)
        else:
            y = self._attend(query, key, value, self._visible(x.shape[1]), training)
        return self._join(ops.swapaxes(y, 1, 2), x.shape[1])

    def weights_of(self, x: Tensor) -> Tensor:
        """The attention weights of `call` without dropout: [B,N,D] -> [B,heads,N,N] float32.

        Row i says how much position i takes from each position; it sums to 1.
        """
        query, key, _ = self._heads_first(x)
        return self._weigh(query, key, self._visible(x.shape[1]))

    def _split(self, x):
        """[B,N,D] -> queries, keys and values, each [B,N,heads,head_dim]."""
        shape = (-1, x.shape[1], self.heads, self.head_dim)
        # Split before it is reshaped: TF.js is slow at slices of five dimensions.
        return [ops.reshape(part, shape) for part in ops.split(self.qkv(x), 3, axis=-1)]

    def _heads_first(self, x):
        """[B,N,D] -> queries, keys and values, each [B,heads,N,head_dim]."""
        return [ops.swapaxes(part, 1, 2) for part in self._split(x)]

    def _join(self, y, length):
        """[B,N,heads,head_dim] -> [B,N,D]; N is `length`."""
        return self.projection(ops.reshape(y, (-1, length, self.dim)))

    def _attend(self, query, key, value, visible, training, places=None):
        """Queries [B,heads,M,d] over keys and values [B,heads,N,d] -> [B,heads,M,d]."""
        weights = ops.cast(self._weigh(query, key, visible), self.compute_dtype)
        weights = self.dropout(weights, places, training=training)
        return ops.matmul(weights, value)

    def _weigh(self, query, key, visible):
        """Queries [B,heads,M,d] and keys [B,heads,N,d] -> attention weights [B,heads,M,N].

        The softmax runs in float32 whatever the compute dtype.
        """
        scores = ops.matmul(query * self.head_dim**-0.5, ops.swapaxes(key, -1, -2))
        scores = ops.cast(scores, "float32")  # [B,heads,M,N]
        if visible is not None:
            scores = ops.where(visible, scores, HIDDEN)
        return ops.softmax(scores)

    def _visible(self, length):
        """The positions that each position sees, [N,N]; None if all see all."""
        return ops.tril(ops.ones((length, length), "bool")) if self.causal else None

    def _has_fused_kernel(self):
        """Whether Keras may have attention as one kernel: on JAX, of 16-bit numbers.

        On a GPU it is cuDNN's; there writing and reading the weights takes most of the time. On a
        CPU Keras does the same as `_attend`.
        """
        return keras.backend.backend() == "jax" and self.compute_dtype != "float32"

    # One position -------------------------------------------------------------------------------

    def init_cache(self, batch: int | Tensor, length: int, dtype: str = "float32") -> Cache:
        """Returns empty keys and values, each [batch, heads, length, head_dim]."""
        shape = (batch, self.heads, length, self.head_dim)
        return ops.zeros(shape, dtype), ops.zeros(shape, dtype)

    def step(self, x: Tensor, cache: Cache, hidden: Tensor) -> tuple[Tensor, Cache]:
        """One position of the causal `call`.

        Args:
            x: [B,1,D], features at a position.
            cache: keys and values [B,heads,M,head_dim] of other positions.
            hidden: [M] float32, 0 for those that count, `HIDDEN` for the others; see `hide_from`.

        Returns:
            [B,1,D], and the key and value of this position, [B,heads,1,head_dim] each, for `put`.
        """
        query, key, value = self._heads_first(x)  # each [B,heads,1,head_dim]
        query = query * self.head_dim**-0.5
        scores = ops.cast(self.score(query, cache[0]), "float32") + hidden  # [B,heads,M]
        own = ops.cast(ops.sum(query * key, axis=-1), "float32")  # [B,heads,1]
        weights = ops.softmax(ops.concatenate([scores, own], axis=-1))
        weights = ops.cast(weights, self.compute_dtype)
        y = self.mix(weights[..., :-1], cache[1])  # [B,heads,1,head_dim]
        y = y + ops.expand_dims(weights[..., -1:], -1) * value
        return self._join(ops.swapaxes(y, 1, 2), 1), (key, value)

    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        """One query [B,heads,1,d] times keys [B,heads,M,d] -> [B,heads,M]."""
        if query.shape[0] is None:  # in a SavedModel; sums are faster for few rows
            return ops.sum(query * keys, axis=-1)
        return ops.matmul(query, ops.swapaxes(keys, -1, -2))[:, :, 0]

    def mix(self, weights: Tensor, values: Tensor) -> Tensor:
        """The mean of values [B,heads,M,d] by weights [B,heads,M] -> [B,heads,1,d]."""
        return ops.matmul(ops.expand_dims(weights, 2), values)


def hide_from(position: Tensor, length: int) -> Tensor:
    """Returns [length] float32: 0 before `position`, int32, and `HIDDEN` from there on."""
    return ops.where(ops.arange(length) < position, 0.0, HIDDEN)


def put(cache: Cache, entry: Cache, position: Tensor) -> Cache:
    """Puts the key and value of a position, an int32 scalar, into a cache; see `Attention.step`."""
    return _put(cache[0], entry[0], position), _put(cache[1], entry[1], position)


def _put(cache, new, position):
    """Puts [B,heads,1,d] into [B,heads,N,d] at a position, in place where it is compiled.

    XLA is best at a slice, for which TensorFlow has no kernel; and TensorFlow at rows.
    """
    if is_for_xla():
        return ops.slice_update(cache, (0, 0, position, 0), new)
    _, heads, length, dim = cache.shape
    rows = ops.arange(ops.shape(cache)[0] * heads) * length + position  # [B*heads]
    flat = ops.scatter_update(
        ops.reshape(cache, (-1, dim)), ops.expand_dims(rows, 1), ops.reshape(new, (-1, dim))
    )
    return ops.reshape(flat, (-1, heads, length, dim))
