import numpy as np
import pytest
import tensorflow as tf

from vim_tf.data import hashing
from vim_tf.errors import UserError

MASK = 2**64 - 1


def splitmix64(state):
    """The generator as its authors published it, in Python integers."""
    z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def test_hash_is_splitmix64_of_the_parts():
    golden = 0x9E3779B97F4A7C15
    expected = splitmix64(7 + golden & MASK)
    for part in (3, 12):
        expected = splitmix64(expected + (part + 1) * golden & MASK)
    got = hashing.hash_integers(7, tf.constant(3, tf.int64), tf.constant(12, tf.int64))
    assert int(got) == expected
    # The published first outputs of SplitMix64 with seed 0.
    assert splitmix64(golden) == 0xE220A8397B1DCDAF
    assert int(hashing.hash_integers(0)) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize("seed", [0, -1, 2**80 + 5])
def test_draws_are_uniform_and_the_same_one_by_one_and_in_a_batch(seed):
    position = tf.range(4000, dtype=tf.int64)
    epoch = tf.fill([4000], tf.constant(2, tf.int64))
    draws = hashing.draw_uniform(5, seed, epoch, position).numpy()
    assert draws.shape == (4000, 5)
    assert draws.min() >= 0 and draws.max() < 1
    counts = np.histogram(draws, 20, (0, 1))[0]
    assert np.abs(counts / draws.size - 0.05).max() < 0.005  # 4.6 standard deviations
    assert np.abs(np.corrcoef(draws.T) - np.eye(5)).max() < 0.07
    assert np.abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.07
    alone = hashing.draw_uniform(5, seed, tf.constant(2, tf.int64), tf.constant(17, tf.int64))
    np.testing.assert_array_equal(alone, draws[17])
    other = hashing.draw_uniform(5, seed + 1, epoch, position).numpy()
    assert (draws == other).mean() < 0.01


@pytest.mark.parametrize("size", [1, 2, 3, 10, 257, 3380])
def test_shuffling_is_a_permutation_that_changes_with_seed_and_epoch(size):
    def order(seed, epoch):
        position = tf.range(size, dtype=tf.int64)
        epochs = tf.fill([size], tf.constant(epoch, tf.int64))
        return hashing.shuffle_index(position, size, seed, epochs).numpy()

    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    for each in orders:
        np.testing.assert_array_equal(np.sort(each), np.arange(size))
    if size >= 10:
        assert len({tuple(each) for each in orders}) == len(orders)
    one = tf.constant(size - 1, tf.int64)
    assert hashing.shuffle_index(one, size, 1, tf.constant(2, tf.int64)) == order(1, 2)[-1]


def test_every_place_of_a_shuffled_epoch_gets_every_image_alike():
    size, epochs = 12, 2000
    epoch = tf.repeat(tf.range(epochs, dtype=tf.int64), size)
    position = tf.tile(tf.range(size, dtype=tf.int64), [epochs])
    index = hashing.shuffle_index(position, size, 5, epoch).numpy().reshape(epochs, size)
    counts = np.stack([np.bincount(index[:, place], minlength=size) for place in range(size)])
    assert np.abs(counts / epochs - 1 / size).max() < 5 * np.sqrt(1 / size / epochs)


def test_hashes_of_names_never_change():
    # FarmHash Fingerprint64 is the same in every release and on every machine. If these values
    # changed, images would move between training and validation.
    names = ["a.png", "dogs/1.jpg", "1F44B"]
    expected = [tf.fingerprint([name]).numpy().view("<u8")[0, 0] % 2**30 for name in names]
    assert hashing.hash_names(tf.constant(names)).numpy().tolist() == expected
    assert expected == [789814287, 1050117117, 1035149196]


def test_threshold_leaves_neither_side_empty():
    hashes = np.array([500_000_000, 600_000_000, 900_000_000])
    for fraction, held_out in ((0.01, 1), (0.5, 1), (0.6, 2), (0.999, 2)):
        threshold = hashing.validation_threshold(hashes, fraction, "x")
        assert (hashes < threshold).sum() == held_out
    for few in (hashes[:0], hashes[:1], np.array([3, 3])):
        with pytest.raises(UserError, match=r"x has too few images \("):
            hashing.validation_threshold(few, 0.1, "x")
