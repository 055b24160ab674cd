"""Computes figures from images: features batch by batch, then the metrics of two sets of features.

Memory: FID, sFID and the Inception Score need O(features^2) for any number of images. KID,
precision and recall need all features and keep them in a file.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from vim_tf.config import checks
from vim_tf.data.progress import progress_bar
from vim_tf.errors import UserError
from vim_tf.evaluation.features import FeatureNetwork
from vim_tf.evaluation.image_sources import ImageSource, hash_images
from vim_tf.evaluation.network_output import Features
from vim_tf.metrics.feature_file import FeatureSpool
from vim_tf.metrics.fid import FeatureStatistics, frechet_distance
from vim_tf.metrics.inception_score import InceptionScore
from vim_tf.metrics.kid import kid
from vim_tf.metrics.precision_recall import NEIGHBOURS, precision_recall

METRICS = ("fid", "sfid", "is", "kid", "pr")
NEED_FEATURES = {"kid", "pr"}  # these need the features of every image, others only statistics
KID_SUBSETS, KID_SUBSET_SIZE, KID_SEED = 100, 1000, 2020
SPLITS = 10  # of the Inception Score


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
    """

    count: int | None = None
    sha256: str | None = None
    pooled: FeatureStatistics | None = None
    spatial: FeatureStatistics | None = None
    score: InceptionScore | None = None
    spool: FeatureSpool | None = None


def choose_metrics(
    names: Collection[str] | None, extractor: FeatureNetwork | None
) -> tuple[str, ...]:
    """Returns the metrics to compute.

    Args:
        names: some of `METRICS`; None selects all that the network supports.
        extractor: the feature network; without one (None), there are no metrics.

    Returns:
        A tuple in the order of `METRICS`.

    Raises:
        UserError: an unknown name, or sfid of a network without spatial features.
    """
    if extractor is None:
        return ()
    if names is None:
        return tuple(m for m in METRICS if m != "sfid" or extractor.spatial_dim)
    wanted = checks.choose("metrics", list(names), METRICS)
    if "sfid" in wanted and not extractor.spatial_dim:
        raise UserError(
            f"metrics has sfid, which needs the spatial features of the Inception graph; "
            f"{extractor.path} has none"
        )
    return tuple(wanted)


def check_counts(
    what: str,
    count: int,
    reference_count: int | None,
    metrics: Collection[str],
    extractor: FeatureNetwork,
    allow_small_n: bool,
) -> None:
    """Raises UserError if there are too few images for the metrics.

    Args:
        what: name of the images that are judged.
        count: their number.
        reference_count: number of the reference's images; None if unknown.
        metrics: of `METRICS`.
        extractor: the feature network.
        allow_small_n: allow FID and sFID with fewer than twice as many images as features.
    """
    sides = {what: count, "reference images": reference_count}
    sides = {name: number for name, number in sides.items() if number is not None}
    dims = {"fid": extractor.dim, "sfid": extractor.spatial_dim}
    for metric in [metric for metric in metrics if metric in dims]:
        dim = dims[metric]
        assert dim is not None  # `choose_metrics` refuses sfid without spatial features
        for name, number in sides.items():
            if number < 2 * dim and not (allow_small_n and number >= 2):
                raise UserError(
                    f"{metric} of {number:,} {name} with {dim:,} features needs at least twice as "
                    f"many images, {2 * dim:,}: with fewer, the covariance is noise and {metric} "
                    "is too high by an amount that depends on the model (arXiv 1911.07023); give "
                    "more images, set metrics to kid, or set allow_small_n"
                )
    for metric, least in (("is", SPLITS), ("kid", 2), ("pr", NEIGHBOURS + 1)):
        # The Inception Score uses only the judged images, not the reference.
        for name, number in sides.items() if metric != "is" else [(what, count)]:
            if metric in metrics and number < least:
                raise UserError(
                    f"{metric} of {number} {name}: at least {least} are needed; give more, "
                    "or leave it out of metrics"
                )


