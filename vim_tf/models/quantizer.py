"""Factorised, l2-normalised vector quantizer (section 3.2 of https://arxiv.org/abs/2110.04627)."""

import math
from typing import Any, NamedTuple

from keras import initializers, layers, ops

from vim_tf.annotations import Tensor
from vim_tf.config.sections import QuantizerConfig
from vim_tf.models.attention import fan_in_normal
from vim_tf.models.seeded_dropout import zeros_behind

CODE_BLOCK = 8192  # codes at a time in the search for the nearest
CODE_GROUPS = 64  # of a block, at most


class QuantizerOutput(NamedTuple):
    """What the quantizer makes of features [B,N,D].

    Attributes:
        latents: [B,N,d] float32, the projected features, of unit length if l2-normalised.
        codes: [B,N,d] float32, the nearest code of each, of unit length if l2-normalised. Its
            gradient goes into the codebook.
        tokens: [B,N] int32, the codes' numbers.
    """

    latents: object
    codes: object
    tokens: object


def l2_normalize(x: Tensor) -> Tensor:
    """Scales the last axis to unit length; the epsilon inside keeps gradients finite at zero."""
    return x * ops.rsqrt(ops.sum(ops.square(x), axis=-1, keepdims=True) + 1e-12)


def straight_through(latents: Tensor, codes: Tensor) -> Tensor:
    """Passes codes [B,N,d] on, and their gradient to the latents unchanged."""
    return latents + ops.stop_gradient(codes - latents)


def rotate(latents: Tensor, codes: Tensor) -> Tensor:
    """Passes codes [B,N,d] on; the gradient reaches the latents turned back from code to latent.

    The rotation trick of https://arxiv.org/abs/2410.06424, section 4.2: the output is
    (|code| / |latent|) R latent with the rotation R held constant.
    """
    fixed_latents, fixed_codes = ops.stop_gradient(latents), ops.stop_gradient(codes)
    source, target = l2_normalize(fixed_latents), l2_normalize(fixed_codes)
    middle = l2_normalize(source + target)
    length = ops.norm(fixed_codes, axis=-1, keepdims=True) / (
        ops.norm(fixed_latents, axis=-1, keepdims=True) + 1e-12
    )

    def along(direction):
        return ops.sum(latents * direction, axis=-1, keepdims=True)

    # R = I - 2 middle middle^T + 2 target source^T
    return length * (latents - 2 * along(middle) * middle + 2 * along(source) * target)


def _largest(x):
    """[V,C] -> the largest of each row, [V], and its column, [V] int32; of equal ones the first.

    Which group of columns has it, then which of the group: taking maxima is what processors are
    fast at, and searching takes longer than the products that lead there.
    """
    groups = math.gcd(x.shape[1], CODE_GROUPS)
    size = x.shape[1] // groups
    parts = ops.reshape(x, (-1, size))  # [V*groups,C/groups]
    # top_k, not argmax: Keras' argmax of floats does not convert to TFLite and TF.js.
    largest, group = ops.top_k(ops.reshape(ops.max(parts, axis=1), (-1, groups)), 1, sorted=False)
    group = ops.cast(group[:, 0], "int32")
    own = ops.take(parts, ops.arange(ops.shape(x)[0]) * groups + group, axis=0)  # [V,C/groups]
    _, place = ops.top_k(own, 1, sorted=False)
    return largest[:, 0], group * size + ops.cast(place[:, 0], "int32")


class VectorQuantizer(layers.Layer):
    """Projects features to a low dimension and replaces each by its nearest code.

    Everything here runs in float32, whatever the compute dtype of the model. With 3 codes of 2
    dimensions, features [B,N,D] give latents and codes [B,N,2] and tokens [B,N] in {0, 1, 2}.

    Args:
        config: `QuantizerConfig`.
    """

    def __init__(self, config: QuantizerConfig, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.config = config

    def build(self, input_shape: tuple) -> None:
        """Creates projection and codebook for features [B,N,D]."""
        self.projection = layers.Dense(
            self.config.code_dim,
            kernel_initializer=fan_in_normal(input_shape[-1]),
            dtype="float32",
            name="projection",
        )
        self.projection.build(input_shape)
        self._initializer = initializers.RandomNormal(stddev=self.config.initial_scale)
        self.codebook = self.add_weight(
            name="codebook",
            shape=(self.config.codes, self.config.code_dim),
            initializer=self._initializer,
            aggregation="only_first_replica",  # revival assigns the same codes on every replica
        )

    def initial_codebook(self) -> Tensor:
        """Returns the codebook [K,d] as it was when it was built."""
        return self._initializer(self.codebook.shape)

    def _normalize(self, x: Tensor) -> Tensor:
        return l2_normalize(x) if self.config.l2_normalize else x

    def affinity(self, latents: Tensor, codebook: Tensor | None = None) -> Tensor:
        """Negative squared distance of latents [...,d] to codes -> [...,K].

        Up to a term that is the same for all codes of one latent.

        Args:
            latents: [...,d].
            codebook: [K,d], some of the codes; by default all.
        """
        codes = ops.convert_to_tensor(self.codebook) if codebook is None else codebook
        codes = self._normalize(codes)
        product = ops.matmul(latents, ops.transpose(2 * codes))
        if self.config.l2_normalize:  # the codes' lengths are equal
            return product
        return product - ops.sum(ops.square(codes), axis=-1)

    def nearest(self, latents: Tensor) -> Tensor:
        """Latents [B,N,d] -> the numbers of their nearest codes, [B,N] int32.

        Of equal ones the first. `CODE_BLOCK` codes at a time, so that B * N * K numbers are never
        there at once.
        """
        length, codebook = latents.shape[1], ops.convert_to_tensor(self.codebook)
        latents = ops.reshape(latents, (-1, latents.shape[-1]))  # [V,d]
        codes, dim = codebook.shape
        best, tokens = _largest(self.affinity(latents, codebook[:CODE_BLOCK]))
        for start in range(CODE_BLOCK, codes, CODE_BLOCK):
            size = (min(CODE_BLOCK, codes - start), dim)
            # Without this dependency TensorFlow schedules all blocks at once and memory grows.
            start = start + zeros_behind(best[0], "int32")
            affinity = self.affinity(latents, ops.slice(codebook, (start, 0), size))
            found, places = _largest(affinity)
            tokens = ops.where(found > best, places + start, tokens)
            best = ops.maximum(found, best)
        return ops.reshape(tokens, (-1, length))

    def lookup(self, tokens: Tensor) -> Tensor:
        """Tokens [...] int32 -> codes [...,d], as the decoder takes them."""
        return self._normalize(ops.take(self.codebook, tokens, axis=0))

    def call(self, features: Tensor) -> QuantizerOutput:
        """Features [B,N,D] -> `QuantizerOutput`."""
        latents = self._normalize(self.projection(ops.cast(features, "float32")))  # [B,N,d]
        tokens = self.nearest(ops.stop_gradient(latents))
        return QuantizerOutput(latents, self.lookup(tokens), tokens)

    def pass_codes(self, output: QuantizerOutput) -> Tensor:
        """Codes [B,N,d] for the decoder, with the gradient routed to the latents."""
        route = rotate if self.config.rotation_trick else straight_through
        return route(output.latents, output.codes)
