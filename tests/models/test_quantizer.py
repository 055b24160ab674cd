import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf.config.sections import QuantizerConfig
from vim_tf.models import quantizer as quantizer_module
from vim_tf.models.quantizer import VectorQuantizer, rotate, straight_through


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def make_quantizer(**changes):
    quantizer = VectorQuantizer(QuantizerConfig(**{"codes": 12, "code_dim": 3, **changes}))
    quantizer.build((None, 7, 5))
    return quantizer


@pytest.mark.parametrize("normalized", [True, False])
def test_latents_get_their_nearest_code(normalized):
    keras.utils.set_random_seed(2)  # with some other weights, most latents have the same code
    quantizer = make_quantizer(l2_normalize=normalized, initial_scale=2.0)
    features = normal(4, 7, 5)
    output = quantizer(features)
    latents = features @ quantizer.projection.kernel.numpy() + quantizer.projection.bias.numpy()
    book = quantizer.codebook.numpy()
    if normalized:
        latents, book = unit(latents), unit(book)
    distances = np.sum((latents[:, :, None] - book) ** 2, -1)  # [B,N,K]
    tokens = distances.argmin(-1)
    assert len(np.unique(tokens)) > 3
    np.testing.assert_array_equal(output.tokens, tokens)
    assert output.tokens.dtype == "int32"
    np.testing.assert_allclose(output.latents, latents, atol=1e-5)
    np.testing.assert_allclose(output.codes, book[tokens], atol=1e-5)
    np.testing.assert_array_equal(quantizer.lookup(output.tokens), output.codes)
    # Affinity is the negative squared distance, up to a constant for each latent.
    difference = np.asarray(quantizer.affinity(output.latents)) + distances
    np.testing.assert_allclose(difference, difference[..., :1] + 0 * difference, atol=1e-4)


@pytest.mark.parametrize("block", [4, 5, 16])
def test_codes_in_blocks_are_the_same_choice(monkeypatch, block):
    """Block sizes that divide the number of codes or not. Of equal codes the first is taken."""
    layer = make_quantizer(codes=16)
    layer.codebook.assign(np.tile(layer.codebook[:8], (2, 1)))
    features = normal(2, 50, 5)
    output = layer(features)
    expected = np.argmax(layer.affinity(output.latents)[..., :8], -1)
    monkeypatch.setattr(quantizer_module, "CODE_BLOCK", block)
    for call in (layer, tf.function(layer), tf.function(layer, jit_compile=True)):
        tokens = np.asarray(call(features).tokens)
        np.testing.assert_array_equal(tokens % 8 if block == 5 else tokens, expected)
    assert len(np.unique(expected)) > 3


def test_the_lengths_of_codes_matter_only_without_normalisation():
    lengths = np.linspace(0.1, 3, 12)[:, None]
    for normalized in (True, False):
        quantizer = make_quantizer(l2_normalize=normalized, initial_scale=1.0)
        before = np.asarray(quantizer(normal(4, 7, 5)).tokens)
        quantizer.codebook.assign(quantizer.codebook * lengths)
        same = np.array_equal(before, quantizer(normal(4, 7, 5)).tokens)
        assert same == normalized


def gradient_through(route, latents, codes, upstream):
    latents, codes = tf.constant(latents), tf.constant(codes)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([latents, codes])
        passed = route(latents, codes)
        value = tf.reduce_sum(passed * upstream)
    return passed, tape.gradient(value, latents), tape.gradient(value, codes)


@pytest.mark.parametrize("normalized", [True, False])
def test_straight_through_keeps_the_gradient(normalized):
    latents, codes, upstream = (normal(2, 4, 3, seed=i) for i in range(3))
    if normalized:
        latents, codes = unit(latents), unit(codes)
    passed, to_latents, to_codes = gradient_through(straight_through, latents, codes, upstream)
    np.testing.assert_allclose(passed, codes, atol=1e-6)
    np.testing.assert_allclose(to_latents, upstream)
    assert to_codes is None


