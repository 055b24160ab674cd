import contextlib
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf.config.sections import QuantizerConfig, TransformerConfig, ViTVQGANConfig
from vim_tf.data.transforms import normalize
from vim_tf.export import plain_models
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.runs.trained_run import open_run


@pytest.fixture(scope="module")
def run(tiny_runs):
    return open_run(tiny_runs["vit_vqgan"])


@pytest.fixture(scope="module")
def edge(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("edge") / "model"
    plain_models.write_edge_model(run.tokenizer, folder)
    return tf.saved_model.load(str(folder)).signatures


def make_run(**changes):
    """A run without weights at their initial zero or one, so that each weight has an effect."""
    size = TransformerConfig(blocks=2, heads=2, dim=16, mlp_dim=32)
    quantizer = QuantizerConfig(codes=16, code_dim=4, l2_normalize=changes.pop("l2", True))
    config = ViTVQGANConfig(
        patch_size=4, encoder=size, decoder=size, quantizer=quantizer, **changes
    )
    tokenizer = ViTVQGAN(config, (8, 12))
    rng = np.random.default_rng(0)
    for variable in tokenizer.variables:
        variable.assign(rng.normal(0, 0.3, variable.shape))
    return SimpleNamespace(tokenizer=tokenizer)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_trained_run_answers_as_in_keras(run, edge, rows):
    images = normalize(run.images(rows))
    tokens = run.tokenizer.tokenize(images)
    answer = edge["tokenize"](images=tf.constant(images))
    assert list(answer) == ["tokens"] and answer["tokens"].dtype == tf.int32
    np.testing.assert_array_equal(answer["tokens"], tokens)
    answer = edge["decode"](tokens=tf.constant(tokens))
    assert list(answer) == ["images"] and answer["images"].dtype == tf.float32
    np.testing.assert_allclose(answer["images"], run.tokenizer.decode_tokens(tokens), atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"output": "logit_laplace", "positions": "learned"},
        {"output": "rgb", "positions": "sincos", "l2": False},
        {"output": "rgb", "refinement_channels": 5, "overlapping_patches": True},
    ],
    ids=str,
)
def test_every_weight_counts_in_every_variant(changes, tmp_path):
    run = make_run(**changes)
    plain_models.write_edge_model(run.tokenizer, tmp_path / "edge")
    edge = tf.saved_model.load(str(tmp_path / "edge")).signatures
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 16, (5, 6)).astype("int32")
    expected = run.tokenizer.decode_tokens(tokens)
    assert np.mean(np.abs(expected) < 1) > 0.1  # not all values are clipped
    actual = edge["decode"](tokens=tf.constant(tokens))["images"]
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    images = rng.uniform(-1, 1, (50, 8, 12, 3)).astype("float32")
    expected = run.tokenizer.tokenize(images)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(edge["tokenize"](images=tf.constant(images))["tokens"], expected)


def test_the_norm_is_the_layer_norm():
    """By the definition in float64: (x - mean) / sqrt(variance + epsilon) * gamma + beta."""
    rng = np.random.default_rng(0)
    layer = keras.layers.LayerNormalization(epsilon=1e-2)
    layer.build((None, 3, 8))
    gamma, beta, x = rng.normal(size=8), rng.normal(size=8), rng.normal(2, 1, (2, 3, 8))
    layer.set_weights([gamma, beta])
    centered = x - x.mean(-1, keepdims=True)
    expected = centered / np.sqrt(np.square(centered).mean(-1, keepdims=True) + 1e-2) * gamma + beta
    actual = plain_models._normalize(layer, tf.constant(x, tf.float32))
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_the_decoder_computes_no_shapes(run, tmp_path):
    """Keras' own layers would add a shape for each product, and a minus for each norm."""
    plain_models.write_decoder(run.tokenizer, tmp_path / "decoder")
    decode = tf.saved_model.load(str(tmp_path / "decoder")).signatures["decode"]
    graph = decode.graph.as_graph_def()
    operations = set()
    for nodes in [graph.node, *(function.node_def for function in graph.library.function)]:
        operations |= {node.op for node in nodes}
    assert {"MatMul", "Softmax", "Rsqrt"} <= operations
    assert not operations & {"Neg", "Prod", "Shape", "ConcatV2"}


def test_the_decoder_has_no_weights_of_the_encoder(run, tmp_path):
    plain_models.write_decoder(run.tokenizer, tmp_path / "decoder")
    loaded = tf.saved_model.load(str(tmp_path / "decoder"))
    assert list(loaded.signatures) == ["decode"]
    tokenizer = run.tokenizer
    expected = len(tokenizer.decoder.variables) + len(tokenizer.quantizer.variables)
    assert len(loaded.weights) == expected < len(tokenizer.variables)
    tokens = np.zeros((2, tokenizer.tokens_per_image), "int32")
    actual = loaded.signatures["decode"](tokens=tf.constant(tokens))["images"]
    np.testing.assert_allclose(actual, tokenizer.decode_tokens(tokens), atol=1e-5)


@pytest.mark.parametrize("fails", [False, True])
def test_the_keras_model_is_as_before(tmp_path, monkeypatch, fails):
    run = make_run(output="rgb")
    if fails:
        monkeypatch.setattr(run.tokenizer.decoder.head, "call", lambda x: 1 / 0)
    layers = list(plain_models._walk(run.tokenizer))
    dense = sum(type(layer) is keras.layers.Dense for layer in layers)
    assert dense == 2 * (2 * 4 + 3) + 1  # twice two blocks, embedding, head; one projection
    attributes = [set(vars(layer)) for layer in layers]
    with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
        plain_models.write_edge_model(run.tokenizer, tmp_path / "edge")
    assert [set(vars(layer)) for layer in layers] == attributes
