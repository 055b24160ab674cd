"""Models as small SavedModels of plain operations, which LiteRT and TF.js are made from.

What stands in the way on a phone or in a browser is left out: strings, images in files, errors by
row, random numbers. The weights, and the numbers up to rounding, are those of the Keras model.
"""

import contextlib
import functools
from pathlib import Path

import keras
import tensorflow as tf

from vim_tf.generation.litert_vim import NEXT_LOGITS
from vim_tf.models.attention import Attention
from vim_tf.models.quantizer import VectorQuantizer
from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN

DECODE = "decode"
TOKENIZE = "tokenize"


def write_edge_model(tokenizer: ViTVQGAN, folder: Path) -> None:
    """Writes a SavedModel of two signatures, float32, any number of rows B at once.

        decode      tokens int32 [B,N] -> images float32 [B,H,W,3] in [-1,1]
        tokenize    images float32 [B,H,W,3] in [-1,1] -> tokens int32 [B,N] in raster order

    Tokens are not checked: one that is no code of the model is refused by LiteRT, not by TF.js.

    Args:
        tokenizer: the `ViTVQGAN`.
        folder: where to; made here.
    """
    parts = (tokenizer.quantizer, tokenizer.decoder, tokenizer.encoder)
    _write_tokenizer(tokenizer, folder, (DECODE, TOKENIZE), parts)


def write_decoder(tokenizer: ViTVQGAN, folder: Path) -> None:
    """Writes a SavedModel of `decode` alone, for converters that take one signature.

    It holds the weights of codebook and decoder, and no others. Arguments as of
    `write_edge_model`.
    """
    _write_tokenizer(tokenizer, folder, (DECODE,), (tokenizer.quantizer, tokenizer.decoder))


def write_generator(vim: VIM, folder: Path) -> None:
    """Writes a SavedModel of one signature, one position of a `VIM`, any number of rows B at once.

        next_logits     previous int32 [B], labels int32 [B], position int32 scalar, hidden float32
                        [M], and for each block i keys_i and values_i float32 [B,heads,M,head_dim]
                        -> logits float32 [B,K], keys_i and values_i float32 [B,heads,1,head_dim]

    The caller keeps the keys and values, of which there may be any number M from `position`
    on, and puts those that come back at `position`. `hidden` is 0 before `position`, and
    `attention.HIDDEN` from there on, where the others have to be finite.

    Args:
        vim: the `VIM`.
        folder: where to; made here.
    """
    blocks = range(len(vim.transformer.blocks))
    names = [name for i in blocks for name in (f"keys_{i}", f"values_{i}")]
    attention = vim.transformer.blocks[0].attention
    shape = [None, attention.heads, None, attention.head_dim]

    def next_logits(previous, labels, position, hidden, *cache):
        pairs = tuple(zip(cache[::2], cache[1::2], strict=True))
        logits, entries = vim.next_logits_reading(previous, position, pairs, labels, hidden)
        flat = [array for entry in entries for array in entry]
        return {"logits": logits, **dict(zip(names, flat, strict=True))}

    signature = [
        tf.TensorSpec([None], tf.int32, "previous"),
        tf.TensorSpec([None], tf.int32, "labels"),
        tf.TensorSpec([], tf.int32, "position"),
        tf.TensorSpec([None], tf.float32, "hidden"),
        *(tf.TensorSpec(shape, tf.float32, name) for name in names),
    ]
    function = tf.function(next_logits, input_signature=signature, autograph=False)
    _write({NEXT_LOGITS: function}, (vim,), folder)


def _write_tokenizer(tokenizer, folder, names, parts):
    functions = _functions(tokenizer)
    _write({name: functions[name] for name in names}, parts, folder)


def _write(functions, parts, folder):
    module = tf.Module()
    module.weights = [variable.value for part in parts for variable in part.variables]
    with _plain_layers(parts):
        signatures = {
            name: function.get_concrete_function() for name, function in functions.items()
        }
    tf.saved_model.save(module, str(folder), signatures=signatures)


