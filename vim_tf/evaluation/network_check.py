"""Can a feature network judge images? Its KID must rise when images are made worse.

The images are divided into two halves at random. One half is the reference. The other half is
compared with it unchanged, then with three blurs, then with three amounts of noise. So no image is
compared with itself. A network that cannot see a blur cannot judge a model that blurs.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vim_tf.annotations import StrPath
from vim_tf.errors import UserError
from vim_tf.evaluation import protocol
from vim_tf.evaluation.compute_metrics import Measured, compute_kid, measure
from vim_tf.evaluation.degraded_images import SEED as NOISE_SEED
from vim_tf.evaluation.degraded_images import (
    ChosenImages,
    Degradation,
    choose_at_random,
    degradations,
)
from vim_tf.evaluation.features import FeatureNetwork, open_extractor
from vim_tf.evaluation.image_sources import ImageSource, RunImages, open_images
from vim_tf.evaluation.metric_choice import FEWEST, figure_names
from vim_tf.evaluation.runner import check_counts_and_split
from vim_tf.metrics.principal_components import COMPONENTS, component_distance
from vim_tf.runs.trained_run import open_run

UNCHANGED = "unchanged"  # the name of the half that is not degraded
SEED = 2020  # of the choice of the halves
SMALLEST = 24  # pixels of the shorter side; the smallest blur has a sigma of 0.4 pixels there


class Row(NamedTuple):
    """The figures of one change of the images; `distance` is FD64, or None."""

    name: str
    kid: float
    error: float
    distance: float | None


@dataclass(frozen=True)
class NetworkCheck(protocol.EvaluationResult):
    """The result of `evaluate_network`.

    Attributes:
        admitted: whether KID rises at every step.
        failures: a line for each step at which KID does not rise.
        rows: a `Row` for each change of the images, the first without a change.
    """

    admitted: bool = False
    failures: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns a dict for JSON; its Markdown is a table with a row for each change."""
        result = super().to_dict()
        del result["rows"]  # they are the figures
        return result | {"failures": list(self.failures), "markdown": self._table()}

    def __str__(self) -> str:
        verdict = "admitted: KID rises with every blur and with every noise"
        if not self.admitted:
            verdict = "".join(["not admitted:", *(f"\n  {line}" for line in self.failures)])
        return f"{self._table()}\n{verdict}"

    def _table(self) -> str:
        lines = ["| images | KID | standard error | FD64 |", "|---|---:|---:|---:|"]
        for row in self.rows:
            distance = "-" if row.distance is None else f"{row.distance:.4g}"
            lines.append(f"| {row.name} | {row.kid:.4g} | {row.error:.2g} | {distance} |")
        return "\n".join(lines) + "\n"


