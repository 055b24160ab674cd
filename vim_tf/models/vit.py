"""ViT encoder and decoder of the tokenizer (section 3.1 of https://arxiv.org/abs/2110.04627)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from keras import initializers, layers, ops

from vim_tf.annotations import Tensor
from vim_tf.config.sections import TransformerConfig
from vim_tf.models.attention import fan_in_normal
from vim_tf.models.patches import add_overlapping, patchify, unpatchify
from vim_tf.models.refinement import Refinement
from vim_tf.models.transformer import Transformer


def sincos_positions(grid: tuple[int, int], dim: int) -> np.ndarray:
    """Fixed 2D sine-cosine positions.

    Half of the width encodes the row, half the column; of each half one half is sines and one
    cosines, at wavelengths from 2 pi to 20,000 pi.

    Args:
        grid: rows and columns.
        dim: width D, a multiple of 4.

    Returns:
        NumPy float32 [rows * columns, D].
    """
    if dim % 4:
        raise ValueError(f"dim is {dim}; fixed sin-cos positions need a multiple of 4")
    frequencies = 10_000.0 ** -(np.arange(dim // 4) / (dim // 4))
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    parts = []
    for place in (rows.ravel(), columns.ravel()):
        angles = place[:, None] * frequencies  # [N, D/4]
        parts += [np.sin(angles), np.cos(angles)]
    return np.concatenate(parts, axis=1).astype("float32")  # [N,D]


class PositionEmbedding(layers.Layer):
    """Adds a vector to each place of the grid: [B,N,D] -> [B,N,D]; learned or fixed sin-cos."""

    def __init__(self, grid: tuple[int, int], kind: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grid = grid
        self.kind = kind
        self.table: Any = None  # a variable if it is learned

    def build(self, input_shape: tuple) -> None:
        """Creates the table for inputs [B,N,D]."""
        dim = input_shape[-1]
        if self.kind == "learned":
            self.table = self.add_weight(
                name="positions",
                shape=(self.grid[0] * self.grid[1], dim),
                initializer=initializers.TruncatedNormal(stddev=0.02),
            )
        else:
            self.table = sincos_positions(self.grid, dim)

    def call(self, x: Tensor) -> Tensor:
        """Adds the positions."""
        return x + ops.cast(self.table, x.dtype)

    def copy_resized(self, other: "PositionEmbedding") -> None:
        """Takes the learned positions of `other`, another grid's, bicubically resized."""
        if self.kind != "learned":
            return
        table = ops.reshape(other.table, (1, *other.grid, -1))  # [1,rows,columns,D]
        resized = ops.image.resize(table, self.grid, interpolation="bicubic", antialias=True)
        self.table.assign(ops.reshape(resized, self.table.shape))


class TanhHead(layers.Layer):
    """Norm, then the two-layer feed-forward with tanh between: [B,N,D] -> [B,N,units]."""

    def __init__(self, hidden: int, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden = hidden
        self.units = units

    def build(self, input_shape: tuple) -> None:
        """Creates the weights for inputs [B,N,D]."""
        dim = input_shape[-1]
        self.norm = layers.LayerNormalization(epsilon=1e-6, name="norm")
        self.inner = layers.Dense(
            self.hidden, activation="tanh", kernel_initializer=fan_in_normal(dim), name="inner"
        )
        self.outer = layers.Dense(
            self.units, kernel_initializer=fan_in_normal(self.hidden), name="outer"
        )
        self.norm.build(input_shape)
        self.inner.build(input_shape)
        self.outer.build((*input_shape[:-1], self.hidden))

    def call(self, x: Tensor) -> Tensor:
        """[B,N,D] -> [B,N,units]."""
        return self.outer(self.inner(self.norm(x)))


class ViTEncoder(layers.Layer):
    """Images [B,H,W,3] in [-1,1] -> features [B,N,D]."""

    def __init__(
        self,
        config: TransformerConfig,
        patch_size: int,
        grid: tuple[int, int],
        positions: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.patch_size = patch_size
        self.embedding = layers.Dense(
            config.dim,
            kernel_initializer=fan_in_normal(3 * patch_size**2),
            name="patch_embedding",
        )
        self.positions = PositionEmbedding(grid, positions, name="positions")
        self.transformer = Transformer(config, causal=False, salt=1, name="transformer")
        self.head = TanhHead(config.mlp_dim, config.dim, name="head")

    def build(self, input_shape: tuple) -> None:
        """Creates the weights for images [B,H,W,3]."""
        self.embedding.build((None, None, 3 * self.patch_size**2))
        for layer in (self.positions, self.transformer, self.head):
            layer.build((None, None, self.config.dim))

    def _embed(self, images):
        """[B,H,W,3] -> the transformer's inputs [B,N,D]."""
        return self.positions(self.embedding(patchify(images, self.patch_size)))

    def call(self, images: Tensor, training: bool | None = None) -> Tensor:
        """[B,H,W,3] -> [B,N,D]."""
        return self.head(self.transformer(self._embed(images), training=training))

    def attention_weights(self, images: Tensor) -> Iterator[Tensor]:
        """Yields each block's attention weights for images [B,H,W,3]: [B,heads,N,N] float32."""
        return self.transformer.attention_weights(self._embed(images))


class ViTDecoder(layers.Layer):
    """Codes [B,N,d] -> [B,H,W,channels], without activation on the output.

    With `overlapping`, each token makes a patch of twice the side, see `patches.add_overlapping`.
    `refinement_channels` above 0 adds a `Refinement` of that many channels.
    """

    def __init__(
        self,
        config: TransformerConfig,
        patch_size: int,
        grid: tuple[int, int],
        positions: str,
        code_dim: int,
        channels: int,
        overlapping: bool = False,
        refinement_channels: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.patch_size = patch_size
        self.grid = grid
        self.code_dim = code_dim
        self.channels = channels
        self.embedding = layers.Dense(
            config.dim, kernel_initializer=fan_in_normal(code_dim), name="code_embedding"
        )
        self.positions = PositionEmbedding(grid, positions, name="positions")
        self.transformer = Transformer(config, causal=False, salt=2, name="transformer")
        self.unpatchify = add_overlapping if overlapping else unpatchify
        pixels = (4 if overlapping else 1) * patch_size**2
        self.head = TanhHead(config.mlp_dim, channels * pixels, name="head")
        self.refinement = None
        if refinement_channels:
            self.refinement = Refinement(refinement_channels, name="refinement")

    def build(self, input_shape: tuple) -> None:
        """Creates the weights for codes [B,N,d]."""
        self.embedding.build((None, None, self.code_dim))
        for layer in (self.positions, self.transformer, self.head):
            layer.build((None, None, self.config.dim))
        if self.refinement is not None:
            self.refinement.build((None, None, None, self.channels))

    def call(self, codes: Tensor, training: bool | None = None) -> Tensor:
        """[B,N,d] -> [B,H,W,channels]."""
        x = self.positions(self.embedding(codes))  # [B,N,D]
        patches = self.head(self.transformer(x, training=training))
        images = self.unpatchify(patches, self.patch_size, self.grid)
        return images if self.refinement is None else self.refinement(images)
