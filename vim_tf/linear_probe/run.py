"""The linear probe (sections 3.4 and 4.3): how much a frozen VIM knows of classes it never saw.

features of every block, once -> a head for each on most of the training images
    -> the block whose head is best on the rest of them -> its head on all -> the test, once
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vim_tf import formats
from vim_tf.config import loader
from vim_tf.config.experiments import LinearProbeExperiment
from vim_tf.distribution.strategies import strategy_of
from vim_tf.distribution.workers import Workers
from vim_tf.drawing import curves
from vim_tf.errors import UserError
from vim_tf.files import write_atomically
from vim_tf.linear_probe import logistic_head, sgd_head
from vim_tf.linear_probe.features import open_features, without_copied_channels
from vim_tf.runs.trained_run import PROBE_FILE, PROBE_FOLDER, open_run
from vim_tf.versions import installed_versions

CURVE_FILE = "probe.png"
BASELINES = {"tokenizer": "tokenizer's encoder", "pixels": "raw pixels"}


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found; prints as a table.

    Attributes:
        features: {name: {"validation": accuracy, ...}} of every block and baseline.
        block: the block that was chosen, from 0.
        test: {name: accuracy} of that block and of the baselines.
        details: all that `probe.json` holds, the above included.
    """

    details: dict[str, Any]

    @property
    def features(self):
        """As above."""
        return self.details["features"]

    @property
    def block(self):
        """As above."""
        return self.details["block"]

    @property
    def test(self):
        """As above."""
        return self.details["test"]

    def __str__(self):
        return format_table(self.details)


def run_linear_probe(
    run,
    *,
    blocks="all",
    head="logistic_regression",
    validation_fraction=0.1,
    seed=0,
    out=None,
    overrides=(),
    other_images=False,
):
    """Fits a linear classifier on the features of a VIM's blocks, and tests the best one once.

    Args:
        run: folder of a run of experiment vim, of images with labels.
        blocks: "all", or numbers such as "0,6,12"; 0 is the embeddings.
        head: "logistic_regression", or "sgd" for much data.
        validation_fraction: share of the training images that chooses the block.
        seed: any integer.
        out: folder for `probe.json` and `probe.png`, without a result in it; None is `<run>/probe`.
        overrides: "data.key=value" strings, for images that have moved since the training.
        other_images: take images that the run was not trained on.

    Returns:
        A `ProbeResult`.

    Raises:
        UserError: a value out of range, a mistake in the run or its images, or a result in `out`.
    """
    experiment = LinearProbeExperiment(
        seed=seed,
        run=str(run),
        blocks=blocks,
        head=head,
        validation_fraction=validation_fraction,
    )
    return fit_probe(experiment, out, overrides, ("vim_tf.run_linear_probe",), other_images)


def fit_probe(
    experiment,
    out=None,
    overrides=(),
    command=("python", "-m", "vim_tf.probe"),
    other_images=False,
):
    """Probes a run; writes `probe.json` and `probe.png`.

    Test images, the run's held-out ones, decide about nothing. Of several workers each works out
    a share of the features and takes part in training a head; the chief alone solves and writes.

    Args:
        experiment: `LinearProbeExperiment`.
        out: a folder without a result in it; None is `<run>/probe`.
        overrides: "data.key=value" strings, for images that have moved since the training.
        command: its words, for the result.
        other_images: take images that the run was not trained on.

    Returns:
        A `ProbeResult`; None on a worker that is not the chief.

    Raises:
        UserError: a mistake in the config, the run or its images, or a result that is there.
        Interrupted: another worker is gone.
    """
    if experiment.run is None:
        raise UserError("run is not set; name the folder of a trained VIM")
    out = Path(out or Path(experiment.run) / PROBE_FOLDER)
    if (out / PROBE_FILE).exists():
        raise UserError(
            f"{out / PROBE_FILE} exists; delete it, or give another folder for the result"
        )
    strategy = strategy_of(experiment)
    workers = Workers(strategy)
    with workers.watched(), strategy.scope():
        workers.check_same("the config", loader.to_yaml(experiment))
        result = _probe(experiment, workers, overrides, other_images)
        if workers.is_chief:
            result = {"command": " ".join(command), **result}
            _write(result, out)
        workers.wait()  # one that leaves is taken for one that died
    return ProbeResult(result) if workers.is_chief else None


