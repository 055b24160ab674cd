"""The pre-norm transformer of both stages.

Paper: https://arxiv.org/abs/2110.04627, sections 3.1 (ViT encoder and decoder, no mask) and 3.4
(VIM, causal). The activation and the place of the norms are not stated there; pre-norm and
tanh-GELU are ViT's and GPT's, and tanh-GELU converts to TF.js where the exact one does not.
"""

import functools
from collections.abc import Iterator
from typing import Any

import keras
from keras import layers, ops

from vim_tf.annotations import Tensor
from vim_tf.config.sections import TransformerConfig
from vim_tf.models.attention import Attention, Cache, fan_in_normal
from vim_tf.models.seeded_dropout import RowDropout

DROPOUTS = 4  # in a block


class TransformerBlock(layers.Layer):
    """x + attention(norm(x)), then x + mlp(norm(x)); dropout as in section 3.4."""

    def __init__(
        self, config: TransformerConfig, causal: bool, salt: int = 0, **kwargs: Any
    ) -> None:
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

    def build(self, input_shape: tuple) -> None:
        """Creates the weights for inputs [B,N,D]."""
        for layer in (self.attention_norm, self.attention, self.mlp_norm, self.mlp_in):
            layer.build(input_shape)
        self.mlp_out.build((*input_shape[:-1], self.mlp_in.units))

    def _mlp(self, x, training):
        x = ops.gelu(self.mlp_in(self.mlp_norm(x)), approximate=True)
        return self.mlp_out(self.activation_dropout(x, training=training))

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        """[B,N,D] -> [B,N,D]."""
        y = self.attention(self.attention_norm(x), training=training)
        x = x + self.attention_dropout(y, training=training)
        return x + self.mlp_dropout(self._mlp(x, training), training=training)

    def init_cache(self, batch: int | Tensor, length: int, dtype: str = "float32") -> Cache:
        """Returns the empty cache that `step` reads."""
        return self.attention.init_cache(batch, length, dtype)

    def step(self, x: Tensor, cache: Cache, hidden: Tensor) -> tuple[Tensor, Cache]:
        """One position of a causal block, see `Attention.step`: x [B,1,D] -> [B,1,D]."""
        y, entry = self.attention.step(self.attention_norm(x), cache, hidden)
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

    def __init__(
        self, config: TransformerConfig, causal: bool, salt: int = 0, **kwargs: Any
    ) -> None:
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

    def build(self, input_shape: tuple) -> None:
        """Creates the weights for inputs [B,N,D]."""
        for block in self.blocks:
            block.build(input_shape)

    def save_memory(self, rematerialize: bool, query_block: int) -> None:
        """Sets `rematerialize`, and the `query_block` of each block's attention."""
        self.rematerialize = rematerialize
        for block in self.blocks:
            block.attention.query_block = query_block

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        """[B,N,D] -> [B,N,D]."""
        for block in self.blocks:
            run = functools.partial(block, training=training)
            x = keras.remat(run)(x) if training and self.rematerialize else run(x)
        return x

    def attention_weights(self, x: Tensor) -> Iterator[Tensor]:
        """Yields each block's attention weights for x [B,N,D]: [B,heads,N,N] float32.

        One block at a time, because all of them together need blocks * B * heads * N^2 numbers.
        """
        for block in self.blocks:
            yield block.attention.weights_of(block.attention_norm(x))
            x = block(x, training=False)