def evaluate_network(
    extractor: StrPath,
    *,
    images: StrPath | None = None,
    run: StrPath | None = None,
    extractor_hash: str | None = None,
    resize: str | None = None,
    split: str = "validation",
    n: int | None = None,
    image_size: tuple[int, int] | None = None,
    batch_size: int = 64,
    overrides: Sequence[str] = (),
    other_images: bool = False,
) -> NetworkCheck:
    """Checks whether the KID of a feature network rises when real images are made worse.

    Args:
        extractor: path of a feature network, see `features.open_extractor`.
        images: real images, a folder or an .npz; give these or a run.
        run: folder of a run, whose images are used.
        extractor_hash: the network's expected SHA-256; None skips the check.
        resize: as in `runner.evaluate_images`.
        split: "validation" or "train", of the run.
        n: number of images to use, the first ones; None uses all.
        image_size: as in `runner.evaluate_images`.
        batch_size: images at once.
        overrides: as in `runner.evaluate_reconstruction`.
        other_images: as there.

    Returns:
        A `NetworkCheck`, also for a network that fails.

    Raises:
        UserError: fewer than 2,000 images, a value out of range, or a mistake in the network, the
            run or the images.
    """
    check_counts_and_split(n, batch_size, split)
    _check_arguments(images, run, split, image_size, overrides, other_images)
    network = open_extractor(extractor, resize, extractor_hash)
    if images is not None:
        source: ImageSource = open_images(images, "images", image_size, n)
    else:
        assert run is not None  # one of them is given
        source = RunImages(open_run(run, overrides, other_images).data, split, n)
    if source.count < 2 * FEWEST:
        raise UserError(
            f"the check of a network needs at least {2 * FEWEST:,} images, {FEWEST:,} in each "
            f"half, and there are {source.count:,}; give more images"
        )
    size = source.description["size"]
    if min(size) < SMALLEST:
        raise UserError(
            f"the images have {size[0]} x {size[1]} pixels, so the smallest blur would hardly "
            f"change them; give images of at least {SMALLEST} x {SMALLEST}"
        )
    inside = choose_at_random(source.count, source.count // 2, SEED)
    metrics = ("kid", "fd64") if network.dim >= COMPONENTS else ("kid",)
    kept = ChosenImages(source, inside)
    reference = measure(kept, network, metrics, batch_size, "reference images")
    steps = degradations(size)
    rows: dict[str, Row] = {}
    settings: dict[str, Any] = {}
    for step in [None, *steps["blur"], *steps["noise"]]:
        name = UNCHANGED if step is None else step.name
        judged = ChosenImages(source, ~inside, step)
        found = measure(judged, network, metrics, batch_size, f"images, {name}")
        rows[name], settings = _compare(name, found, reference)
    failures = _find_failures(rows, steps)
    missing = {}
    if "fd64" not in metrics:
        missing[figure_names("fd64", network)[0]] = f"the network has {network.dim} features"
    settings |= {kind: [step.sigma for step in chain] for kind, chain in steps.items()}
    result = protocol.make_result(
        _name_figures(rows, network),
        missing,
        source.description | {"count": source.count - kept.count},
        source.description | {"count": kept.count, "sha256": reference.sha256},
        network,
        {"batch_size": batch_size, "halves_seed": SEED, "noise_seed": NOISE_SEED, **settings},
    )
    return NetworkCheck(
        **{field.name: getattr(result, field.name) for field in dataclasses.fields(result)},
        admitted=not failures,
        failures=failures,
        rows=tuple(rows.values()),
    )


def _check_arguments(
    images: StrPath | None,
    run: StrPath | None,
    split: str,
    image_size: tuple[int, int] | None,
    overrides: Sequence[str],
    other_images: bool,
) -> None:
    """Raises UserError for arguments that do not go together."""
    if (images is None) == (run is None):
        raise UserError("images or a run are needed; give one of them")
    if image_size is not None and (images is None or not Path(images).is_dir()):
        raise UserError("image_size crops the images of a folder; leave it out")
    if images is not None and (split != "validation" or overrides or other_images):
        raise UserError("split, overrides and other_images are of a run; leave them out")


def _compare(name: str, found: Measured, reference: Measured) -> tuple[Row, dict[str, Any]]:
    """Returns (the row of a change of the images, the settings of KID)."""
    assert found.spool is not None  # measured for kid
    assert reference.spool is not None  # as above
    (kid, _, error), settings = compute_kid(found.spool.finish(), reference.spool.finish())
    distance = None
    if found.pooled is not None and reference.pooled is not None:
        distance = component_distance(found.pooled, reference.pooled)
    return Row(name, kid, error, distance), settings


def _find_failures(
    rows: Mapping[str, Row], steps: Mapping[str, Sequence[Degradation]]
) -> tuple[str, ...]:
    """Returns a line for each step at which KID does not rise."""
    lines = []
    for kind in steps.values():
        chain = [rows[UNCHANGED], *(rows[step.name] for step in kind)]
        for lower, upper in itertools.pairwise(chain):
            if not upper.kid > lower.kid:
                lines.append(
                    f"KID of {upper.name} is {upper.kid:.4g}, and that of {lower.name} is "
                    f"{lower.kid:.4g}"
                )
    return tuple(lines)


def _name_figures(rows: Mapping[str, Row], network: FeatureNetwork) -> dict[str, float]:
    kid, _, error = figure_names("kid", network)
    (distance,) = figure_names("fd64", network)
    figures: dict[str, float] = {}
    for row in rows.values():
        figures |= {f"{kid} {row.name}": row.kid, f"{error} {row.name}": row.error}
        if row.distance is not None:
            figures[f"{distance} {row.name}"] = row.distance
    return figures
