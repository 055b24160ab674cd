"""Images with more stated pixels than evaluation decodes."""

import pytest
from PIL import Image

from vim_tf.data import image_limits
from vim_tf.errors import UserError
from vim_tf.evaluation.image_sources import open_images

LIMIT = 64 * 8 * 8


@pytest.fixture(autouse=True)
def no_least_limit(monkeypatch):
    monkeypatch.setattr(image_limits, "LEAST", 1)


@pytest.mark.parametrize("options", [{"format": "PNG"}, {"format": "JPEG", "progressive": True}])
def test_the_limit_is_that_of_the_size_that_is_evaluated(tmp_path, options):
    Image.new("L", (65, 64)).save(tmp_path / "a.jpg", **options)
    with pytest.raises(UserError, match="a.jpg cannot be read: .* above the limit of 4,096 pixels"):
        open_images(tmp_path, "images", (8, 8))
    assert next(open_images(tmp_path, "images", (8, 9)).batches(1)).shape == (1, 8, 9, 3)


def test_a_jpeg_is_halved_where_it_is_resized_anyhow(tmp_path):
    Image.new("L", (65, 64), 99).save(tmp_path / "a.jpg")
    batch = next(open_images(tmp_path, "images", (8, 8)).batches(1))
    assert batch.shape == (1, 8, 8, 3) and (batch == 99).all()


def test_a_jpeg_that_must_keep_its_size_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(image_limits, "LEAST", LIMIT)
    Image.new("L", (64, 64)).save(tmp_path / "a.jpg")
    assert next(open_images(tmp_path, "images").batches(1)).shape == (1, 64, 64, 3)
    Image.new("L", (65, 64)).save(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="65 x 64 pixels is above the limit of 4,096"):
        open_images(tmp_path, "images")
