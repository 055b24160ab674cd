"""Real images compared with real images: the value that a figure has for perfect samples.

FID of two sets of real images is not 0: it grows with the features and falls with the images. So it
stands beside the FID of the judged images. The real images are either other images than the
reference's, or a random part of the reference, which is compared with the rest of it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from vim_tf.evaluation.degraded_images import ChosenImages, choose_at_random
from vim_tf.evaluation.features import FeatureNetwork
from vim_tf.evaluation.image_sources import ImageSource
from vim_tf.evaluation.metric_choice import REAL, fewest_images, real_name

SEED = 2020  # of the choice of the images


@dataclass(frozen=True, eq=False)
class RealPart:
    """Random real images that are compared with the reference.

    Attributes:
        inside: bool [M], true for the images of the part.
        others: the images that the part is of; None if it is a part of the reference, which is then
            compared with the reference's other images.
    """

    inside: np.ndarray
    others: ImageSource | None = None

    @property
    def count(self) -> int:
        """Number of images of the part."""
        return int(np.count_nonzero(self.inside))

    @property
    def source(self) -> ChosenImages | None:
        """The part, if it is not of the reference."""
        return None if self.others is None else ChosenImages(self.others, self.inside)

    @property
    def description(self) -> dict[str, Any]:
        """The part's entry in the protocol of an evaluation."""
        if self.others is not None:
            return {**self.others.description, "images": self.count, "seed": SEED}
        rest = len(self.inside) - self.count
        return {"images": self.count, "reference": rest, "seed": SEED}


def choose_part(
    count: int,
    reference_count: int | None,
    metrics: Collection[str],
    extractor: FeatureNetwork,
    allow_small_n: bool,
    others: ImageSource | None = None,
) -> tuple[RealPart | None, tuple[str, ...], dict[str, str]]:
    """Chooses as many real images as are judged, or fewer: at most half of the reference.

    Args:
        count: number of the judged images.
        reference_count: number of the reference's images; None if it has only statistics.
        metrics: of `metric_choice.METRICS`, those of the judged images.
        extractor: the feature network.
        allow_small_n: as in `metric_choice.fit_to_counts`.
        others: real images to choose from instead of the reference.

    Returns:
        (the part or None, the metrics of real images, {name of a figure: why it is missing}).
    """
    available = reference_count if others is None else others.count
    largest = 0 if available is None else available if others is not None else available // 2
    size = min(count, largest)
    kept, missing = [], {}
    for metric in [metric for metric in metrics if metric in REAL]:
        needed = fewest_images(metric, extractor, allow_small_n)
        if size >= needed:
            kept.append(metric)
        elif available is None:
            reason = "the reference has statistics of all its images together; give real"
            missing[real_name(metric, extractor)] = reason
        elif others is None:
            missing[real_name(metric, extractor)] = (
                f"a part of the reference is compared with the rest, and both need {needed:,} "
                f"images; the reference has {available:,}, and {count:,} are judged; give real"
            )
        else:
            missing[real_name(metric, extractor)] = (
                f"it needs {needed:,} real images; real has {available:,}, and {count:,} are judged"
            )
    if not kept:
        return None, (), missing
    assert available is not None  # otherwise size is 0
    return RealPart(choose_at_random(available, size, SEED), others), tuple(kept), missing
