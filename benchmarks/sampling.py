"""Compares the time to draw a token with the time to read the weights once, and with a peer.

    python benchmarks/sampling.py --batches 1 8 32
    python benchmarks/sampling.py --batches 1 --tokens 1024 --guidance

VIM has fresh weights, 85M parameters in its blocks and 8,192 codes. The peer is GPT-2 of the same
size in transformers' `generate`. With --litert the files of an export draw tokens too, see
`vim_tf.generation.litert_vim`.
The limit of a token: its weights are read from memory once, and its products are computed in the
precision of --precision. Keys and values are not counted.
"""

import argparse
import functools
import itertools
import statistics
import tempfile
import time
from pathlib import Path

import contest
import keras
import limits
import numpy as np
from peers_process import open_peers

from vim_tf import command_line
from vim_tf.config.sections import TransformerConfig, VIMConfig
from vim_tf.costs.operations import count_vim_operations
from vim_tf.models.precision import computing_in
from vim_tf.models.vim import VIM

SIZES = {"tiny": TransformerConfig(2, 4, 64, 256), "91M": TransformerConfig(12, 12, 768, 3072)}
CODES, CLASSES = 8192, 10
ROUNDS = 2


def main(arguments=None):
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SIZES, default="91M")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=256, help="tokens per image, a square number")
    parser.add_argument("--litert", action="store_true", help="also run LiteRT, float32 and int8")
    parser.add_argument("--guidance", action="store_true", help="also draw with guidance")
    parser.add_argument("--precision", choices=("float32", "mixed_bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--product", type=int, default=2048, help="rows of the limit's matrices")
    arguments = parser.parse_args(arguments)
    command_line.check_positive(vars(arguments), "repeats", "tokens", "product")
    with open_peers() as peers, tempfile.TemporaryDirectory() as folder:
        matches = list(make_matches(arguments, peers, Path(folder)))
        product = limits.make_product(arguments.product, arguments.precision)
        stream = limits.make_stream()
        warning = contest.hold(matches, [product, stream], arguments.repeats)
    print(
        f"Keras {keras.__version__} on {keras.backend.backend()}, {arguments.precision}, "
        f"{arguments.model}, {arguments.tokens} tokens an image, median of {arguments.repeats}; "
        f"limits: reading {stream.bandwidth / 1e9:.1f} GB/s, products "
        f"{product.rate / 1e9:,.0f} GFLOP/s\n"
    )

    def least(one):
        return max(one.traffic / stream.bandwidth, one.operations / product.rate)

    print(contest.format_table(matches, "tokens/s", least))
    print(f"\n{warning}", end="")
    for match in matches:
        print(f"{match.ours.name}: last row of tokens / first: {compare_rows(match.ours.call):.2f}")


def make_matches(arguments, peers, folder):
    """Yields a row for each batch size and sampler; with guidance, one more row for each."""
    size = SIZES[arguments.model]
    side = round(arguments.tokens**0.5)
    make = functools.partial(VIM, VIMConfig(size), (side, side), CODES, CLASSES)
    with computing_in(arguments.precision):
        model = make()
    tokens = model.tokens_per_image
    weights = model.count_params() - CODES * size.dim  # only one row of the embedding is read
    if arguments.litert:
        from vim_tf.export.litert import tflite_generator

        tflite_generator.write_files(make(), (), folder)  # LiteRT computes in float32 only
    for batch in arguments.batches:
        others = {}
        for cache in ("static", "dynamic") if peers else ():
            call, name = peers.make(
                "sample",
                dim=size.dim,
                blocks=size.blocks,
                heads=size.heads,
                mlp_dim=size.mlp_dim,
                codes=CODES,
                tokens=tokens,
                batch=batch,
                cache=cache,
                precision=arguments.precision,
            )
            others[name] = contest.Contestant(f"{name} {batch}", call, items=batch * tokens)
        for (name, generate, width), guidance in itertools.product(
            make_samplers(model, arguments, folder),
            (False, True) if arguments.guidance else (False,),
        ):
            call = functools.partial(
                generate,
                np.arange(batch) % CLASSES,
                seed=0,
                guidance_scale=2.0 if guidance else 1.0,
            )
            rows = batch * (1 + guidance)
            yield contest.Match(
                contest.Contestant(
                    f"{name}, batch {batch}{', guidance' * guidance}",
                    contest.finished(call),
                    rows * count_vim_operations(model.config, tokens, CODES),
                    batch * tokens,
                    tokens * width * weights,
                ),
                {} if guidance else others,
            )


def compare_rows(call):
    """Time of the last row of a grid divided by that of its first row, by `call(callback=)`."""
    ratios = []
    for _ in range(ROUNDS + 1):
        times = [time.perf_counter()]
        call(callback=lambda *_, times=times: times.append(time.perf_counter()))
        ratios.append((times[-1] - times[-2]) / (times[1] - times[0]))
    return statistics.median(ratios[1:])  # the first round compiles


def make_samplers(model, arguments, folder):
    """Yields (name, function like `VIM.generate`, bytes per weight).

    LiteRT gets a new LiteVIM for each batch size, as a new number of rows packs all weights again.
    """
    yield "Keras", model.generate, 4 if arguments.precision == "float32" else 2
    if arguments.litert:
        from vim_tf.export.litert import tflite_generator
        from vim_tf.generation.litert_vim import LiteVIM

        for (file, (kind, *_)), width in zip(tflite_generator.FILES.items(), (4, 1), strict=True):
            yield f"LiteRT {kind}", LiteVIM(folder / file).generate, width


if __name__ == "__main__":
    command_line.run(main, any_backend=True)
