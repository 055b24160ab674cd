"""The pre-norm transformer of both stages.

Paper: https://arxiv.org/abs/2110.04627, sections 3.1 (ViT encoder and decoder, no mask) and 3.4
(VIM, causal). The activation and the place of the norms are not stated there; pre-norm and
tanh-GELU are ViT's and GPT's, and tanh-GELU converts to TF.js where the exact one does not.
"""

import functools

import keras
from keras import layers, ops

from vim_tf.distribution.compilation import is_for_xla
from vim_tf.models.seeded_dropout import RowDropout, zeros_behind

DROPOUTS = 4  # in a block
HIDDEN = -1e9  # added to the score of a position that does not count; finite, so that no NaN arises


def fan_in_normal(fan_in):
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
        query_block: in training, attention weights of so many queries at a time, computed again for
            their gradient instead of kept; 0 keeps those of all.
    """

    query_block = 0

    def __init__(self, dim, heads, dropout, causal, salt=0, **kwargs):
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

    def build(self, input_shape):
        """Creates the weights for inputs [B,N,D]."""
        self.qkv.build(input_shape)
        self.projection.build(input_shape)

    def _split(self, x):
        shape = (-1, x.shape[1], self.heads, self.head_dim)
        # Split before it is reshaped: TF.js is slow at slices of five dimensions.
        return [ops.reshape(part, shape) for part in ops.split(self.qkv(x), 3, axis=-1)]

    def _weigh(self, query, key, visible):
        """Queries [B,heads,M,d] and keys [B,heads,N,d] -> attention weights [B,heads,M,N].

        The softmax runs in float32 whatever the compute dtype.
        """
        scores = ops.matmul(query * self.head_dim**-0.5, ops.swapaxes(key, -1, -2))
        scores = ops.cast(scores, "float32")  # [B,heads,M,N]
        if visible is not None:
            scores = ops.where(visible, scores, HIDDEN)
        return ops.softmax(scores)

    def _attend(self, query, key, value, visible, training, places=None):
        """Queries [B,heads,M,d] over keys and values [B,heads,N,d] -> [B,heads,M,d]."""
        weights = ops.cast(self._weigh(query, key, visible), self.compute_dtype)
        weights = self.dropout(weights, places, training=training)
        return ops.matmul(weights, value)

    def _attend_in_blocks(self, query, key, value, training):
        """`_attend` of all queries, `query_block` at a time."""
        parts = []
        for start in range(0, query.shape[2], self.query_block):
            attend = functools.partial(self._attend_stretch, start=start, training=training)
            stretch = query[:, :, start : start + self.query_block]
            if parts:
                # Without this dependency TensorFlow computes several at once, and for the gradient.
                stretch = stretch + 0 * parts[-1][:, :1, :1, :1]
            # Keys and values whole, and cut inside: what is cut outside would be kept.
            parts.append(keras.remat(attend)(stretch, key, value))
        return ops.concatenate(parts, axis=2)

    def _attend_stretch(self, query, key, value, start, training):
        """`_attend` of the queries from `start` on, [B,heads,M,d]."""
        length, stop = key.shape[2], start + query.shape[2]
        seen = stop if self.causal else length  # later keys do not count
        visible = self._visible(length)
        head = ops.reshape(ops.arange(self.heads), (-1, 1, 1)) * length
        # Without this dependency TensorFlow folds these numbers into constants of its graph.
        first = start + zeros_behind(query[0, 0, 0, 0], "int32")
        rows = head + ops.reshape(first + ops.arange(stop - start), (-1, 1))  # [heads,M,1]
        return self._attend(
            query,
            key[:, :, :seen],
            value[:, :, :seen],
            None if visible is None else visible[start:stop, :seen],
            training,
            places=rows * length + ops.arange(seen),  # as in the weights of all queries
        )

    def _visible(self, length):
        """Which positions each one sees, [N,N]; None if all see all."""
        return ops.tril(ops.ones((length, length), "bool")) if self.causal else None

    def _has_fused_kernel(self):
        """Whether Keras may have attention as one kernel: on JAX, of 16-bit numbers.

        On a GPU it is cuDNN's; there writing and reading the weights takes most of the time. On a
        CPU Keras does what `_attend` does.
        """
        return keras.backend.backend() == "jax" and self.compute_dtype != "float32"

    def call(self, x, training=None):
        """Attends within x: [B,N,D] -> [B,N,D]."""
        length = x.shape[1]
        parts = self._split(x)  # each [B,N,heads,head_dim]
        if not training and self._has_fused_kernel():
            y = ops.dot_product_attention(*parts, is_causal=self.causal)
            return self.projection(ops.reshape(y, (-1, length, self.dim)))
        # Each [B,heads,N,head_dim].
        query, key, value = (ops.swapaxes(part, 1, 2) for part in parts)
        if training and 0 < self.query_block < length:
            y = self._attend_in_blocks(query, key, value, training)
        else:
            y = self._attend(query, key, value, self._visible(length), training)
        return self.projection(ops.reshape(ops.swapaxes(y, 1, 2), (-1, length, self.dim)))

    def weights_of(self, x):
        """The attention weights of `call` without dropout: [B,N,D] -> [B,heads,N,N] float32.

        Row i says how much position i takes from each position; it sums to 1.
        """
        query, key, _ = (ops.swapaxes(part, 1, 2) for part in self._split(x))
        return self._weigh(query, key, self._visible(x.shape[1]))

    def init_cache(self, batch, length, dtype="float32"):
        """Returns empty keys and values, each [batch, heads, length, head_dim]."""
        shape = (batch, self.heads, length, self.head_dim)
        return ops.zeros(shape, dtype), ops.zeros(shape, dtype)

    def step(self, x, cache, position):
        """One position of the causal `call`: x [B,1,D] -> [B,1,D] and the extended cache.

        Args:
            x: features at `position`.
            cache: keys and values of the positions before, as from `init_cache`.
            position: int32 scalar.
        """
        # Each [B,heads,1,head_dim].
        query, key, value = (ops.swapaxes(part, 1, 2) for part in self._split(x))
        keys, values = _put(cache[0], key, position), _put(cache[1], value, position)
        visible = ops.arange(keys.shape[2]) <= position  # [N]
        y = self._attend(query, keys, values, visible, training=False)
        return self.projection(ops.reshape(y, (-1, 1, self.dim))), (keys, values)

    def step_reading(self, x, cache, hidden):
        """`step` for a caller that keeps the cache.

        Args:
            x: [B,1,D], features at a position.
            cache: keys and values [B,heads,M,head_dim] of other positions.
            hidden: [M] float32, 0 for those that count, `HIDDEN` for the others.

        Returns:
            [B,1,D], and the key and value of this position, [B,heads,1,head_dim] each.
        """
        query, key, value = (ops.swapaxes(part, 1, 2) for part in self._split(x))
        query = query * self.head_dim**-0.5
        # Sums, because LiteRT would copy the cache for products of matrices.
        scores = ops.sum(query * cache[0], axis=-1) + hidden  # [B,heads,M]
        own = ops.sum(query * key, axis=-1)  # [B,heads,1]
        weights = ops.expand_dims(ops.softmax(ops.concatenate([scores, own], axis=-1)), -1)
        y = ops.sum(weights[:, :, :-1] * cache[1], axis=2, keepdims=True)
        y = y + weights[:, :, -1:] * value
        return self.projection(ops.reshape(y, (-1, 1, self.dim))), (key, value)


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


class TransformerBlock(layers.Layer):
    """x + attention(norm(x)), then x + mlp(norm(x)); dropout as in section 3.4."""

    def __init__(self, config, causal, salt=0, **kwargs):
        super().__init__(**kwargs)
        dim, mlp_dim, dropout = config.dim, config.mlp_dim, config.dropout
        self.attention_norm = layers.LayerNormalization(epsilon=1e-6, name="attention_norm")
        self.attention = Attention(dim, config.heads, dropout, causal, salt, name="attention")
        self.mlp_norm = layers.LayerNormalization(epsilon=1e-6, name="mlp_norm")
        self.mlp_in = layers.Dense(mlp_dim, kernel_initializer=fan_in_normal(dim), name="mlp_in")
        self.mlp_out = layers.Dense(dim, kernel_initializer=fan_in_normal(mlp_dim), name="mlp_out")
        self.activation_dropout = RowDropout(dropout, salt + 1)
        self.attention_dropout = RowDropout(dropout, salt + 2)
        self.mlp_dropout = RowDropout(dropout, salt + 3)

    def build(self, input_shape):
        """Creates the weights for inputs [B,N,D]."""
        for layer in (self.attention_norm, self.attention, self.mlp_norm, self.mlp_in):
            layer.build(input_shape)
        self.mlp_out.build((*input_shape[:-1], self.mlp_in.units))

    def _mlp(self, x, training):
        x = ops.gelu(self.mlp_in(self.mlp_norm(x)), approximate=True)
        return self.mlp_out(self.activation_dropout(x, training=training))

    def call(self, x, training=None):
        """[B,N,D] -> [B,N,D]."""
        y = self.attention(self.attention_norm(x), training=training)
        x = x + self.attention_dropout(y, training=training)
        return x + self.mlp_dropout(self._mlp(x, training), training=training)

    def init_cache(self, batch, length, dtype="float32"):
        """Returns the empty cache that `step` extends."""
        return self.attention.init_cache(batch, length, dtype)

    def step(self, x, cache, position):
        """One position of a causal block: x [B,1,D] -> [B,1,D] and the extended cache."""
        y, cache = self.attention.step(self.attention_norm(x), cache, position)
        x = x + y
        return x + self._mlp(x, training=False), cache

    def step_reading(self, x, cache, hidden):
        """`step` for a caller that keeps the cache, see `Attention.step_reading`."""
        y, entry = self.attention.step_reading(self.attention_norm(x), cache, hidden)
        x = x + y
        return x + self._mlp(x, training=False), entry


class Transformer(layers.Layer):
    """A stack of blocks, without embedding and without final norm.

    Args:
        config: `TransformerConfig`, its size.
        causal: whether position i sees positions 0..i only.
        salt: of its dropouts; transformers of one model have different ones.

    Attributes:
        rematerialize: in training, whether the inside of each block is computed again for its
            gradient instead of kept (arXiv 1604.06174).
    """

    rematerialize = False

    def __init__(self, config, causal, salt=0, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        first = salt * 2**16
        self.blocks = [
            TransformerBlock(config, causal, first + DROPOUTS * i, name=f"block_{i}")
            for i in range(config.blocks)
        ]
        # tf.train.Checkpoint does not look into lists. Without an attribute a block's weights
        # would be left out, and restoring would not complain.
        for block in self.blocks:
            setattr(self, block.name, block)

    def build(self, input_shape):
        """Creates the weights for inputs [B,N,D]."""
        for block in self.blocks:
            block.build(input_shape)

    def save_memory(self, rematerialize, query_block):
        """Sets `rematerialize`, and the `query_block` of each block's attention."""
        self.rematerialize = rematerialize
        for block in self.blocks:
            block.attention.query_block = query_block

    def call(self, x, training=None):
        """[B,N,D] -> [B,N,D]."""
        for block in self.blocks:
            run = functools.partial(block, training=training)
            x = keras.remat(run)(x) if training and self.rematerialize else run(x)
        return x

    def attention_weights(self, x):
        """Yields each block's attention weights for x [B,N,D]: [B,heads,N,N] float32.

        One block at a time, because all of them together need blocks * B * heads * N^2 numbers.
        """
        for block in self.blocks:
            yield block.attention.weights_of(block.attention_norm(x))
            x = block(x, training=False)
