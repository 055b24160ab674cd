"""Results of evaluations: the figures and everything that they depend on, as JSON and as text.

A figure without its protocol cannot be compared: the same images have scored 4.28 and 2.11.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vim_tf.annotations import StrPath
from vim_tf.errors import UserError
from vim_tf.messages import shorten
from vim_tf.runs.run import find_run
from vim_tf.versions import installed_versions

if TYPE_CHECKING:
    from vim_tf.evaluation.features import FeatureNetwork

# The Hub's task names, by the kind of the judged images.
TASKS = {"reconstructions": "image-to-image", "samples": "unconditional-image-generation"}


@dataclass(frozen=True)
class EvaluationResult:
    """The figures of an evaluation and everything that they depend on; its `str` is a table.

    Attributes:
        figures: {name: float}.
        missing: {name: why it is not among the figures}.
        images: description of the judged images, with `count` and `sha256`.
        reference: description of the images that they were compared with; None without any.
        extractor: description of the feature network; None without one.
        settings: the metrics' settings.
        models: `TrainedRun.hashes` of a run.
        versions: of the packages that computed the figures.
        run: name of the run's folder; None if no model was judged.
        preset: "preset", the run's last weights, or "preset_best"; None if no model was judged.
        by_class: {class name: {name: float}}; None if the classes were not measured alone.
        command: the command line; None for a call from Python.
    """

    figures: dict[str, float]
    missing: dict[str, str]
    images: dict[str, Any]
    reference: dict[str, Any] | None
    extractor: dict[str, Any] | None
    settings: dict[str, Any]
    models: dict[str, str]
    versions: dict[str, str]
    run: str | None = None
    by_class: dict[str, dict[str, float]] | None = None
    command: str | None = None
    preset: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns a dict for JSON, with the table row and the model index for a model card."""
        fields = dataclasses.asdict(self)
        run = fields.pop("run")
        result = {"command": fields.pop("command"), **fields}
        result["markdown"] = markdown_line(result)
        if run is not None:
            result["model_index"] = model_index(result, run)
        return result

    def __str__(self) -> str:
        parts = [format_table(self.figures, self.missing)]
        if self.by_class is not None:
            parts.append(format_classes(self.by_class))
        return "\n".join([*parts, markdown_line(self.to_dict())])


def make_result(
    figures: dict[str, float],
    missing: dict[str, str],
    images: dict[str, Any],
    reference: dict[str, Any] | None,
    extractor: FeatureNetwork | None,
    settings: dict[str, Any],
    models: dict[str, str] | None = None,
    run: StrPath | None = None,
    by_class: dict[str, dict[str, float]] | None = None,
) -> EvaluationResult:
    """Returns an `EvaluationResult`.

    Args:
        figures: as in `EvaluationResult`.
        missing: as in `EvaluationResult`.
        images: as in `EvaluationResult`.
        reference: as in `EvaluationResult`.
        extractor: the feature network, or None.
        settings: as in `EvaluationResult`.
        models: as in `EvaluationResult`; None without a model.
        run: the run's folder, or its preset_best; the name of the run's folder is the model's name
            in `model_index`. None if no model is judged.
        by_class: as in `EvaluationResult`.
    """
    described = None
    if extractor is not None:
        described = {
            "path": str(extractor.path),
            "sha256": extractor.sha256,
            "name": extractor.name or "FID Inception",
            "proxy": bool(extractor.name),
            "features": extractor.dim,
            "spatial_features": extractor.spatial_dim,
            "classes": extractor.classes,
            "resize": extractor.mode,
        }
    name = preset = None
    if run is not None:
        trained, preset = find_run(run)
        name = os.path.basename(os.path.abspath(trained.path))
    return EvaluationResult(
        figures,
        missing,
        images,
        reference,
        described,
        settings,
        models or {},
        installed_versions(),
        name,
        by_class,
        preset=preset,
    )


def markdown_line(result: Mapping[str, Any]) -> str:
    """Returns the result as one row of a table: figures, images, reference, network."""
    figures = ", ".join(f"{name} {value:.4g}" for name, value in result["figures"].items())
    cells = [figures, _describe(result["images"])]
    if result["reference"] is not None:
        cells.append(f"against {_describe(result['reference'])}")
    extractor = result["extractor"]
    if extractor is not None:
        kind = "proxy network" if extractor["proxy"] else "network"
        cells.append(
            f"{kind} {os.path.basename(extractor['path'])} (SHA-256 {extractor['sha256'][:12]}), "
            f"resize {extractor['resize']}"
        )
    lpips = result["settings"].get("lpips")
    if lpips is not None:
        cells.append(f"LPIPS by {lpips['network']} (SHA-256 {lpips['sha256'][:12]})")
    cells += [f"{name} {value[:12]}" for name, value in result["models"].items()]
    return f"| {' | '.join(cell.replace('|', ' ') for cell in cells)} |"


def model_index(result: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Returns the `model-index` for the YAML of a model card on the Hugging Face Hub.

    Its dataset is the images that the model was compared with, named by their folder or file.

    Args:
        result: the result of `EvaluationResult.to_dict`.
        name: of the model.
    """
    images, reference = result["images"], result["reference"] or result["images"]
    dataset = {"type": reference.get("source") or reference["kind"]}
    dataset["name"] = os.path.basename(str(reference.get("path") or dataset["type"]))
    metrics = [
        {"type": figure.partition("[")[0].lower().replace(" ", "-"), "name": figure, "value": value}
        for figure, value in result["figures"].items()
    ]
    found = {"task": {"type": TASKS[images["kind"]]}, "dataset": dataset, "metrics": metrics}
    return [{"name": name, "results": [found]}]


def write_result(path: StrPath, result: Mapping[str, Any]) -> None:
    """Writes the JSON; UserError if a file with that name exists by now."""
    text = json.dumps(result, indent=1) + "\n"
    try:
        with open(path, "x") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path} exists now; the result was:\n{text}") from None


def format_table(figures: Mapping[str, float], missing: Mapping[str, str]) -> str:
    """Returns the text for the terminal: a line for each figure and for each missing one."""
    width = max(map(len, [*figures, *missing]))
    lines = [f"{name:{width}}  {value:.6g}" for name, value in figures.items()]
    lines += [f"{name:{width}}  -  {reason}" for name, reason in missing.items()]
    return "\n".join(lines) + "\n"


def format_classes(by_class: Mapping[str, Mapping[str, float]]) -> str:
    """Returns a Markdown table with a row for each class."""
    names = list(dict.fromkeys(name for figures in by_class.values() for name in figures))
    rows = [["class", *names], ["---"] * (len(names) + 1)]
    for label, figures in by_class.items():
        cells = [f"{figures[name]:.4g}" if name in figures else "-" for name in names]
        rows.append([shorten(label).replace("|", " "), *cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _describe(images: Mapping[str, Any]) -> str:
    """Returns a description in a few words."""
    known = {key: value for key, value in images.items() if value is not None}
    count = known.pop("count", None)
    words = [f"{count:,} {known.pop('kind')}" if count else known.pop("kind")]
    if "size" in known:
        words.append(" x ".join(map(str, known.pop("size"))))
    sha256 = known.pop("sha256", None)
    for dropped in ("path", "source"):
        known.pop(dropped, None)
    words += [f"{key.replace('_', ' ')} {value}" for key, value in known.items()]
    if sha256:
        words.append(f"SHA-256 {sha256[:12]}")
    return ", ".join(words)