@pytest.mark.parametrize("normalized", [True, False])
def test_rotation_trick_turns_the_gradient_back(normalized):
    latents, codes, upstream = (normal(2, 4, 3, seed=i) for i in range(3))
    if normalized:
        latents, codes = unit(latents), unit(codes)
    passed, to_latents, to_codes = gradient_through(rotate, latents, codes, upstream)
    np.testing.assert_allclose(passed, codes, atol=1e-5)
    assert to_codes is None
    for e, q, g, result in zip(
        *(x.reshape(-1, 3).astype("float64") for x in (latents, codes, upstream)),
        np.reshape(to_latents, (-1, 3)),
        strict=True,
    ):
        # Rodrigues' formula for the rotation from e to q in their plane.
        axis = np.cross(unit(e), unit(q))
        cosine = unit(e) @ unit(q)
        cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
        rotation = np.eye(3) + cross + cross @ cross / (1 + cosine)
        scale = np.linalg.norm(q) / np.linalg.norm(e)
        np.testing.assert_allclose(scale * rotation @ e, q, atol=1e-6)
        np.testing.assert_allclose(result, scale * rotation.T @ g, atol=1e-4)
        # The angle between gradient and code becomes the angle between gradient and latent.
        np.testing.assert_allclose(result @ unit(e), scale * g @ unit(q), atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(result), scale * np.linalg.norm(g), rtol=1e-4)


@pytest.mark.parametrize("trick", [True, False])
def test_the_config_picks_the_route(trick):
    quantizer = make_quantizer(rotation_trick=trick)
    output = quantizer(normal(1, 7, 5))
    upstream = normal(1, 7, 3, seed=2)
    with tf.GradientTape() as tape:
        tape.watch(output.latents)
        value = tf.reduce_sum(quantizer.pass_codes(output) * upstream)
    turned = not np.allclose(tape.gradient(value, output.latents), upstream, atol=1e-3)
    assert turned == trick


def test_codes_get_gradients_and_the_choice_gives_none():
    quantizer = make_quantizer()
    features = tf.constant(normal(1, 7, 5))
    with tf.GradientTape() as tape:
        output = quantizer(features)
        loss = tf.reduce_sum(output.codes * normal(1, 7, 3, seed=2))
    book, kernel = tape.gradient(
        loss, [quantizer.codebook.value, quantizer.projection.kernel.value]
    )
    assert kernel is None
    hit = np.zeros(12, bool)
    hit[np.unique(output.tokens)] = True
    moved = np.any(tf.convert_to_tensor(book).numpy(), axis=1)
    np.testing.assert_array_equal(moved, hit)


def test_a_latent_of_zeros_has_finite_gradients():
    quantizer = make_quantizer()
    features = tf.zeros((1, 7, 5))
    with tf.GradientTape() as tape:
        tape.watch(features)
        output = quantizer(features)
        loss = tf.reduce_sum(quantizer.pass_codes(output)) + tf.reduce_sum(output.codes)
    assert np.all(np.isfinite(tape.gradient(loss, features)))


def test_float32_whatever_the_compute_dtype():
    """The codes differ too little for bfloat16."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        quantizer = make_quantizer(l2_normalize=False)
    finally:
        keras.config.set_dtype_policy("float32")
    quantizer.codebook.assign(1 + np.arange(12)[:, None] * 2e-3 * np.ones((12, 3)))
    quantizer.projection.kernel.assign(np.eye(5, 3))
    features = np.ones((1, 7, 5), "float32") + 6e-3
    output = quantizer(tf.constant(features))
    assert output.latents.dtype == output.codes.dtype == "float32"
    np.testing.assert_array_equal(output.tokens, 3)
    assert quantizer(tf.cast(features, "bfloat16")).codes.dtype == "float32"


def test_initial_codebook_is_that_of_the_build():
    quantizer = make_quantizer(initial_scale=0.02)
    first = quantizer.codebook.numpy()
    quantizer.codebook.assign(first + 1)
    np.testing.assert_array_equal(quantizer.initial_codebook(), first)
    other = make_quantizer(initial_scale=0.02)
    assert np.any(other.codebook.numpy() != first)
    assert abs(np.std(make_quantizer(codes=3000).codebook) / 0.02 - 1) < 0.05
