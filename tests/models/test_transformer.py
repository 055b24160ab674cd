import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf.config.sections import TransformerConfig
from vim_tf.models.attention import fan_in_normal, hide_from, put
from vim_tf.models.seeded_dropout import row_keys
from vim_tf.models.transformer import Transformer, TransformerBlock

CONFIG = TransformerConfig(blocks=2, heads=3, dim=12, mlp_dim=20)
INPUT = np.random.default_rng(0).normal(size=(2, 7, 12)).astype("float32")


def randomize(layer, seed=1):
    """Gives every weight a random value, because biases of 0 and scales of 1 would hide errors."""
    random = np.random.default_rng(seed)
    for weight in layer.trainable_variables:
        weight.assign(random.normal(size=weight.shape) * 0.5 + ("gamma" in weight.path))
    return layer


def make_transformer(causal, **changes):
    config = TransformerConfig(**{**vars(CONFIG), **changes})
    transformer = Transformer(config, causal)
    transformer.build((None, 7, 12))
    return randomize(transformer)


# The definition, in NumPy and float64 -----------------------------------------------------------


def numpy_norm(x, norm):
    gamma, beta = (weight.numpy().astype("float64") for weight in (norm.gamma, norm.beta))
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * gamma + beta


def numpy_gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def numpy_attention(x, attention, causal):
    batch, length, dim = x.shape
    heads, width = attention.heads, dim // attention.heads
    kernel = attention.qkv.kernel.numpy().astype("float64")
    output = np.zeros_like(x)
    for b in range(batch):
        query, key, value = np.split(x[b] @ kernel, 3, axis=1)  # each [N,D]
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            for i in range(length):
                seen = i + 1 if causal else length
                scores = key[:seen, part] @ query[i, part] / np.sqrt(width)
                weights = np.exp(scores - scores.max())
                output[b, i, part] = weights / weights.sum() @ value[:seen, part]
    projection = attention.projection
    return output @ projection.kernel.numpy() + projection.bias.numpy()


def numpy_block(x, block, causal):
    x = x + numpy_attention(numpy_norm(x, block.attention_norm), block.attention, causal)
    hidden = numpy_norm(x, block.mlp_norm) @ block.mlp_in.kernel.numpy()
    hidden = numpy_gelu(hidden + block.mlp_in.bias.numpy())
    return x + hidden @ block.mlp_out.kernel.numpy() + block.mlp_out.bias.numpy()


@pytest.mark.parametrize("causal", [False, True])
def test_matches_the_definition(causal):
    transformer = make_transformer(causal)
    expected = INPUT.astype("float64")
    for block in transformer.blocks:
        expected = numpy_block(expected, block, causal)
    np.testing.assert_allclose(transformer(INPUT), expected, rtol=1e-4, atol=1e-4)


# Attention weights ------------------------------------------------------------------------------


