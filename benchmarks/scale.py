"""Measures how the cost of tokenizing grows with tokens, codes, depth and batch.

    python benchmarks/scale.py

It takes the small encoder (8 blocks, width 512) with 256 tokens, 8,192 codes and a batch of 4. In
each group one of them varies. The exponent is the slope of a line through the logarithms. With an
exponent of 1, the cost is proportional.
"""

import argparse
import dataclasses

import contest
import keras
import numpy as np
from forward import PATCH_SIZE, SIZES

from vim_tf import command_line
from vim_tf.config.sections import QuantizerConfig, ViTVQGANConfig
from vim_tf.distribution.compilation import compiled
from vim_tf.models.vit_vqgan import ViTVQGAN

START = {"tokens": 256, "codes": 8192, "blocks": 8, "batch": 4}
VARIED = {
    "tokens": (64, 256, 1024, 4096),
    "codes": (1024, 4096, 16384, 65536),
    "blocks": (2, 4, 8, 16),
    "batch": (1, 4, 16, 64),
}


def main(arguments=None):
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SIZES, default="small")
    parser.add_argument("--varied", nargs="+", choices=VARIED, default=list(VARIED))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args(arguments)
    command_line.check_positive(vars(arguments), "repeats")
    groups = {
        name: [make(arguments.model, **{**START, name: value}) for value in VARIED[name]]
        for name in arguments.varied
    }
    timed = [one for group in groups.values() for one in group]
    contest.run(timed, arguments.repeats)
    print(
        f"Keras {keras.__version__} on {keras.backend.backend()}, {arguments.model}, median of "
        f"{arguments.repeats}\n\n| varied | values | ms | exponent |\n|---|---|---|---:|"
    )
    for name, group in groups.items():
        milliseconds = [1000 * one.time for one in group]
        slope = np.polyfit(np.log(VARIED[name]), np.log(milliseconds), 1)[0]
        values, times = (
            ", ".join(format(n, form) for n in numbers)
            for numbers, form in ((VARIED[name], ","), (milliseconds, ",.1f"))
        )
        print(f"| {name} | {values} | {times} | {slope:.2f} |")
    print(f"\n{contest.warning(timed)}", end="")


def make(model, tokens, codes, blocks, batch):
    """A function that tokenizes a batch of images."""
    side = PATCH_SIZE * round(tokens**0.5)
    size = dataclasses.replace(SIZES[model], blocks=blocks)
    config = ViTVQGANConfig(PATCH_SIZE, size, SIZES["tiny"], quantizer=QuantizerConfig(codes))
    model = ViTVQGAN(config, (side, side))
    tokenize = compiled(model.tokenize, model.variables)
    images = np.random.default_rng(0).uniform(-1, 1, (batch, side, side, 3)).astype("float32")
    name = f"{tokens} tokens, {codes} codes, {blocks} blocks, batch {batch}"
    return contest.Contestant(name, lambda: np.asarray(tokenize(images)), items=batch)


if __name__ == "__main__":
    command_line.run(main)
