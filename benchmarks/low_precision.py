"""Measures how lower precision changes the results of a run's models on its held-out images.

    python benchmarks/low_precision.py --run runs/demo/vim
    python benchmarks/low_precision.py --run runs/demo/vim --litert out/tflite/1

Keras computes in bfloat16. With --litert, the files of the run's export compute with int8 weights.
Each format tokenizes, decodes its own tokens, and predicts the tokens of float32.
"""

import argparse
from pathlib import Path

import numpy as np

from vim_tf import command_line, losses
from vim_tf.models.precision import computing_in
from vim_tf.runs.trained_run import open_run

IMAGES = 512
ROWS = {
    "tokens as in float32 (%)": "{:.2f}",
    "PSNR of reconstructions (dB)": "{:.4f}",
    "nats per token of VIM": "{:.4f}",
}


def main(arguments=None):
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--litert", metavar="DIR", help="LiteRT files of the run's export")
    arguments = parser.parse_args(arguments)
    run = open_run(arguments.run)
    batch = next(iter(run.data.evaluation(batch_size=IMAGES)))
    images, labels = (batch[name].numpy() for name in ("image", "label"))
    expected = np.asarray(run.tokenizer.tokenize(images))
    formats = {name: keras_models(run, name) for name in ("float32", "mixed_bfloat16")}
    if arguments.litert:
        formats["LiteRT int8"] = litert_models(run, Path(arguments.litert))
    columns = []
    for tokenize, decode, predict in formats.values():
        tokens = np.asarray(tokenize(images))
        decoded = np.clip(np.asarray(decode(tokens)), -1, 1)
        column = [100 * np.mean(tokens == expected), np.mean(losses.psnr(decoded, images))]
        if run.vim is not None:
            logits = predict(expected, labels if run.vim.classes else None)
            column.append(losses.cross_entropy(logits, expected))
        columns.append(column)
    print(f"{len(images)} held-out images of {arguments.run}\n\n| | {' | '.join(formats)} |")
    print(f"|---|{'---:|' * len(formats)}")
    for (name, form), found in zip(ROWS.items(), zip(*columns, strict=True), strict=False):
        print(f"| {name} | {' | '.join(form.format(float(x)) for x in found)} |")


def keras_models(run, precision):
    """(tokenize, decode, predict) of the run's models in the given precision."""
    tokenizer, vim = (in_precision(model, precision) for model in (run.tokenizer, run.vim))
    return tokenizer.tokenize, tokenizer.decode_tokens, vim


def litert_models(run, folder):
    """The same functions of an export, with int8 weights."""
    from vim_tf.export.litert.tflite import run_tflite
    from vim_tf.generation.litert_vim import LiteVIM

    return (
        lambda images: run_tflite(folder / "tokenizer_dynamic_int8.tflite", images),
        lambda tokens: run_tflite(folder / "decoder_dynamic_int8.tflite", tokens),
        run.vim and LiteVIM(folder / "generator_dynamic_int8.tflite").logits,
    )


def in_precision(model, precision):
    """A model with the same weights that computes in another precision; None stays None."""
    if model is None or precision == "float32":
        return model
    with computing_in(precision):
        copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


if __name__ == "__main__":
    command_line.run(main)
