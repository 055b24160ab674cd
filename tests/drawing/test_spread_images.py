import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from vim_tf.config.sections import DataConfig
from vim_tf.data.images import make_image_dataset
from vim_tf.data.transforms import to_uint8
from vim_tf.drawing.spread_images import spread_images


@pytest.mark.parametrize(
    ("count", "places"),
    [(1, [0]), (2, [0, 5]), (4, [0, 3, 5, 8]), (10, range(10)), (99, range(10))],
)
def test_they_come_from_all_over_the_split(tiny_images, count, places):
    """Images are stored by class, so the first five would all be blue."""
    config = DataConfig(
        source="folder", path=f"{tiny_images}/train", image_size=(16, 16), batch_size=4,
        validation_path=f"{tiny_images}/validation",
    )  # fmt: skip
    data = make_image_dataset(config, seed=0)
    batches = list(data.evaluation("validation"))
    images, labels = spread_images(data, "validation", count)
    assert images.dtype == np.uint8
    expected = np.concatenate([to_uint8(batch["image"]) for batch in batches])
    np.testing.assert_array_equal(images, expected[list(places)])
    np.testing.assert_array_equal(
        labels, np.concatenate([batch["label"] for batch in batches])[list(places)]
    )
    assert len(np.unique(labels)) == min(2, count)


def test_only_these_images_are_decoded(tiny_images):
    config = DataConfig(
        source="folder", path=f"{tiny_images}/train", image_size=(16, 16), batch_size=2,
        validation_path=f"{tiny_images}/validation",
    )  # fmt: skip
    data = make_image_dataset(config, seed=0)
    split, loaded = data.splits["validation"], []

    def load(index):
        tf.py_function(lambda i: loaded.append(int(i)), [index], [])
        return tf.zeros([16, 16, 3], tf.uint8), tf.constant(0)

    one_by_one = dataclasses.replace(split, load=load, vectorized=False)
    data = dataclasses.replace(data, splits={"validation": one_by_one})
    images, _ = spread_images(data, "validation", 3)
    assert len(images) == 3
    assert sorted(loaded) == [0, 4, 7]
