import math

import numpy as np
import pytest
import tensorflow as tf

from vim_tf.config.sections import TransformerConfig
from vim_tf.models.patches import patchify
from vim_tf.models.vit import (
    PositionEmbedding,
    TanhHead,
    ViTDecoder,
    ViTEncoder,
    sincos_positions,
)

TINY = TransformerConfig(blocks=1, heads=2, dim=16, mlp_dim=24)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_sincos_positions_equal_the_formula():
    table = sincos_positions((2, 3), 8)
    assert table.shape == (6, 8)
    assert table.dtype == np.float32
    for number in range(6):
        row, column = divmod(number, 3)
        expected = []
        for place in (row, column):
            expected += [math.sin(place), math.sin(place / 100)]
            expected += [math.cos(place), math.cos(place / 100)]
        np.testing.assert_allclose(table[number], expected, atol=1e-6)


def test_sincos_positions_need_a_multiple_of_four():
    with pytest.raises(ValueError, match="dim is 6"):
        sincos_positions((2, 2), 6)


@pytest.mark.parametrize("kind", ["learned", "sincos"])
def test_positions_are_added_to_each_place(kind):
    layer = PositionEmbedding((2, 3), kind)
    x = normal(4, 6, 8)
    added = np.asarray(layer(x)) - x
    table = layer.table.numpy() if kind == "learned" else sincos_positions((2, 3), 8)
    assert np.std(table) > 0
    np.testing.assert_allclose(added, np.broadcast_to(table, (4, 6, 8)), atol=1e-6)
    assert len(layer.trainable_weights) == (kind == "learned")


def build_positions(grid, kind="learned"):
    layer = PositionEmbedding(grid, kind)
    layer.build((None, None, 4))
    return layer


def test_positions_of_the_same_grid_are_copied():
    old, new = build_positions((3, 4)), build_positions((3, 4))
    new.copy_resized(old)
    np.testing.assert_allclose(new.table, old.table, atol=1e-6)


def test_resized_positions_keep_what_varies_along_rows_and_along_columns():
    """One channel grows along the rows, another along the columns, and one is constant."""
    old, new = build_positions((8, 4)), build_positions((16, 12))
    rows, columns = np.meshgrid(np.arange(8), np.arange(4), indexing="ij")
    old.table.assign(np.stack([rows, columns, 0 * rows + 5, 0 * rows], -1).reshape(32, 4))
    new.copy_resized(old)
    table = new.table.numpy().reshape(16, 12, 4)
    # Pixel centres: position i of n new ones is at (i + 1/2) m / n - 1/2 of m old ones.
    inner = slice(4, -4)  # the border repeats the outer rows
    np.testing.assert_allclose(
        table[inner, inner, 0],
        np.broadcast_to(((np.arange(16) + 0.5) / 2 - 0.5)[inner, None], (8, 4)),
        atol=1e-4,
    )
    np.testing.assert_allclose(
        table[inner, inner, 1],
        np.broadcast_to(((np.arange(12) + 0.5) / 3 - 0.5)[None, inner], (8, 4)),
        atol=1e-4,
    )
    np.testing.assert_allclose(table[..., 2], 5, atol=1e-5)


def test_head_is_two_layers_with_tanh_between():
    head = TanhHead(10, 3)
    x = normal(2, 5, 8) * 3 + 1
    head.build(x.shape)
    for weight in head.weights:
        weight.assign(normal(*weight.shape, seed=len(weight.shape)))
    scale, offset, inner, inner_bias, outer, outer_bias = (w.numpy() for w in head.weights)
    deviation = np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    normed = (x - x.mean(-1, keepdims=True)) / deviation * scale + offset
    expected = np.tanh(normed @ inner + inner_bias) @ outer + outer_bias
    np.testing.assert_allclose(head(x), expected, rtol=1e-4, atol=1e-4)


def test_encoder_is_embedding_positions_blocks_and_head():
    encoder = ViTEncoder(TINY, 4, (2, 3), "learned")
    images = normal(2, 8, 12, 3)
    features = encoder(images)
    assert features.shape == (2, 6, 16)
    x = np.asarray(patchify(images, 4)) @ encoder.embedding.kernel.numpy()
    x = x + encoder.embedding.bias.numpy() + encoder.positions.table.numpy()
    np.testing.assert_allclose(features, encoder.head(encoder.transformer(x)), rtol=1e-4, atol=1e-5)


def test_every_patch_sees_every_other():
    encoder = ViTEncoder(TINY, 4, (2, 3), "sincos")
    images = normal(1, 8, 12, 3)
    before = np.asarray(encoder(images))
    images[0, 7, 11] += 1  # the last patch
    changed = np.abs(np.asarray(encoder(images)) - before).max(-1)[0]
    assert np.all(changed > 1e-5)


@pytest.mark.parametrize("channels", [3, 6])
def test_decoder_puts_each_patch_in_its_place(channels):
    """Without the output of attention, a patch depends only on its own code."""
    decoder = ViTDecoder(TINY, 4, (2, 3), "learned", code_dim=5, channels=channels)
    codes = normal(2, 6, 5)
    images = np.asarray(decoder(codes))
    assert images.shape == (2, 8, 12, channels)
    decoder.transformer.blocks = []
    before = np.asarray(decoder(codes))
    codes[:, 4] += 1  # second row, second column
    changed = np.abs(np.asarray(decoder(codes)) - before).max((0, 3)) > 0
    expected = np.zeros((8, 12), bool)
    expected[4:8, 4:8] = True
    np.testing.assert_array_equal(changed, expected)


def test_all_weights_get_a_gradient():
    encoder = ViTEncoder(TINY, 4, (2, 2), "learned")
    images = tf.constant(normal(2, 8, 8, 3))
    encoder(images)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(encoder(images) ** 2)
    gradients = tape.gradient(loss, [weight.value for weight in encoder.trainable_weights])
    for weight, gradient in zip(encoder.trainable_weights, gradients, strict=True):
        assert np.any(gradient.numpy()), weight.path