def _probe(experiment, workers, overrides, other_images):
    """Returns the result, without the command; None where the head is the chief's alone."""
    run = open_run(experiment.run, overrides, other_images)
    if run.vim is None:
        raise UserError(
            f"{experiment.run} is a run of stage 1; the probe is of a run of experiment vim"
        )
    classes = len(run.data.class_names)
    if classes < 2:
        raise UserError(
            f"the images of {experiment.run} have no labels, and a probe predicts them; give "
            "each class its own sub-folder"
        )
    blocks = _choose_blocks(experiment.blocks, len(run.vim.transformer.blocks))
    names = [*BASELINES, *blocks]
    train, test = without_copied_channels(
        open_features(run, "train"), open_features(run, "validation")
    )
    if experiment.head == "logistic_regression" and not workers.is_chief:
        return None
    fit, chosen_on = _split(len(train.labels), experiment.validation_fraction, experiment.seed)
    heads = {"logistic_regression": _solve, "sgd": _train}
    make_heads = heads[experiment.head]
    found = {}
    for name in tqdm(names, unit="probe", disable=None):
        features = train.arrays[name]
        tried = [
            {"validation": _accuracy(predict, features[chosen_on], train.labels[chosen_on]), **how}
            for how, predict in make_heads(
                features[fit], train.labels[fit], classes, experiment, None
            )
        ]
        found[name] = max(tried, key=lambda one: one["validation"])
    block = max(blocks, key=lambda name: found[name]["validation"])
    if experiment.head == "sgd":  # all workers must train the same one
        block = blocks[workers.chiefs(blocks.index(block))]
    tested = {}
    for name in (*BASELINES, block):
        ((_, predict),) = make_heads(
            train.arrays[name], train.labels, classes, experiment, found[name]
        )
        tested[name] = _accuracy(predict, test.arrays[name], test.labels)
    return {
        "run": str(experiment.run),
        "models": run.hashes(),
        "head": experiment.head,
        "seed": experiment.seed,
        "pictures": {
            "fit": len(fit),
            "validation": len(chosen_on),
            "test": len(test.labels),
            "pixels": train.pixels,
        },
        "features": found,
        "block": int(block.removeprefix("block_")),
        "test": tested,
        "versions": installed_versions(),
    }


def _write(result, out):
    out.mkdir(parents=True, exist_ok=True)
    curves.draw_probe(result["features"], result["test"], BASELINES, out / CURVE_FILE)
    write_atomically(out / PROBE_FILE, formats.to_json("probe", result))


def format_table(result):
    """Returns the result as a Markdown table: features, validation accuracy, test accuracy."""
    lines = ["| features | validation | test |", "|---|---:|---:|"]
    for name, found in result["features"].items():
        words = BASELINES.get(name, name.replace("_", " "))
        test = result["test"].get(name)
        lines.append(
            f"| {words} | {100 * found['validation']:.2f}% | "
            + (f"{100 * test:.2f}% |" if test is not None else "|")
        )
    return "\n".join([*lines, "", f"block {result['block']} was chosen", ""])


def _choose_blocks(text, blocks):
    """Parses `blocks` of the config into names of features."""
    if text == "all":
        return [f"block_{i}" for i in range(blocks + 1)]
    numbers = sorted({int(part) for part in text.split(",")})
    if numbers[-1] > blocks:
        raise UserError(
            f"blocks has {numbers[-1]}; this model has blocks 1 to {blocks}, 0 is the embeddings"
        )
    return [f"block_{i}" for i in numbers]


def _split(count, fraction, seed):
    """Returns the rows to fit on and the rows to choose by, each ascending."""
    held_out = min(max(1, round(fraction * count)), count - 1)
    order = np.random.default_rng(seed % 2**64).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _solve(features, labels, classes, experiment, chosen):
    """Yields (how, predict) of each strength of the penalty, or of the one that was chosen."""
    if len(np.unique(labels)) < 2:
        raise UserError("all images to fit the probe on have the same label; give more images")
    strengths = logistic_head.STRENGTHS if chosen is None else (chosen["c"],)
    for solved in logistic_head.solve(features, labels, strengths):
        yield {"c": solved.c, "converged": solved.converged}, solved.predict


def _train(features, labels, classes, experiment, chosen):
    """Yields (how, predict) of the head that is trained in batches."""
    head = sgd_head.train_head(features, labels, classes, experiment.sgd, experiment.seed)
    yield {}, lambda features: sgd_head.predict(head, features)


def _accuracy(predict, features, labels):
    return float(np.mean(predict(features) == labels))