def _functions(tokenizer):
    """Signature's name -> `tf.function`."""
    codes = tokenizer.config.quantizer.codes

    def decode(tokens):
        # The codes of all tokens first: a converter computes them once and for all, and no
        # square root is left to be computed in 8 bits.
        codebook = tokenizer.quantizer.lookup(tf.range(codes))  # [K,d]
        return {"images": tokenizer.decode(tf.gather(codebook, tokens))}

    def tokenize(images):
        return {"tokens": tokenizer.tokenize(images)}

    tokens = tf.TensorSpec([None, tokenizer.tokens_per_image], tf.int32, "tokens")
    images = tf.TensorSpec([None, *tokenizer.image_size, 3], tf.float32, "images")
    return {
        DECODE: tf.function(decode, input_signature=[tokens], autograph=False),
        TOKENIZE: tf.function(tokenize, input_signature=[images], autograph=False),
    }


# Layers that convert well -----------------------------------------------------------------------


@contextlib.contextmanager
def _plain_layers(parts):
    """Lets layers be traced in the form that converters know.

    As Keras writes them, half of a converted decoder's operations compute shapes, each bias is a
    separate sum, which costs 8-bit weights 2 dB, and each norm keeps a minus in float32.
    """
    replaced = []  # (layer, name of a method, function)
    for layer in (layer for part in parts for layer in _walk(part)):
        if type(layer) is keras.layers.Dense:
            replaced.append((layer, "call", functools.partial(_dense, layer)))
        elif type(layer) is keras.layers.Conv2D:
            replaced.append((layer, "call", functools.partial(_convolve, layer)))
        elif type(layer) is keras.layers.LayerNormalization:
            replaced.append((layer, "call", functools.partial(_normalize, layer)))
        elif isinstance(layer, VectorQuantizer):
            replaced.append((layer, "affinity", functools.partial(_affinity, layer.affinity)))
        elif isinstance(layer, Attention):
            replaced += [(layer, "score", _score), (layer, "mix", _mix)]
    for layer, name, function in replaced:
        setattr(layer, name, function)
    try:
        yield
    finally:
        for layer, name, _ in replaced:
            delattr(layer, name)


def _walk(layer):
    """A layer and all those inside."""
    yield layer
    for part in vars(layer).values():
        if isinstance(part, keras.Layer):
            yield from _walk(part)


def _dense(layer, x, training=None):
    """What `keras.layers.Dense` computes, as one product of matrices: [...,D] -> [...,units]."""
    y = tf.matmul(tf.reshape(x, (-1, x.shape[-1])), layer.kernel)  # [B*N,units]
    if layer.use_bias:
        y += layer.bias
    return layer.activation(tf.reshape(y, (-1, *x.shape[1:-1], layer.units)))


def _convolve(layer, x):
    """What `keras.layers.Conv2D` computes in a `Refinement`: [B,H,W,C] -> [B,H,W,filters]."""
    return tf.nn.bias_add(tf.nn.conv2d(x, layer.kernel, 1, "SAME"), layer.bias)


def _affinity(affinity, latents, codebook):
    """What a quantizer computes, of codes that no converter takes for weights to be rounded.

    With codes of 8 bits many more tokens would be others than weights of 8 bits make so.
    """
    zero = tf.minimum(tf.reduce_min(tf.square(latents)), 0.0)
    return affinity(latents, codebook + zero)


def _score(query, keys):
    """`Attention.score` as sums: LiteRT would copy the cache for a product of matrices."""
    return tf.reduce_sum(query * keys, axis=-1)


def _mix(weights, values):
    """`Attention.mix` as sums."""
    return tf.reduce_sum(tf.expand_dims(weights, -1) * values, axis=2, keepdims=True)


def _normalize(layer, x):
    """What `keras.layers.LayerNormalization` computes of the last axis: [...,D] -> [...,D]."""
    centered = x - tf.reduce_mean(x, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True)
    return centered * tf.math.rsqrt(variance + layer.epsilon) * layer.gamma + layer.beta
