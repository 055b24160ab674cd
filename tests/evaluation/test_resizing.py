import numpy as np
import pytest

from vim_tf.evaluation.resizing import resize_clean, resize_legacy


def make_images(height, width, count=2):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), "uint8")


def lerp_matrix(new, old):
    """TensorFlow 1's bilinear weights [new,old]: the source of i is i * old / new."""
    matrix = np.zeros((new, old))
    for i in range(new):
        place = i * old / new
        left = int(place)
        matrix[i, left] += 1 - (place - left)
        matrix[i, min(left + 1, old - 1)] += place - left
    return matrix


def cubic(x):
    """Keys' kernel with a = -0.5 (IEEE TASSP 29(6), 1981), which Pillow calls bicubic."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def antialiased_matrix(new, old):
    """The kernel [new,old] around half-pixel centres, widened by the scale if the image shrinks."""
    scale = max(old / new, 1)
    centres = (np.arange(new) + 0.5) * old / new
    weights = cubic((np.arange(old) + 0.5 - centres[:, None]) / scale)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(31, 19), (7, 40), (12, 16)])
@pytest.mark.parametrize(
    ("resize", "matrix"), [(resize_clean, antialiased_matrix), (resize_legacy, lerp_matrix)]
)
def test_resizes_by_definition(resize, matrix, size):
    images = make_images(12, 16)
    rows, columns = matrix(size[0], 12), matrix(size[1], 16)
    expected = np.einsum("ih,bhwc,jw->bijc", rows, images, columns)
    resized = resize(images, size)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected, atol=1e-3)


def test_clean_is_neither_rounded_nor_clipped():
    images = np.zeros((1, 8, 8, 3), "uint8")
    images[:, :, 4:] = 255
    resized = resize_clean(images, (24, 24))
    assert resized.min() < -1
    assert resized.max() > 256
    assert np.any(resized % 1 > 0.1)