def measure(
    source: ImageSource,
    extractor: FeatureNetwork | None,
    metrics: Collection[str],
    batch_size: int,
    what: str,
) -> Measured:
    """Runs all images of a source through the network once.

    Args:
        source: the images.
        extractor: the feature network; None if there are no metrics.
        metrics: of `METRICS`; () only counts and hashes.
        batch_size: images at once.
        what: name of the images, for the progress bar and errors.

    Returns:
        A `Measured`; its files are deleted together with it.

    Raises:
        UserError: NaN or infinite features, or fewer images than `source.count`.
    """
    found = Measured() if extractor is None else _prepare(extractor, metrics)
    digest, count = hashlib.sha256(), 0
    with progress_bar(source.count, "images", what) as bar:
        for images in source.batches(batch_size):
            hash_images(digest, images)
            if extractor is not None and metrics:
                _take_in(found, extractor(images), extractor, what, count)
            count += len(images)
            bar.update(len(images))
    if count < source.count:
        raise UserError(f"{count:,} of {source.count:,} {what} can be decoded; remove the others")
    found.count, found.sha256 = count, digest.hexdigest()
    return found


def _prepare(extractor: FeatureNetwork, metrics: Collection[str]) -> Measured:
    """Returns a `Measured` with an empty part for each that the metrics need."""
    found = Measured()
    if "fid" in metrics:
        found.pooled = FeatureStatistics(extractor.dim)
    if "sfid" in metrics:
        assert extractor.spatial_dim is not None  # `choose_metrics` refuses sfid without them
        found.spatial = FeatureStatistics(extractor.spatial_dim)
    if "is" in metrics:
        found.score = InceptionScore(extractor.classes, SPLITS)
    if NEED_FEATURES & set(metrics):
        found.spool = FeatureSpool(extractor.dim)
    return found


def _take_in(
    found: Measured, features: Features, extractor: FeatureNetwork, what: str, start: int
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
) -> tuple[dict[str, float], dict[str, str], dict[str, Any]]:
    """Computes the figures of two measured sets.

    Args:
        candidate: the `Measured` that is judged.
        reference: the `Measured` that it is compared with.
        metrics: of `METRICS`.
        extractor: the feature network, for the figures' names.
        prefix: "r", "g" or "", put before "FID".

    Returns:
        (figures {name: float}, {name: why it is missing}, the metrics' settings for the protocol).
    """
    suffix = f"[{extractor.name}]" if extractor.name else ""
    figures: dict[str, float] = {}
    missing: dict[str, str] = {}
    settings: dict[str, Any] = {}
    statistics = {"fid": "pooled", "sfid": "spatial"}
    for metric, name in (("fid", f"{prefix}FID"), ("sfid", "sFID")):
        if metric not in metrics:
            continue
        pair = [getattr(side, statistics[metric]) for side in (candidate, reference)]
        if None in pair:
            missing[name + suffix] = "the reference has no statistics of spatial features"
        else:
            figures[name + suffix] = float(frechet_distance(*pair))
    if "is" in metrics:
        assert candidate.score is not None  # measured, because the metrics have "is"
        settings["inception_score_splits"] = SPLITS
        figures[f"IS{suffix}"], figures[f"IS{suffix} std"] = map(float, candidate.score.result())
    for metric in [metric for metric in metrics if metric in NEED_FEATURES]:
        names = {"kid": ("KID", "KID std"), "pr": ("precision", "recall")}[metric]
        names = [f"KID{suffix} std" if name == "KID std" else name + suffix for name in names]
        if reference.spool is None:
            missing |= dict.fromkeys(names, "the reference has statistics and no images")
            continue
        assert candidate.spool is not None  # measured, because the metric needs features
        a, b = candidate.spool.finish(), reference.spool.finish()
        if metric == "kid":
            smaller = min(len(a), len(b))
            # If each subset were the whole set, all would be equal and the deviation 0.
            size = KID_SUBSET_SIZE if smaller >= KID_SUBSET_SIZE else max(2, smaller // 2)
            drawn = {"subsets": KID_SUBSETS, "subset_size": size, "seed": KID_SEED}
            values, settings["kid"] = kid(a, b, **drawn), drawn
        else:
            values = precision_recall(reference=b, samples=a, neighbours=NEIGHBOURS)
            settings["precision_recall_neighbours"] = NEIGHBOURS
        figures |= zip(names, map(float, values), strict=True)
    return figures, missing, settings
