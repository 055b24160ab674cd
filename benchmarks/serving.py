"""Compares the speed of a SavedModel with that of the same graph in the process that made it.

    python -m vim_tf.export --run runs/demo/vim --to out
    python benchmarks/serving.py --run runs/demo/vim --saved-model out/vim/1

Several ways give the same answer. They are called in turn, so that other work of the machine slows
all of them alike:

    session       the SavedModel in a v1 Session, as TF Serving runs it
    loaded        the SavedModel through tf.saved_model.load
    graph         the same functions in this process, without saving
    XLA           only the tokens, compiled for the batch size: the fastest way in this process
"""

import argparse
import functools
import statistics
import sys

import contest
import numpy as np
import tensorflow as tf

from vim_tf.data.transforms import normalize
from vim_tf.export.serving.signatures import Signatures
from vim_tf.runs.trained_run import open_run

SIGNATURES = ("tokenize", "generate_default")


def main():
    """Prints a Markdown table: images per second, and each as a share of the graph's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--saved-model", required=True)
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    run = open_run(arguments.run)
    signatures = Signatures(run.tokenizer, run.vim)
    names = [name for name in SIGNATURES if name in signatures.functions()]
    ways = make_ways(arguments.saved_model, signatures)
    sys.stdout.write(
        "| signature | batch | session | loaded | graph | XLA | session / graph | session / XLA |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|\n"
    )
    for name in names:
        for batch in map(int, arguments.batch_sizes.split(",")):
            inputs = make_inputs(run, name, batch)
            calls = [functools.partial(way, name, inputs) for way in ways.values()]
            seconds = contest.time_in_turn(calls, arguments.repeats)
            rates = {
                key: batch / statistics.median(taken)
                for key, taken in zip(ways, seconds, strict=True)
            }
            shares = [rates["session"] / rates[key] for key in ("graph", "XLA")]
            cells = [f"{rate:.1f}/s" for rate in rates.values()]
            cells += [f"{share:.0%}" for share in shares]
            sys.stdout.write(f"| {name} | {batch} | {' | '.join(cells)} |\n")


def make_ways(saved_model, signatures):
    """Returns {way: function (signature's name, NumPy inputs) that waits for the answer}."""
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], saved_model)

    def in_session(name, inputs):
        signature = meta.signature_def[name]
        feeds = {signature.inputs[key].name: value for key, value in inputs.items()}
        session.run({key: value.name for key, value in signature.outputs.items()}, feeds)

    def eagerly(functions):
        def call(name, inputs):
            answer = functions[name](**{key: tf.constant(value) for key, value in inputs.items()})
            tf.nest.map_structure(lambda value: value.numpy(), answer)

        return call

    return {
        "session": in_session,
        "loaded": eagerly(tf.saved_model.load(saved_model).signatures),
        "graph": eagerly(signatures.functions()),
        "XLA": eagerly(compile_tokens(signatures.tokenizer, signatures.vim)),
    }


def compile_tokens(tokenizer, vim):
    """Returns the signatures of `SIGNATURES`, compiled with XLA: only tokens, no text or files."""

    def tokenize(images):
        return tokenizer.tokenize(normalize(images))

    def generate_default(seed, label=None):
        label = tf.fill(tf.shape(seed), vim.classes) if label is None else label
        temperature = tf.ones_like(label, tf.float32)
        return vim.sample_tokens(label, tf.cast(seed, tf.int32), temperature)

    return {
        function.__name__: tf.function(function, jit_compile=True, autograph=False)
        for function in (tokenize, generate_default)
    }


def make_inputs(run, name, batch):
    """Returns a signature's inputs for a number of rows."""
    if name == "tokenize":
        return {"images": np.resize(run.images(batch), (batch, *run.tokenizer.image_size, 3))}
    rows = np.arange(batch)
    inputs = {"seed": rows.astype("int64")}
    if run.vim.classes:
        inputs["label"] = (rows % run.vim.classes).astype("int32")
    return inputs


if __name__ == "__main__":
    main()
