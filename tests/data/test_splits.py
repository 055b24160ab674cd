import numpy as np
import pytest
import tensorflow as tf

from vim_tf.data.splits import make_array_split


@pytest.mark.parametrize("channels", [1, 3])
def test_images_in_a_file_are_those_in_memory(tmp_path, channels):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 6, 4, channels), "uint8")
    labels = rng.integers(0, 9, 5).astype("int32")
    np.save(tmp_path / "images.npy", images)
    file = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert isinstance(file, np.memmap)
    memory, disk = make_array_split(images, labels), make_array_split(file, labels)
    assert disk.size == 5 and disk.vectorized
    for index, shape in (([3, 0, 3], [3, 6, 4, 3]), (2, [6, 4, 3])):
        dataset = tf.data.Dataset.from_tensors(np.int64(index))
        found, its_labels = dataset.map(disk.load).get_single_element()
        expected = memory.load(tf.constant(index, tf.int64))
        np.testing.assert_array_equal(found, expected[0])
        np.testing.assert_array_equal(its_labels, labels[index])
        assert dataset.map(disk.load).element_spec[0].shape == shape
