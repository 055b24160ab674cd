"""Real images compared with real images: the value that a figure has for perfect samples.

FID of two sets of real images is not 0 but grows with the features and falls with the images. So a
part of the reference is taken as if it were the judged set, and compared with the rest.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from vim_tf.evaluation.features import FeatureNetwork
from vim_tf.evaluation.metric_choice import REAL, fewest_images, real_name

SEED = 2020  # of the choice of the images


@dataclass(frozen=True, eq=False)
class RealPart:
    """Random images of the reference, which are compared with its other images.

    Attributes:
        inside: bool [M], true for the images of the part.
    """

    inside: np.ndarray

    @property
    def count(self) -> int:
        """Number of images of the part."""
        return int(np.count_nonzero(self.inside))

    @property
    def description(self) -> dict[str, Any]:
        """The part's entry in the protocol of an evaluation."""
        rest = len(self.inside) - self.count
        return {"images": self.count, "reference": rest, "seed": SEED}


def choose_part(
    count: int,
    reference_count: int | None,
    metrics: Collection[str],
    extractor: FeatureNetwork,
    allow_small_n: bool,
) -> tuple[RealPart | None, tuple[str, ...], dict[str, str]]:
    """Chooses as many images of the reference as are judged, and at most half of it.

    Args:
        count: number of the judged images.
        reference_count: number of the reference's images; None if it has only statistics.
        metrics: of `metric_choice.METRICS`, those of the judged images.
        extractor: the feature network.
        allow_small_n: as in `metric_choice.fit_to_counts`.

    Returns:
        (the part or None, the metrics of real images, {name of a figure: why it is missing}).
    """
    size = 0 if reference_count is None else min(count, reference_count // 2)
    kept, missing = [], {}
    for metric in [metric for metric in metrics if metric in REAL]:
        needed = fewest_images(metric, extractor, allow_small_n)
        if size >= needed:
            kept.append(metric)
        elif reference_count is None:
            reason = "the reference has statistics of all its images together"
            missing[real_name(metric, extractor)] = reason
        else:
            missing[real_name(metric, extractor)] = (
                f"the parts of the reference that are compared need {needed:,} images each, and "
                f"the first has at most as many as are judged; {count:,} are judged, and the "
                f"reference has {reference_count:,}"
            )
    if not kept:
        return None, (), missing
    assert reference_count is not None  # otherwise size is 0
    inside = np.zeros(reference_count, bool)
    inside[np.random.RandomState(SEED).permutation(reference_count)[:size]] = True
    return RealPart(inside), tuple(kept), missing
