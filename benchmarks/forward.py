"""Compares the speed of tokenizing and decoding with that of matrix products on this device.

    python benchmarks/forward.py --models small base --batches 1 4 16
    KERAS_BACKEND=jax python benchmarks/forward.py --precision mixed_bfloat16 --batches 16 64 256

Models have fresh weights. The limit is a product of square matrices in the same precision, measured
in turn with the models. Only operations of matrix products count. Peers have the same size and
precision. They are parti-pytorch's ViT-VQGAN, which also has convolutions, and transformers'
ViTModel, an encoder without a quantizer, which is compared with both directions. Inputs are on the
accelerator before the call, and outputs stay there.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import contest
import keras
import limits
import numpy as np
from keras import ops
from peers_process import open_peers

from vim_tf import command_line
from vim_tf.config.sections import TRANSFORMER_PRESETS, TransformerConfig, ViTVQGANConfig
from vim_tf.costs.operations import (
    count_decoder_operations,
    count_encoder_operations,
    count_quantizer_operations,
)
from vim_tf.distribution.compilation import compiled
from vim_tf.errors import UserError
from vim_tf.models.precision import computing_in
from vim_tf.models.vit_vqgan import ViTVQGAN

PATCH_SIZE = 8
SIZES = {
    "tiny": TransformerConfig(2, 4, 64, 256),
    **{name: TRANSFORMER_PRESETS[name] for name in ("small", "base", "large")},
}

SIGNATURES, KINDS = ("tokenize", "decode"), ("float32", "dynamic_int8")


def main(arguments=None):
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=SIZES, default=["small", "base"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--litert", action="store_true", help="also run LiteRT, float32 and int8")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--precision", choices=("float32", "mixed_bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--product", type=int, default=2048, help="rows of the limit's matrices")
    arguments = parser.parse_args(arguments)
    command_line.check_positive(vars(arguments), "repeats", "product")
    if min(arguments.batches) < 1 or arguments.image_size % PATCH_SIZE or arguments.image_size < 1:
        raise UserError(
            f"--batches is {arguments.batches} and --image-size {arguments.image_size}; batches "
            f"must be 1 or more, and the size a multiple of {PATCH_SIZE}"
        )
    with open_peers() as peers, tempfile.TemporaryDirectory() as folder:
        limit = limits.make_product(arguments.product, arguments.precision)
        matches = [
            match
            for name in arguments.models
            for match in make_matches(name, arguments, peers, Path(folder))
        ]
        warning = contest.hold(matches, [limit], arguments.repeats)
    print(
        f"Keras {keras.__version__} on {keras.backend.backend()}, {arguments.precision}, "
        f"{arguments.image_size} px, median of {arguments.repeats}; limit, a product of "
        f"{arguments.product}^3: {limit.rate / 1e9:,.1f} GFLOP/s\n"
    )
    print(contest.format_table(matches, "img/s", lambda one: one.operations / limit.rate))
    print(f"\n{warning}", end="")


def make_matches(name, arguments, peers, folder):
    """Yields the rows for tokenizing and decoding with a model, for each batch size."""
    size, image_size = SIZES[name], (arguments.image_size, arguments.image_size)
    config = ViTVQGANConfig(PATCH_SIZE, size, size)
    with computing_in(arguments.precision):
        model = ViTVQGAN(config, image_size)
    tokenize = compiled(model.tokenize, model.variables)
    decode = compiled(model.decode_tokens, model.variables)
    if arguments.litert:
        write_files(name, ViTVQGAN(config, image_size), folder)  # LiteRT computes in float32 only
    encoding = count_encoder_operations(config, image_size)
    encoding += count_quantizer_operations(config, image_size)
    decoding = count_decoder_operations(config, image_size)
    random = np.random.default_rng(0)
    for batch in arguments.batches:
        images = ops.convert_to_tensor(random.uniform(-1, 1, (batch, *image_size, 3)), "float32")
        shape = (batch, model.tokens_per_image)
        tokens = ops.convert_to_tensor(random.integers(0, config.quantizer.codes, shape), "int32")
        for what, peer, call, x, operations in (
            ("tokenize", "parti_tokenize", tokenize, images, encoding),
            ("decode", "parti_decode", decode, tokens, decoding),
        ):
            others = make_others(peers, peer, config, arguments, batch)
            calls = {"": lambda call=call, x=x: call(x)}
            if arguments.litert:
                calls |= load_files(folder, name, what, x)
            for kind, call in calls.items():
                title = f"{name}, {what} {batch}{kind}"
                ours = contest.Contestant(title, contest.finished(call), batch * operations, batch)
                yield contest.Match(ours, others)


def write_files(name, tokenizer, folder):
    """Converts a tokenizer for LiteRT, with float32 weights and with int8 weights."""
    from vim_tf.export import plain_models
    from vim_tf.export.litert import tflite

    plain_models.write_edge_model(tokenizer, folder / name)
    for what, kind in itertools.product(SIGNATURES, KINDS):
        data = tflite.convert(folder / name, what, kind)
        (folder / f"{name}_{what}_{kind}.tflite").write_bytes(data)


def load_files(folder, name, what, x):
    """Returns {", LiteRT ...": a call on x}."""
    from vim_tf.export.litert import tflite

    return {
        f", LiteRT {kind}": tflite.load_tflite(
            folder / f"{name}_{what}_{kind}.tflite", ops.convert_to_numpy(x)
        )
        for kind in KINDS
    }


def make_others(peers, case, config, arguments, batch):
    """The others that a row is compared with: {column: `Contestant`}."""
    if peers is None:
        return {}
    size, quantizer = config.encoder, config.quantizer
    sizes = dict(dim=size.dim, blocks=size.blocks, heads=size.heads, mlp_dim=size.mlp_dim)
    sizes |= dict(image_size=arguments.image_size, patch_size=PATCH_SIZE, batch=batch)
    sizes |= dict(precision=arguments.precision)
    codes = dict(codes=quantizer.codes, code_dim=quantizer.code_dim)
    made = [peers.make(case, **sizes, **codes), peers.make("vit", **sizes)]
    return {name: contest.Contestant(f"{name} {batch}", call, 0, batch) for call, name in made}


if __name__ == "__main__":
    command_line.run(main, any_backend=True)
