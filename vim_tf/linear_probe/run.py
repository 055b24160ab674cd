"""The linear probe (sections 3.4 and 4.3): what a frozen VIM knows about classes it never saw.

1. The features of every block are computed once.
2. A head for each block is trained on most of the training images.
3. The block with the best head on the other training images is chosen.
4. The chosen block's head is trained on all training images, and tested once.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from vim_tf import formats
from vim_tf.annotations import StrPath
from vim_tf.config import loader
from vim_tf.config.experiments import LinearProbeExperiment
from vim_tf.data.progress import progress_bar
from vim_tf.distribution.strategies import strategy_of
from vim_tf.distribution.workers import Workers
from vim_tf.drawing import curves
from vim_tf.errors import UserError
from vim_tf.files import nearest_existing, write_atomically
from vim_tf.linear_probe import logistic_head, sgd_head
from vim_tf.linear_probe.features import open_features, without_copied_channels
from vim_tf.runs.run import find_run
from vim_tf.runs.trained_run import PROBE_FILE, PROBE_FOLDERS, open_run
from vim_tf.versions import installed_versions

CURVE_FILE = "probe.png"
BASELINES = {"tokenizer": "tokenizer's encoder", "pixels": "raw pixels"}
Predict: TypeAlias = Callable[[np.ndarray], np.ndarray]  # features [M,D] -> labels [M]


@dataclass(frozen=True)
class ProbeResult:
    """The result of a probe; its `str` is a table.

    Attributes:
        features: {name: {"validation": accuracy, ...}} of every block and baseline.
        block: the chosen block, from 0.
        test: {name: accuracy} of that block and of the baselines.
        details: the content of `probe.json`, including the above.
    """

    details: dict[str, Any]

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """As above."""
        return self.details["features"]

    @property
    def block(self) -> int:
        """As above."""
        return self.details["block"]

    @property
    def test(self) -> dict[str, float]:
        """As above."""
        return self.details["test"]

    def __str__(self) -> str:
        return format_table(self.details)


def run_linear_probe(
    run: StrPath,
    *,
    blocks: str = "all",
    head: Literal["logistic_regression", "sgd"] = "logistic_regression",
    validation_fraction: float = 0.1,
    seed: int = 0,
    out: StrPath | None = None,
    overrides: Sequence[str] = (),
    other_images: bool = False,
) -> ProbeResult:
    """Fits a linear classifier on the features of a VIM's blocks, and tests the best one once.

    Args:
        run: folder of a run of experiment vim, of images with labels; or its `preset_best`.
        blocks: "all", or numbers such as "0,6,12"; 0 is the embeddings.
        head: "logistic_regression", or "sgd" for large data sets.
        validation_fraction: share of the training images that is used to choose the block.
        seed: any integer.
        out: folder for `probe.json` and `probe.png`, without a result in it; None is
            `<run>/probe`, or `<run>/probe_best` for `preset_best`.
        overrides: "data.key=value" strings, for images that have moved since the training.
        other_images: allow images that the run was not trained on.

    Returns:
        A `ProbeResult`.

    Raises:
        UserError: a value out of range, a mistake in the run or its images, or `out` has a result.
    """
    experiment = LinearProbeExperiment(
        seed=seed,
        run=str(run),
        blocks=blocks,
        head=head,
        validation_fraction=validation_fraction,
    )
    result = fit_probe(experiment, out, overrides, ("vim_tf.run_linear_probe",), other_images)
    assert result is not None  # strategy one_device has one worker, the chief
    return result


def fit_probe(
    experiment: LinearProbeExperiment,
    out: StrPath | None = None,
    overrides: Sequence[str] = (),
    command: Sequence[str] = ("python", "-m", "vim_tf.probe"),
    other_images: bool = False,
) -> ProbeResult | None:
    """Probes a run; writes `probe.json` and `probe.png`.

    The test images are the run's held-out images; no choice depends on them. With several workers,
    each computes a share of the features, and all train a head together. Only the chief solves a
    regression and writes files.

    Args:
        experiment: `LinearProbeExperiment`.
        out: a folder without a result in it; None is
            `<run>/probe`, or `<run>/probe_best` for `preset_best`.
        overrides: "data.key=value" strings, for images that have moved since the training.
        command: the words of the command, for the result.
        other_images: allow images that the run was not trained on.

    Returns:
        A `ProbeResult`; None on a worker that is not the chief.

    Raises:
        UserError: a mistake in the config, the run or its images, or a result that exists already.
        Interrupted: another worker has stopped.
    """
    if experiment.run is None:
        raise UserError("run is not set; name the folder of a trained VIM")
    run, weights = find_run(experiment.run)
    out = Path(out or run.path / PROBE_FOLDERS[weights])
    if (out / PROBE_FILE).exists():
        raise UserError(
            f"{out / PROBE_FILE} exists; delete it, or give another folder for the result"
        )
    _check_folder(out)
    strategy = strategy_of(experiment)
    workers = Workers(strategy)
    with workers.watched(), strategy.scope():
        workers.check_same("the config", loader.to_yaml(experiment))
        details = _probe(experiment, workers, overrides, other_images)
        result = None
        if workers.is_chief:
            assert details is not None
            result = ProbeResult({"command": " ".join(command), **details})
            _write(result.details, out)
        workers.wait()  # a worker that leaves early looks like one that died
    return result


def _probe(
    experiment: LinearProbeExperiment,
    workers: Workers,
    overrides: Sequence[str],
    other_images: bool,
) -> dict[str, Any] | None:
    """Returns the result without the command; None on other workers if only the chief fits."""
    assert experiment.run is not None  # `fit_probe` checked it
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
    if run.vim.classes and run.vim.config.label_drop == 0 and workers.is_chief:
        sys.stderr.write(
            f"{experiment.run} was trained with model.label_drop 0; the features are of images "
            "without label, which this VIM never saw, so that they may be worse\n"
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
    with progress_bar(len(names), "feature sets", "probe") as bar:
        for name in names:
            features = train.arrays[name]
            tried = [
                {
                    "validation": _accuracy(predict, features[chosen_on], train.labels[chosen_on]),
                    **how,
                }
                for how, predict in make_heads(
                    features[fit], train.labels[fit], classes, experiment, None
                )
            ]
            found[name] = max(tried, key=lambda one: one["validation"])
            bar.update(1)
    block = max(blocks, key=lambda name: found[name]["validation"])
    if experiment.head == "sgd":  # all workers must train the same block's head
        block = blocks[workers.chiefs(blocks.index(block))]
    tested = {}
    with progress_bar(len(BASELINES) + 1, "feature sets", "test") as bar:
        for name in (*BASELINES, block):
            ((_, predict),) = make_heads(
                train.arrays[name], train.labels, classes, experiment, found[name]
            )
            tested[name] = _accuracy(predict, test.arrays[name], test.labels)
            bar.update(1)
    return {
        "run": str(experiment.run),
        "preset": run.weights,
        "models": run.feature_hashes(),
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


def _check_folder(out: Path) -> None:
    """Raises UserError unless `out` is a folder that can be written, or can be made."""
    above = nearest_existing(out)
    if not above.is_dir():
        raise UserError(f"the folder for the result is {out}, but {above} is a file; give a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(
            f"the folder for the result is {out}, but {above} may not be written; give another"
        )


def _write(result: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    curves.draw_probe(result["features"], result["test"], BASELINES, out / CURVE_FILE)
    write_atomically(out / PROBE_FILE, formats.to_json("probe", result))


def format_table(result: Mapping[str, Any]) -> str:
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


def _choose_blocks(text: str, blocks: int) -> list[str]:
    """Parses `blocks` of the config into names of features."""
    if text == "all":
        return [f"block_{i}" for i in range(blocks + 1)]
    numbers = sorted({int(part) for part in text.split(",")})
    if numbers[-1] > blocks:
        raise UserError(
            f"blocks has {numbers[-1]}; this model has blocks 1 to {blocks}, 0 is the embeddings"
        )
    return [f"block_{i}" for i in numbers]


def _split(count: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows to fit on and the rows to choose the block on, each ascending."""
    held_out = min(max(1, round(fraction * count)), count - 1)
    order = np.random.default_rng(seed % 2**64).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _solve(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    experiment: LinearProbeExperiment,
    chosen: dict[str, Any] | None,
) -> Iterator[tuple[dict[str, Any], Predict]]:
    """Yields (settings, predict) for each strength of the penalty, or for the chosen one."""
    if len(np.unique(labels)) < 2:
        raise UserError("all images to fit the probe on have the same label; give more images")
    strengths = logistic_head.STRENGTHS if chosen is None else (chosen["c"],)
    for solved in logistic_head.solve(features, labels, strengths):
        yield {"c": solved.c, "converged": solved.converged}, solved.predict


def _train(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    experiment: LinearProbeExperiment,
    chosen: dict[str, Any] | None,
) -> Iterator[tuple[dict[str, Any], Predict]]:
    """Yields (settings, predict) of the head that is trained in batches."""
    head = sgd_head.train_head(features, labels, classes, experiment.sgd, experiment.seed)
    yield {}, lambda features: sgd_head.predict(head, features)


def _accuracy(predict: Predict, features: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(predict(features) == labels))