def numpy_attention_weights(x, attention, causal):
    """softmax(Q K^T / sqrt d) of each head, [B,heads,N,N] in float64."""
    batch, length, dim = x.shape
    query, key, _ = np.split(x @ attention.qkv.kernel.numpy().astype("float64"), 3, axis=-1)
    shape = (batch, length, attention.heads, dim // attention.heads)
    query, key = (part.reshape(shape).transpose(0, 2, 1, 3) for part in (query, key))
    scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(shape[-1])
    if causal:
        scores[..., np.triu(np.ones((length, length), bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_weights_match_the_definition(causal):
    transformer = make_transformer(causal, dropout=0.5)  # dropout does not act on them
    x = INPUT.astype("float64")
    found = [np.asarray(weights) for weights in transformer.attention_weights(INPUT)]
    assert len(found) == 2
    for block, weights in zip(transformer.blocks, found, strict=True):
        assert weights.shape == (2, 3, 7, 7) and weights.dtype == np.float32
        expected = numpy_attention_weights(
            numpy_norm(x, block.attention_norm), block.attention, causal
        )
        np.testing.assert_allclose(weights, expected, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
        if causal:
            assert np.all(np.triu(weights, 1) == 0)
        else:
            assert np.any(np.triu(weights, 1) > 0.1)
        x = numpy_block(x, block, causal)


# Visible positions ------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
def test_what_a_position_depends_on(causal):
    transformer = make_transformer(causal)
    before = transformer(INPUT).numpy()
    for place in range(7):
        changed = INPUT.copy()
        changed[:, place] += 1
        differs = np.any(transformer(changed).numpy() != before, axis=(0, 2))
        expected = np.arange(7) >= place if causal else np.full(7, True)
        np.testing.assert_array_equal(differs, expected)


# One position at a time -------------------------------------------------------------------------


def test_steps_equal_the_whole():
    block = make_transformer(causal=True).blocks[0]
    expected = block(INPUT).numpy()
    # Values in the cache at later positions are not read.
    cache = tuple(part + 1e3 for part in block.init_cache(2, 7))
    for position in range(7):
        x, hidden = INPUT[:, position : position + 1], hide_from(position, 7)
        y, entry = block.step(x, cache, hidden)
        cache = put(cache, entry, np.int32(position))
        assert y.shape == (2, 1, 12)
        np.testing.assert_allclose(y[:, 0], expected[:, position], rtol=1e-5, atol=1e-5)


def test_cache_has_the_given_dtype():
    block = make_transformer(causal=True).blocks[0]
    for part in block.init_cache(2, 7, "float16"):
        assert part.shape == (2, 3, 7, 4) and part.dtype == "float16"
        assert not np.any(part)


# Dropout ----------------------------------------------------------------------------------------


def test_dropout_acts_in_training_only():
    with_dropout, without = make_transformer(True, dropout=0.5), make_transformer(True)
    expected = without(INPUT).numpy()
    for training in (None, False):
        np.testing.assert_array_equal(with_dropout(INPUT, training=training), expected)
    np.testing.assert_array_equal(without(INPUT, training=True), expected)
    first = with_dropout(INPUT, training=True).numpy()
    assert np.any(first != with_dropout(INPUT, training=True).numpy())


@pytest.mark.parametrize("place", ["attention", "activation", "residual"])
def test_dropout_has_three_places(place):
    block = make_transformer(True, dropout=0.5).blocks[0]
    dropouts = {
        "attention": [block.attention.dropout],
        "activation": [block.activation_dropout],
        "residual": [block.attention_dropout, block.mlp_dropout],
    }
    for name, places in dropouts.items():
        for dropout in places:
            dropout.rate = 1 - 1e-9 if name == place else 0.0  # everything is dropped there
    dropped = block(INPUT, training=True).numpy()
    if place == "residual":
        expected = INPUT
    else:
        # Only the bias of the next layer is left, as if its kernel were zero.
        after = block.attention.projection if place == "attention" else block.mlp_out
        after.kernel.assign(after.kernel * 0)
        expected = block(INPUT, training=False).numpy()
    np.testing.assert_allclose(dropped, expected, rtol=1e-5, atol=1e-5)


# Precision, gradients and start -----------------------------------------------------------------


def test_bfloat16_is_close_and_keeps_its_softmax_in_float32(monkeypatch):
    expected = make_transformer(causal=True)(INPUT).numpy()
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        low = make_transformer(causal=True)
    finally:
        keras.config.set_dtype_policy(policy)
    softmax, seen = keras.ops.softmax, []
    monkeypatch.setattr(keras.ops, "softmax", lambda x: (seen.append(x.dtype), softmax(x))[1])
    output = low(INPUT)
    assert seen == ["float32"] * 2
    assert output.dtype == "bfloat16"
    error = np.abs(np.asarray(output, "float32") - expected).max() / np.abs(expected).max()
    assert 0 < error < 0.05


def test_initial_kernels_have_the_deviation_of_their_fan_in():
    block = TransformerBlock(TransformerConfig(1, 4, 64, 256), causal=True)
    block.build((None, 7, 64))
    for dense, fan_in in (
        (block.attention.qkv, 64),
        (block.attention.projection, 64),
        (block.mlp_in, 64),
        (block.mlp_out, 256),
    ):
        # Keras' TruncatedNormal cuts at two deviations, which reduces the deviation to 0.88.
        deviation = np.std(dense.kernel.numpy()) * np.sqrt(fan_in)
        assert deviation == pytest.approx(0.88, abs=0.03)
    assert np.any(block.mlp_in.kernel[:, :64] != block.attention.projection.kernel)
    assert fan_in_normal(64) is not fan_in_normal(64)


def test_a_checkpoint_holds_every_weight(tmp_path):
    transformer, other = make_transformer(True), make_transformer(True)
    randomize(other, seed=2)
    path = tf.train.Checkpoint(model=transformer).write(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(model=other).read(path).assert_consumed()
    for weight, restored in zip(transformer.weights, other.weights, strict=True):
        np.testing.assert_array_equal(restored, weight)


def test_every_weight_gets_a_gradient():
    transformer = make_transformer(causal=True)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(transformer(INPUT) ** 2)
    gradients = tape.gradient(loss, [weight.value for weight in transformer.trainable_variables])
    assert len(gradients) == 2 * 11
    assert all(float(tf.reduce_max(tf.abs(gradient))) > 1e-3 for gradient in gradients)


# Less memory ------------------------------------------------------------------------------------


def gradients(transformer, x):
    """The output, and the gradients of the input and of all weights, with dropout."""
    weights = [variable.value for variable in transformer.trainable_variables]
    with row_keys(np.arange(x.shape[0], dtype="uint32")):  # also for recomputed blocks
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = transformer(x, training=True)
            loss = tf.reduce_sum(y**2)
        return [y, *tape.gradient(loss, [x, *weights])]


# Eager, a graph, XLA.
@pytest.mark.parametrize("compiled", [None, False, pytest.param(True, marks=pytest.mark.large)])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("rematerialize", "query_block"), [(True, 0), (False, 3), (True, 3), (False, 2), (False, 7)]
)
def test_what_is_computed_again_is_the_same(causal, compiled, rematerialize, query_block):
    transformer = make_transformer(causal, dropout=0.4)
    plain = gradients(transformer, tf.constant(INPUT))
    transformer.save_memory(rematerialize, query_block)
    compute = gradients
    if compiled is not None:
        compute = tf.function(gradients, jit_compile=compiled, autograph=False)
    for expected, actual in zip(plain, compute(transformer, tf.constant(INPUT)), strict=True):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * scale)


def test_outside_of_training_nothing_is_computed_again(monkeypatch):
    transformer = make_transformer(causal=True)
    expected = transformer(INPUT)
    transformer.save_memory(True, 3)
    monkeypatch.setattr(keras, "remat", None)
    np.testing.assert_array_equal(transformer(INPUT), expected)
