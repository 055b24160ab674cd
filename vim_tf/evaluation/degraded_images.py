"""Images made worse by a known amount: blurred, or with noise. A figure of quality must see it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vim_tf.evaluation.image_sources import ImageSource

SEED = 2020  # of the noise
# Standard deviations: of the blur in shares of the shorter side, of the noise in grey levels.
BLURS = (1 / 64, 1 / 32, 1 / 16)
NOISES = (10.0, 20.0, 40.0)


@dataclass(frozen=True)
class Degradation:
    """A change of images.

    Attributes:
        kind: "blur" or "noise".
        sigma: standard deviation of the Gaussian: in pixels for a blur, in grey levels for noise.
    """

    kind: str
    sigma: float

    @property
    def name(self) -> str:
        """For example "blur 0.5 px" or "noise 10"."""
        return f"{self.kind} {self.sigma:.3g}{' px' if self.kind == 'blur' else ''}"


def degradations(size: tuple[int, int]) -> dict[str, list[Degradation]]:
    """Returns {kind: three degradations of rising strength} for images of a size (H, W)."""
    return {
        "blur": [Degradation("blur", share * min(size)) for share in BLURS],
        "noise": [Degradation("noise", sigma) for sigma in NOISES],
    }


def blur(images: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs with a Gaussian, cut off at 4 sigma; beyond the border, images are mirrored.

    Args:
        images: uint8 [B,h,w,3].
        sigma: standard deviation in pixels.

    Returns:
        uint8 [B,h,w,3], rounded.
    """
    radius = int(4 * sigma + 0.5)
    places = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (places / sigma) ** 2)
    weights /= weights.sum()
    found = images.astype("float32")
    for _ in range(2):  # along the height, then along the width
        length = found.shape[1]
        padded = np.pad(found, [(0, 0), (radius, radius), (0, 0), (0, 0)], "symmetric")
        blurred = sum(
            np.float32(weight) * padded[:, start : start + length]
            for start, weight in enumerate(weights)
        )
        found = np.swapaxes(blurred, 1, 2)
    return np.rint(found).astype("uint8")


def add_noise(images: np.ndarray, sigma: float, random: np.random.RandomState) -> np.ndarray:
    """Adds independent Gaussian noise to each channel of each pixel.

    Args:
        images: uint8 [B,h,w,3].
        sigma: standard deviation in grey levels.
        random: gives the noise.

    Returns:
        uint8 [B,h,w,3], rounded, and cut to 0 to 255.
    """
    noisy = images + sigma * random.standard_normal(images.shape)
    return np.clip(np.rint(noisy), 0, 255).astype("uint8")


def choose_at_random(count: int, chosen: int, seed: int) -> np.ndarray:
    """Returns bool [count], true for `chosen` random images."""
    inside = np.zeros(count, bool)
    inside[np.random.RandomState(seed).permutation(count)[:chosen]] = True
    return inside


class ChosenImages:
    """Some images of a source, perhaps degraded, as an `image_sources.ImageSource`.

    The noise is the same for each sigma, except for its strength, and for each batch size.

    Args:
        source: the source.
        chosen: bool [N], true for the images to use.
        degradation: the `Degradation`; None does not change the images.
    """

    def __init__(
        self, source: ImageSource, chosen: np.ndarray, degradation: Degradation | None = None
    ) -> None:
        self._source, self._chosen, self._degradation = source, chosen, degradation
        self.count = int(np.count_nonzero(chosen))
        self.description: dict[str, Any] = dict(source.description)

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """Yields uint8 [B,h,w,3]; only the last batch is smaller than `batch_size`."""
        random = np.random.RandomState(SEED)
        waiting: list[np.ndarray] = []
        start = 0
        for images in self._source.batches(batch_size):
            waiting.extend(images[self._chosen[start : start + len(images)]])
            start += len(images)
            while len(waiting) >= batch_size:
                yield self._degrade(np.stack(waiting[:batch_size]), random)
                del waiting[:batch_size]
        if waiting:
            yield self._degrade(np.stack(waiting), random)

    def _degrade(self, images: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        if self._degradation is None:
            return images
        if self._degradation.kind == "blur":
            return blur(images, self._degradation.sigma)
        return add_noise(images, self._degradation.sigma, random)
