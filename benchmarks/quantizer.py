"""Measures how fast features find their nearest codes, ours and the peer's layer.

    python benchmarks/quantizer.py --vectors 16384 --codes 8192 65536

Features of width 512 are projected to 32 dimensions, l2-normalised, and compared with all codes.
Operations are those of the projection and of the products with all codes.
"""

import argparse

import contest
import keras
import limits
import numpy as np
from keras import ops
from peers_process import open_peers

from vim_tf import command_line
from vim_tf.config.sections import QuantizerConfig
from vim_tf.distribution.compilation import compiled
from vim_tf.models.quantizer import VectorQuantizer

DIM = 512


def main(arguments=None):
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=16384)
    parser.add_argument("--codes", nargs="+", type=int, default=[8192, 65536])
    parser.add_argument("--code-dim", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args(arguments)
    command_line.check_positive(vars(arguments), "repeats", "vectors", "code_dim")
    with open_peers() as peers:
        limit = limits.make_product(2048)
        matches = [make_match(codes, arguments, peers) for codes in arguments.codes]
        warning = contest.hold(matches, [limit], arguments.repeats)
    print(
        f"Keras {keras.__version__} on {keras.backend.backend()}, {arguments.vectors:,} features "
        f"of {DIM}, codes of {arguments.code_dim}, median of {arguments.repeats}; limit, a product "
        f"of 2048^3: {limit.rate / 1e9:,.1f} GFLOP/s\n"
    )
    print(contest.format_table(matches, "features/s", lambda one: one.operations / limit.rate))
    print(f"\n{warning}", end="")


def make_match(codes, arguments, peers):
    """The row for a number of codes."""
    config = QuantizerConfig(codes=codes, code_dim=arguments.code_dim)
    layer = VectorQuantizer(config)
    layer.build((None, None, DIM))
    features = np.random.default_rng(0).normal(size=(16, arguments.vectors // 16, DIM))
    features = ops.convert_to_tensor(features, "float32")
    quantize = compiled(lambda x: layer(x).tokens, layer.variables)
    ours = contest.Contestant(
        f"{codes:,} codes",
        contest.finished(lambda: quantize(features)),
        2 * arguments.vectors * arguments.code_dim * (DIM + codes),
        arguments.vectors,
    )
    if peers is None:
        return contest.Match(ours)
    call, name = peers.make(
        "quantize",
        dim=DIM,
        code_dim=arguments.code_dim,
        codes=codes,
        vectors=arguments.vectors,
    )
    return contest.Match(
        ours, {name: contest.Contestant(f"{name} {codes}", call, items=arguments.vectors)}
    )


if __name__ == "__main__":
    command_line.run(main, any_backend=True)
