"""A tokenizer refuses what is certainly no image or token of its kind, in one line."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import vim_tf
from vim_tf.config.sections import QuantizerConfig, TransformerConfig, ViTVQGANConfig
from vim_tf.errors import UserError
from vim_tf.models.vit_vqgan import ViTVQGAN


@pytest.fixture(scope="module")
def model():
    tiny = TransformerConfig(blocks=1, heads=2, dim=16, mlp_dim=24)
    config = ViTVQGANConfig(
        patch_size=4, encoder=tiny, decoder=tiny, quantizer=QuantizerConfig(codes=16, code_dim=4)
    )
    return ViTVQGAN(config, (8, 12))


def pixels(batch=3):
    return np.random.default_rng(0).integers(0, 256, (batch, 8, 12, 3)).astype("uint8")


def good_images():
    return (pixels() / 127.5 - 1).astype("float32")


NORMALIZE = r"vim_tf\.normalize\(images\) makes them from values of 0 to 255$"
RANGE = r"images are float, from -1 \(black\) to 1 \(white\)"


@pytest.mark.parametrize("call", ["tokenize", "encode", "__call__"])
@pytest.mark.parametrize("convert", [np.asarray, tf.constant], ids=["numpy", "tensorflow"])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pixels(), f"^images have the dtype uint8; {RANGE}; {NORMALIZE}"),
        (pixels().astype("int64"), "^images have the dtype int64; "),
        (pixels() > 9, "^images have the dtype bool; "),
        (pixels().astype("float32"), f"^images have values from 0 to 255; {RANGE}; {NORMALIZE}"),
        (2.2 * good_images(), r"^images have values from -2\.2 to 2\.2; "),
        (np.full((1, 8, 12, 3), np.nan, "float32"), "^images have values from nan to nan; "),
        (
            good_images()[0],
            r"^images have the shape \[8, 12, 3\]; this model takes \[batch, 8, 12, 3\]; give one "
            r"image as images\[None\]$",
        ),
        (good_images()[:0], "^images are an empty batch; give one image or more$"),
        (good_images()[..., :1], r"^images have the shape \[3, 8, 12, 1\]; this model takes"),
        (good_images().swapaxes(1, 2), r"^images have the shape \[3, 12, 8, 3\]; this model takes"),
    ],
)
def test_what_is_no_image_is_refused(model, call, convert, images, message):
    with pytest.raises(UserError, match=message) as caught:
        getattr(model, call)(convert(images))
    assert "\n" not in str(caught.value)


def test_text_and_ragged_lists_are_refused(model):
    with pytest.raises(UserError, match=r"^images have the dtype <U1; images are float"):
        model.tokenize(np.full((1, 8, 12, 3), "x"))
    with pytest.raises(UserError, match="^images have rows of different shapes; give one array$"):
        model.tokenize([good_images()[0], good_images()[0, 1:]])


def test_images_of_0_to_1_give_a_warning(model):
    images = (pixels() / 255).astype("float32")
    for given in (images, tf.constant(images)):
        with pytest.warns(
            UserWarning, match=r"^images have values from 0 to 1, none below 0; .*"
        ) as w:
            model.tokenize(given)
        assert "If yours are in [0,1], give 2 * images - 1" in str(w[0].message)
        assert w[0].filename == __file__


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_legal_images_pass_in_silence(model, dtype):
    white = np.ones((2, 8, 12, 3), dtype)
    for images in (good_images().astype(dtype), white, -white, 0 * white, 1.0005 * white):
        expected = model.tokenize(images.astype("float32").clip(-1, 1))
        assert np.mean(np.asarray(model.tokenize(images)) == np.asarray(expected)) > 0.9
    np.testing.assert_array_equal(model.tokenize([*good_images()]), model.tokenize(good_images()))


def test_in_a_graph_only_types_and_shapes_are_checked(model):
    graph = tf.function(model.tokenize, autograph=False)
    assert graph(good_images()).shape == (3, 6)
    with pytest.raises(UserError, match="^images have the dtype uint8; "):
        graph(pixels())
    assert graph(tf.constant(3 * good_images())).shape == (3, 6)  # not known while it is traced
    symbol = keras.Input((8, 12, 3))
    assert model(symbol).shape == (None, 8, 12, 3)


def test_normalize_makes_images_and_to_uint8_takes_them_back(model):
    images = vim_tf.normalize(pixels())
    assert ops.shape(model.tokenize(images)) == (3, 6)
    np.testing.assert_allclose(images, pixels() / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(vim_tf.to_uint8(images), pixels())


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[0, 1, 2, 3, 4, 16]], "tokens are from 0 to 16; tokens are integers from 0 to 15"),
        ([[0, 1, 2, 3, 4, -1]], "tokens are from -1 to 4; tokens are integers from 0 to 15"),
        ([[0.0, 1, 2, 3, 4, 5]], "tokens have the dtype float64; tokens are integers from"),
        ([["a"] * 6], "tokens have the dtype <U1; tokens are integers from 0 to 15"),
        ([[0, 1], [2]], "tokens have rows of different shapes; give one array"),
    ],
)
def test_what_is_no_token_is_refused(model, tokens, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        model.decode_tokens(tokens)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_tokens_of_any_integer_dtype_are_decoded(model, dtype):
    tokens = np.arange(12).reshape(2, 6)
    expected = model.decode_tokens(tf.constant(tokens, "int32"))
    np.testing.assert_array_equal(model.decode_tokens(tokens.astype(dtype)), expected)
