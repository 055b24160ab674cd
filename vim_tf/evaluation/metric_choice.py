"""Which metrics are computed: those that the network supports and that have enough images.

A metric that was asked for by name and has too few images is an error. One that was not asked for
is left out, and the result says why and which figure to use instead.
"""

from collections.abc import Collection, Mapping

from vim_tf.config import checks
from vim_tf.errors import UserError
from vim_tf.evaluation.features import FeatureNetwork
from vim_tf.metrics.precision_recall import NEIGHBOURS
from vim_tf.metrics.principal_components import COMPONENTS

# The order is that of the figures: KID is the primary one, because it has no bias.
METRICS = ("kid", "fid", "fd64", "sfid", "is", "pr")
NEED_FEATURES = {"kid", "pr"}  # these need the features of every image, others only statistics
NEED_POOLED = {"fid", "fd64"}  # these need the statistics of pooled features
ALLOWED_SMALL = {"fid", "sfid", "fd64"}  # these are computed of few images with allow_small_n
REAL = {"kid", "fid", "fd64"}  # these are also computed of real images against real images
SPLITS = 10  # of the Inception Score
FEWEST = 1000  # images of each set, for FD64, and for KID with subsets of the usual size


def figure_names(metric: str, extractor: FeatureNetwork, prefix: str = "") -> list[str]:
    """Returns the names of a metric's figures.

    Args:
        metric: one of `METRICS`.
        extractor: the feature network; the names of a proxy's figures have its name.
        prefix: "r", "g" or "", put before "FID".
    """
    suffix = f"[{extractor.name}]" if extractor.name else ""
    return {
        "kid": [f"KID{suffix}", f"KID{suffix} std", f"KID{suffix} standard error"],
        "fid": [f"{prefix}FID{suffix}"],
        "fd64": [f"FD64{suffix}"],
        "sfid": [f"sFID{suffix}"],
        "is": [f"IS{suffix}", f"IS{suffix} std"],
        "pr": [f"precision{suffix}", f"recall{suffix}"],
    }[metric]


def real_name(metric: str, extractor: FeatureNetwork) -> str:
    """Returns the name of the figure of real images against real images: "FID real"."""
    name = figure_names(metric, extractor)[0]
    kind, bracket, rest = name.partition("[")
    return f"{kind} real{bracket}{rest}"


def choose_metrics(
    names: Collection[str] | None, extractor: FeatureNetwork | None
) -> tuple[str, ...]:
    """Returns the metrics to compute, before the images are counted.

    Args:
        names: some of `METRICS`; None selects all that the network supports.
        extractor: the feature network; without one (None), there are no metrics.

    Returns:
        A tuple in the order of `METRICS`.

    Raises:
        UserError: an unknown name, or a metric that the network does not support.
    """
    if extractor is None:
        return ()
    unsupported = _find_unsupported(extractor)
    if names is None:
        return tuple(metric for metric in METRICS if metric not in unsupported)
    wanted = checks.choose("metrics", list(names), METRICS)
    for metric in wanted:
        if metric in unsupported:
            raise UserError(f"metrics has {metric}, which needs {unsupported[metric]}")
    return tuple(wanted)


def _find_unsupported(extractor: FeatureNetwork) -> dict[str, str]:
    """Returns {metric: what it needs and the network does not have}."""
    found = {}
    if not extractor.spatial_dim:
        found["sfid"] = f"the spatial features of the Inception graph; {extractor.path} has none"
    if extractor.dim < COMPONENTS:
        found["fd64"] = f"{COMPONENTS} features or more; {extractor.path} has {extractor.dim}"
    return found


def fit_to_counts(
    what: str,
    count: int,
    reference_count: int | None,
    metrics: Collection[str],
    extractor: FeatureNetwork,
    allow_small_n: bool,
    asked: bool,
    prefix: str = "",
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Leaves out the metrics that have too few images, unless they were asked for by name.

    Args:
        what: name of the images that are judged.
        count: their number.
        reference_count: number of the reference's images; None if unknown.
        metrics: of `METRICS`.
        extractor: the feature network.
        allow_small_n: allow FID, sFID and FD64 with fewer images than they need.
        asked: whether the metrics were asked for by name.
        prefix: as in `figure_names`.

    Returns:
        (the metrics with enough images, {name of a figure: why it is left out}).

    Raises:
        UserError: a metric that was asked for has too few images, or no metric has enough.
    """
    sides = {what: count}
    if reference_count is not None:
        sides["reference images"] = reference_count
    kept, missing, reason = [], {}, None
    for metric in metrics:
        reason = _too_few(metric, sides, what, extractor, allow_small_n)
        if reason is None:
            kept.append(metric)
            continue
        instead = _instead(metric, sides, extractor)
        if asked:
            advice = "or leave it out of metrics"
            if metric in ALLOWED_SMALL:
                advice = f"set metrics to {','.join(instead)}, or set allow_small_n"
            raise UserError(f"{reason}; give more images, {advice}")
        if instead:
            figures = " and ".join(figure.upper() for figure in instead)
            error = "" if min(sides.values()) >= FEWEST else ", and read it with its standard error"
            reason += f"; use {figures} instead{error}"
        missing |= dict.fromkeys(figure_names(metric, extractor, prefix), reason)
    if metrics and not kept:
        raise UserError(f"there are too few images for every metric: {reason}; give more images")
    return tuple(kept), missing


def fewest_images(metric: str, extractor: FeatureNetwork, allow_small_n: bool) -> int:
    """Returns the number of images that a metric needs of each set."""
    if metric in ALLOWED_SMALL and allow_small_n:
        return 2
    fewest = {
        "kid": 2,
        "fid": 2 * extractor.dim,
        "fd64": FEWEST,
        "is": SPLITS,
        "pr": NEIGHBOURS + 1,
    }
    if metric == "sfid":
        assert extractor.spatial_dim is not None  # `choose_metrics` refuses sfid without them
        return 2 * extractor.spatial_dim
    return fewest[metric]


def _too_few(
    metric: str,
    sides: Mapping[str, int],
    what: str,
    extractor: FeatureNetwork,
    allow_small_n: bool,
) -> str | None:
    """Returns why a metric has too few images, or None."""
    needed = fewest_images(metric, extractor, allow_small_n)
    dim = {"fid": extractor.dim, "sfid": extractor.spatial_dim}.get(metric)
    for name, number in sides.items():
        # The Inception Score uses only the judged images, not the reference.
        if number >= needed or (metric == "is" and name != what):
            continue
        if dim is not None:
            return (
                f"{metric} of {number:,} {name} with {dim:,} features needs at least twice as many "
                f"images, {2 * dim:,}: with fewer, the covariance is noise and {metric} is too "
                "high by an amount that depends on the model (arXiv 1911.07023)"
            )
        return f"{metric} of {number:,} {name} needs at least {needed:,}"
    return None


def _instead(metric: str, sides: Mapping[str, int], extractor: FeatureNetwork) -> tuple[str, ...]:
    """Returns the metrics to use instead of one that has too few images."""
    if metric not in ALLOWED_SMALL:
        return ()
    if metric != "fd64" and min(sides.values()) >= FEWEST and extractor.dim >= COMPONENTS:
        return "kid", "fd64"
    return ("kid",)
