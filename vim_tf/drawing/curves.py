"""Curves of a run's numbers as PNG files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vim_tf.annotations import StrPath
from vim_tf.files import write_atomically

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure


def draw_curves(
    records: Sequence[Mapping[str, Any]],
    panels: Sequence[tuple[str, bool, Sequence[tuple[str, str]]]],
    path: StrPath,
) -> None:
    """Draws a run's numbers over its steps; a panel without any number is left out.

    Args:
        records: the result of `Run.read_metrics`.
        panels: (title, logarithmic, [(kind, name), ...]) of each plot.
        path: the PNG file.
    """
    found = {(record["kind"], name) for record in records for name in record}
    panels = [panel for panel in panels if found & {*panel[2]}] or panels
    figure, axes = _make_figure(len(panels), 5 * len(panels))
    for axis, (title, logarithmic, curves) in zip(axes, panels, strict=True):
        for kind, name in curves:
            points = [
                (record["step"], record[name])
                for record in records
                if record["kind"] == kind and name in record
            ]
            if points:
                style = "o-" if kind == "evaluation" else "-"
                axis.plot(*zip(*points, strict=True), style, label=f"{name} ({kind})", ms=3)
        axis.set_title(title)
        axis.set_xlabel("step")
        if logarithmic:
            axis.set_yscale("log")
    _save(figure, path)


def draw_probe(
    features: Mapping[str, Mapping[str, Any]],
    tested: Mapping[str, float],
    baselines: Mapping[str, str],
    path: StrPath,
) -> None:
    """Draws the accuracy of a linear probe by block.

    Args:
        features: {name: {"validation": accuracy, ...}}; the name of block 3 is "block_3".
        tested: {name: accuracy} of the chosen block and of the baselines.
        baselines: {name: words} of the features that are not from a block.
        path: the PNG file.
    """
    figure, (axis,) = _make_figure(1, 7)
    numbers = {name: int(name.removeprefix("block_")) for name in features if name not in baselines}
    accuracies = [features[name]["validation"] for name in numbers]
    axis.plot(list(numbers.values()), accuracies, "o-", label="blocks, validation")
    for (name, words), style in zip(baselines.items(), ("--", ":"), strict=True):
        axis.axhline(features[name]["validation"], ls=style, c="grey", label=f"{words}, validation")
    (chosen,) = tested.keys() & numbers.keys()
    label = f"block {numbers[chosen]}, test"
    axis.plot(numbers[chosen], tested[chosen], "*", ms=12, c="C1", label=label)
    axis.set_title("linear probe")
    axis.set_xlabel("block (0: embeddings)")
    axis.set_ylabel("accuracy")
    axis.xaxis.get_major_locator().set_params(integer=True)
    _save(figure, path)


def _make_figure(panels: int, width: float) -> tuple[Figure, np.ndarray]:
    """Returns (a figure of `width` inches, its axes in a row)."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, panels, figsize=(width, 3.6), squeeze=False, layout="constrained"
    )
    return figure, axes[0]


def _save(figure: Figure, path: StrPath) -> None:
    from matplotlib import pyplot

    for axis in figure.axes:
        if axis.lines:
            axis.legend(fontsize="small")
        axis.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    pyplot.close(figure)
    write_atomically(path, buffer.getvalue())
