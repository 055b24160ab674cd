"""Computes figures from images: features batch by batch, then the metrics of two sets of features.

Memory: FID, sFID and the Inception Score need O(features^2) for any number of images. KID,
precision and recall need all features and keep them in a file.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vim_tf.data.progress import progress_bar
from vim_tf.errors import UserError
from vim_tf.evaluation.features import FeatureNetwork
from vim_tf.evaluation.image_sources import ImageSource, hash_images
from vim_tf.evaluation.metric_choice import (
    FEWEST,
    NEED_FEATURES,
    NEED_POOLED,
    SPLITS,
    figure_names,
    real_name,
)
from vim_tf.evaluation.network_output import Features
from vim_tf.evaluation.real_parts import RealPart
from vim_tf.metrics.feature_file import FeatureRows, FeatureSpool
from vim_tf.metrics.fid import FeatureStatistics, frechet_distance
from vim_tf.metrics.inception_score import InceptionScore
from vim_tf.metrics.kid import RESAMPLES, bootstrap_error, kid
from vim_tf.metrics.precision_recall import NEIGHBOURS, precision_recall
from vim_tf.metrics.principal_components import component_distance

KID_SUBSETS, KID_SUBSET_SIZE, KID_SEED = 100, FEWEST, 2020


@dataclass
class Measured:
    """The measurements of a set of images; a part is None if no metric needs it.

    Attributes:
        count: number of images N; None for statistics of an unknown number.
        sha256: of the images, see `image_sources.hash_images`; None for statistics of a file.
        pooled: `FeatureStatistics` of the pooled features.
        spatial: `FeatureStatistics` of the spatial features.
        score: `InceptionScore`.
        spool: `FeatureSpool` with the pooled features of all images.
        part: `FeatureStatistics` of the pooled features of a `RealPart`.
    """

    count: int | None = None
    sha256: str | None = None
    pooled: FeatureStatistics | None = None
    spatial: FeatureStatistics | None = None
    score: InceptionScore | None = None
    spool: FeatureSpool | None = None
    part: FeatureStatistics | None = None


def measure(
    source: ImageSource,
    extractor: FeatureNetwork | None,
    metrics: Collection[str],
    batch_size: int,
    what: str,
    part: RealPart | None = None,
) -> Measured:
    """Runs all images of a source through the network once.

    Args:
        source: the images.
        extractor: the feature network; None if there are no metrics.
        metrics: of `metric_choice.METRICS`; () only counts and hashes.
        batch_size: images at once.
        what: name of the images, for the progress bar and errors.
        part: images whose statistics are also computed alone; None computes none.

    Returns:
        A `Measured`; its files are deleted together with it.

    Raises:
        UserError: NaN or infinite features, or fewer images than `source.count`.
    """
    found = Measured() if extractor is None else _prepare(extractor, metrics, part)
    digest, count = hashlib.sha256(), 0
    with progress_bar(source.count, "images", what) as bar:
        for images in source.batches(batch_size):
            hash_images(digest, images)
            if extractor is not None and metrics:
                _take_in(found, extractor(images), extractor, what, count, part)
            count += len(images)
            bar.update(len(images))
    if count < source.count:
        raise UserError(f"{count:,} of {source.count:,} {what} can be decoded; remove the others")
    found.count, found.sha256 = count, digest.hexdigest()
    return found


def _prepare(
    extractor: FeatureNetwork, metrics: Collection[str], part: RealPart | None
) -> Measured:
    """Returns a `Measured` with empty statistics of each kind that the metrics need."""
    found = Measured()
    if NEED_POOLED & set(metrics):
        found.pooled = FeatureStatistics(extractor.dim)
        found.part = None if part is None else FeatureStatistics(extractor.dim)
    if "sfid" in metrics:
        assert extractor.spatial_dim is not None  # `choose_metrics` refuses sfid without them
        found.spatial = FeatureStatistics(extractor.spatial_dim)
    if "is" in metrics:
        found.score = InceptionScore(extractor.classes, SPLITS)
    if NEED_FEATURES & set(metrics):
        found.spool = FeatureSpool(extractor.dim)
    return found


def _take_in(
    found: Measured,
    features: Features,
    extractor: FeatureNetwork,
    what: str,
    start: int,
    part: RealPart | None,
) -> None:
    """Adds the features of a batch whose first image has the number `start`."""
    bad = ~np.isfinite(features.pooled).all(1)
    if bad.any():
        number = start + int(np.argmax(bad))
        raise UserError(
            f"extractor {extractor.path} gives NaN or infinite features for image {number:,} "
            f"(from 0) of the {what}; its weights are damaged, or it is not made for images"
        )
    if found.pooled is not None:
        found.pooled.update(features.pooled)
    if found.part is not None:
        assert part is not None  # `_prepare` makes its statistics only for a part
        inside = part.inside[start : start + len(features.pooled)]
        found.part.update(features.pooled[inside])
    if found.spatial is not None:
        found.spatial.update(features.spatial)
    if found.score is not None:
        found.score.update(features.probabilities)
    if found.spool is not None:
        found.spool.append(features.pooled)


def compare(
    candidate: Measured,
    reference: Measured,
    metrics: Collection[str],
    extractor: FeatureNetwork,
    prefix: str = "",
    part: RealPart | None = None,
    real_metrics: Collection[str] = (),
    others: Measured | None = None,
) -> tuple[dict[str, float], dict[str, str], dict[str, Any]]:
    """Computes the figures of two measured sets.

    Args:
        candidate: the `Measured` that is judged.
        reference: the `Measured` that it is compared with.
        metrics: of `metric_choice.METRICS`.
        extractor: the feature network, for the figures' names.
        prefix: "r", "g" or "", put before "FID".
        part: the real images that are compared with the reference; None for none.
        real_metrics: the metrics of this comparison, see `real_parts.choose_part`.
        others: the `Measured` of the part, if it is not of the reference.

    Returns:
        (figures {name: float}, {name: why it is missing}, the metrics' settings for the protocol).
    """
    figures: dict[str, float] = {}
    missing: dict[str, str] = {}
    settings: dict[str, Any] = {}
    if part is not None:
        settings["real"] = part.description
        if others is not None:
            settings["real"] |= {"reference": reference.count, "sha256": others.sha256}
    for metric in metrics:
        names = figure_names(metric, extractor, prefix)
        if metric == "sfid" and reference.spatial is None:
            missing[names[0]] = "the reference has no statistics of spatial features"
            continue
        if metric in NEED_FEATURES and reference.spool is None:
            missing |= dict.fromkeys(names, "the reference has statistics and no images")
            continue
        values, about = _compute(metric, candidate, reference)
        figures |= zip(names, map(float, values), strict=True)
        settings |= about
        if part is not None and metric in real_metrics:
            figures[real_name(metric, extractor)] = _compute_real(metric, reference, part, others)
    return figures, missing, settings


def compute_kid(a: np.ndarray, b: np.ndarray) -> tuple[tuple[float, float, float], dict[str, Any]]:
    """Computes KID and its spread.

    Args:
        a: [M,D], features of a set of images.
        b: [P,D], those of the other set.

    Returns:
        ((KID, its deviation over subsets, its standard error), the settings for the protocol).
    """
    drawn = _subsets(len(a), len(b))
    mean, deviation = kid(a, b, **drawn)
    # KID is a mean over some subsets and not the estimate of all images. This adds an error.
    of_subsets = deviation / np.sqrt(max(1, KID_SUBSETS - 1))
    error = np.hypot(bootstrap_error(a, b, RESAMPLES, KID_SEED), of_subsets)
    return (mean, deviation, float(error)), {"kid": {**drawn, "resamples": RESAMPLES}}


def _subsets(*counts: int) -> dict[str, int]:
    """Returns the settings of `kid` for sets of so many images."""
    smaller = min(counts)
    # If each subset were the whole set, all would be equal and the deviation 0.
    size = KID_SUBSET_SIZE if smaller >= KID_SUBSET_SIZE else max(2, smaller // 2)
    return {"subsets": KID_SUBSETS, "subset_size": size, "seed": KID_SEED}


def _compute(
    metric: str, candidate: Measured, reference: Measured
) -> tuple[Sequence[float], dict[str, Any]]:
    """Returns (the values of `figure_names`, the settings for the protocol)."""
    # `measure` has filled what a metric needs; the statistics of a file always have `pooled`.
    if metric in NEED_POOLED:
        assert candidate.pooled is not None
        assert reference.pooled is not None
        return [_DISTANCES[metric](candidate.pooled, reference.pooled)], {}
    if metric == "sfid":
        assert candidate.spatial is not None
        assert reference.spatial is not None
        return [frechet_distance(candidate.spatial, reference.spatial)], {}
    if metric == "is":
        assert candidate.score is not None
        return candidate.score.result(), {"inception_score_splits": SPLITS}
    assert candidate.spool is not None
    assert reference.spool is not None
    a, b = candidate.spool.finish(), reference.spool.finish()
    if metric == "kid":
        return compute_kid(a, b)
    values = precision_recall(reference=b, samples=a, neighbours=NEIGHBOURS)
    return values, {"precision_recall_neighbours": NEIGHBOURS}


def _compute_real(
    metric: str, reference: Measured, part: RealPart, others: Measured | None
) -> float:
    """Returns a figure of other real images, or of the part against the rest of the reference."""
    if metric == "kid":
        assert reference.spool is not None
        b = reference.spool.finish()
        if others is None:
            a, b = FeatureRows(b, part.inside), FeatureRows(b, ~part.inside)
        else:
            assert others.spool is not None
            a = others.spool.finish()
        return kid(a, b, **_subsets(len(a), len(b)))[0]
    assert reference.pooled is not None
    if others is not None:
        assert others.pooled is not None
        return _DISTANCES[metric](others.pooled, reference.pooled)
    assert reference.part is not None
    return _DISTANCES[metric](reference.part, reference.pooled.without(reference.part))


_DISTANCES = {"fid": frechet_distance, "fd64": component_distance}
