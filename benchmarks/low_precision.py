"""What computing in bfloat16 changes in what a run's models say of its held-out pictures.

python benchmarks/low_precision.py --run runs/demo/vim
"""

import argparse

import numpy as np

from vim_tf import command_line, losses
from vim_tf.precision import computing_in
from vim_tf.trained_run import open_run

PICTURES = 512


def main(arguments=None):
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True)
    arguments = parser.parse_args(arguments)
    run = open_run(arguments.run)
    batch = next(iter(run.data.evaluation(batch_size=PICTURES)))
    images, labels = (batch[name].numpy() for name in ("image", "label"))
    tokens, psnr, nats = {}, {}, {}
    for precision in ("float32", "mixed_bfloat16"):
        tokenizer, vim = (in_precision(model, precision) for model in (run.tokenizer, run.vim))
        tokens[precision] = np.asarray(tokenizer.tokenize(images))
        decoded = np.asarray(tokenizer.decode_tokens(tokens[precision]))
        psnr[precision] = float(np.mean(losses.psnr(np.clip(decoded, -1, 1), images)))
        if vim is not None:
            given = labels if vim.classes else None
            logits = vim(tokens["float32"], given)
            nats[precision] = float(losses.cross_entropy(logits, tokens["float32"]))
    agreement = np.mean(tokens["float32"] == tokens["mixed_bfloat16"])
    print(f"{len(images)} held-out pictures of {arguments.run}\n\n| | float32 | mixed_bfloat16 |")
    print("|---|---:|---:|")
    print(f"| tokens as in float32 | | {100 * agreement:.2f}% |")
    rows = {"PSNR of reconstructions (dB)": psnr, "nats a token of VIM": nats}
    for name, found in rows.items():
        if found:
            print(f"| {name} | {found['float32']:.4f} | {found['mixed_bfloat16']:.4f} |")


def in_precision(model, precision):
    """The same weights in a model that computes in another format; None stays None."""
    if model is None or precision == "float32":
        return model
    with computing_in(precision):
        copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


if __name__ == "__main__":
    command_line.run(main)
