import numpy as np
import pytest
import scipy.ndimage

from vim_tf.evaluation.degraded_images import (
    SEED,
    ChosenImages,
    Degradation,
    add_noise,
    blur,
    degradations,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (11, 12, 10, 3), "uint8")


class Source:
    count = len(IMAGES)
    description = {"kind": "npz", "size": [12, 10]}  # noqa: RUF012, it is never changed

    def batches(self, batch_size):
        for start in range(0, len(IMAGES), batch_size):
            yield IMAGES[start : start + batch_size]


@pytest.mark.parametrize("sigma", [0.3, 0.5, 1.7, 5.0])
def test_blur_equals_scipy(sigma):
    found = blur(IMAGES, sigma)
    assert found.dtype == np.uint8
    for image, blurred in zip(IMAGES.astype("float64"), found, strict=True):
        expected = scipy.ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="reflect")
        assert np.abs(blurred - expected).max() <= 0.5001  # rounding


def test_noise_is_of_its_sigma():
    grey = np.full((40, 32, 32, 3), 128, "uint8")
    found = add_noise(grey, 20, np.random.RandomState(0)).astype("float64") - 128
    assert found.std() == pytest.approx(20, rel=0.01)
    assert abs(found.mean()) < 0.3
    bright = add_noise(np.full_like(grey, 250), 20, np.random.RandomState(0))
    assert (bright.min(), bright.max()) == (pytest.approx(165, abs=15), 255)


def test_strengths():
    found = degradations((64, 48))
    assert [step.name for step in found["blur"]] == ["blur 0.75 px", "blur 1.5 px", "blur 3 px"]
    assert [step.name for step in found["noise"]] == ["noise 10", "noise 20", "noise 40"]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_the_chosen_images(batch_size):
    chosen = np.arange(11) % 3 != 1
    source = ChosenImages(Source(), chosen)
    batches = list(source.batches(batch_size))
    assert source.count == 7
    assert all(len(batch) == min(batch_size, 7) for batch in batches[:-1])
    np.testing.assert_array_equal(np.concatenate(batches), IMAGES[chosen])
    for sigma in (5.0, 50.0):
        noisy = ChosenImages(Source(), chosen, Degradation("noise", sigma))
        for _ in range(2):  # each pass is the same
            found = np.concatenate(list(noisy.batches(batch_size)))
            expected = add_noise(IMAGES[chosen], sigma, np.random.RandomState(SEED))
            np.testing.assert_array_equal(found, expected)
    blurred = ChosenImages(Source(), chosen, Degradation("blur", 1.0))
    found = np.concatenate(list(blurred.batches(batch_size)))
    np.testing.assert_array_equal(found, blur(IMAGES[chosen], 1.0))
