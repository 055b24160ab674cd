"""One JSON a result: the figures and everything that they depend on; and how people read it.

A figure without its protocol cannot be compared: the same pictures have scored 4.28 and 2.11.
"""

import json
import os
import shlex

from vim_tf.errors import UserError
from vim_tf.versions import installed_versions

# The Hub's names of tasks, by what is judged.
TASKS = {"reconstructions": "image-to-image", "samples": "unconditional-image-generation"}


def make_result(
    command, figures, missing, pictures, reference, extractor, settings, models=None, run=None
):
    """Puts a result together.

    Args:
        command: the words of the command line.
        figures: {name: float}.
        missing: {name: why it is not among the figures}.
        pictures: description of what was judged, with `count` and `sha256`.
        reference: description of what it was held against; None where nothing was.
        extractor: the feature network, or None.
        settings: dict of the metrics' settings.
        models: {"tokenizer": SHA-256 of the weights, ...} of a run.
        run: the run's folder, whose name the model has in `model_index`; None where no model is
            judged.

    Returns:
        A dict that JSON can hold; `markdown` is `markdown_line` of it, `model_index` what
        `model_index` makes of it.
    """
    result = {
        "command": shlex.join(command),
        "figures": figures,
        "missing": missing,
        "pictures": pictures,
        "reference": reference,
        "extractor": None,
        "settings": settings,
        "models": models or {},
        "versions": installed_versions(),
    }
    if extractor is not None:
        result["extractor"] = {
            "path": str(extractor.path),
            "sha256": extractor.sha256,
            "name": extractor.name or "FID Inception",
            "proxy": bool(extractor.name),
            "features": extractor.dim,
            "spatial_features": extractor.spatial_dim,
            "classes": extractor.classes,
            "resize": extractor.mode,
        }
    result["markdown"] = markdown_line(result)
    if run is not None:
        result["model_index"] = model_index(result, os.path.basename(os.path.abspath(run)))
    return result


def markdown_line(result):
    """Returns the result as one row of a table: figures, pictures, reference, network."""
    figures = ", ".join(f"{name} {value:.4g}" for name, value in result["figures"].items())
    cells = [figures, _describe(result["pictures"])]
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


def model_index(result, name):
    """Returns the `model-index` of a model card of the Hugging Face Hub, as its YAML has it.

    Its dataset is the pictures that the model was held against, named by their folder or file.

    Args:
        result: what `make_result` makes.
        name: of the model.
    """
    pictures, reference = result["pictures"], result["reference"] or result["pictures"]
    dataset = {"type": reference.get("source") or reference["kind"]}
    dataset["name"] = os.path.basename(str(reference.get("path") or dataset["type"]))
    metrics = [
        {"type": figure.partition("[")[0].lower().replace(" ", "-"), "name": figure, "value": value}
        for figure, value in result["figures"].items()
    ]
    found = {"task": {"type": TASKS[pictures["kind"]]}, "dataset": dataset, "metrics": metrics}
    return [{"name": name, "results": [found]}]


def write_result(path, result):
    """Writes the JSON; UserError if a file of that name has come up since it was checked."""
    text = json.dumps(result, indent=1) + "\n"
    try:
        with open(path, "x") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"--out {path} exists now; the result was:\n{text}") from None


def format_table(result):
    """Returns the figures for the terminal, a line each, and why others are missing."""
    figures, missing = result["figures"], result["missing"]
    width = max(map(len, [*figures, *missing]))
    lines = [f"{name:{width}}  {value:.6g}" for name, value in figures.items()]
    lines += [f"{name:{width}}  -  {reason}" for name, reason in missing.items()]
    return "\n".join(lines) + "\n"


def _describe(pictures):
    """What a description says, in a few words."""
    known = {key: value for key, value in pictures.items() if value is not None}
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
