"""Attention in training that keeps few weights: a block of queries at a time.

The weights of a block are computed again for its gradient, so those of all queries are never in
memory together (arXiv 2112.05682, with blocks of queries alone).
"""

from collections.abc import Callable

import keras
from keras import ops

from vim_tf.annotations import Tensor
from vim_tf.models.seeded_dropout import zeros_behind


def attend_in_blocks(
    attend: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block: int,
    causal: bool,
) -> Tensor:
    """Attends in training with `block` queries at a time.

    Args:
        attend: function (query [B,heads,M,d], key, value, visible, training, places) ->
            [B,heads,M,d], which drops attention weights by their `places` [heads,M,N] among the
            weights of all queries.
        query: [B,heads,N,d].
        key: [B,heads,N,d].
        value: [B,heads,N,d].
        block: number of queries at a time.
        causal: whether position i sees positions 0..i only.

    Returns:
        [B,heads,N,d], as of all queries at once.
    """
    heads, length = key.shape[1:3]
    parts = []
    for start in range(0, length, block):
        stop = min(start + block, length)

        def attend_block(query, key, value, start=start, stop=stop):
            seen = stop if causal else length  # later keys do not count
            visible = ops.tril(ops.ones((length, length), "bool"))[start:stop, :seen]
            head = ops.reshape(ops.arange(heads), (-1, 1, 1)) * length
            # Without this dependency TensorFlow folds these numbers into constants of its graph.
            first = start + zeros_behind(query[0, 0, 0, 0], "int32")
            rows = head + ops.reshape(first + ops.arange(stop - start), (-1, 1))  # [heads,M,1]
            return attend(
                query,
                key[:, :, :seen],
                value[:, :, :seen],
                visible if causal else None,
                training=True,
                places=rows * length + ops.arange(seen),
            )

        queries = query[:, :, start:stop]
        if parts:
            # Without this dependency TensorFlow computes several at once, and for the gradient.
            queries = queries + 0 * parts[-1][:, :1, :1, :1]
        # Keys and values are cut inside: the parts that are cut outside would be kept.
        parts.append(keras.remat(attend_block)(queries, key, value))
    return ops.concatenate(parts, axis=2)
