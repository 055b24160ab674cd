import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from vim_tf.models.seeded_dropout import RowDropout, row_bits, row_keys, step_keys
from vim_tf.noise import mix

KEYS = np.array([3, 7, 7, 2**32 - 1], "uint32")
ONES = np.ones((4, 5, 40), "float32")


def test_outside_of_training_nothing_is_dropped():
    layer = RowDropout(0.5, salt=0)
    for training in (None, False):
        np.testing.assert_array_equal(layer(ONES, training=training), ONES)
    np.testing.assert_array_equal(RowDropout(0.0, salt=0)(ONES, training=True), ONES)


def test_a_rows_mask_is_a_function_of_its_key():
    layer = RowDropout(0.5, salt=0)
    with row_keys(KEYS):
        y = np.asarray(layer(ONES, training=True))
    with row_keys(KEYS[2:]):
        np.testing.assert_array_equal(layer(ONES[2:], training=True), y[2:])
        np.testing.assert_array_equal(layer(ONES[2:], training=True), y[2:])
    np.testing.assert_array_equal(y[1], y[2])
    assert np.any(y[0] != y[1])
    assert set(np.unique(y)) == {0, 2}


def test_a_part_gets_that_part_of_the_mask():
    layer, places = RowDropout(0.5, salt=0), np.arange(5 * 40, dtype="int32").reshape(5, 40)
    with row_keys(KEYS):
        whole = np.asarray(layer(ONES, training=True))
        part = layer(ONES[:, 1:3, 5:], places[1:3, 5:], training=True)
    np.testing.assert_array_equal(part, whole[:, 1:3, 5:])


def test_bits_are_a_function_of_key_salt_and_place():
    places = np.int32([0, 5, 5])
    bits = np.asarray(row_bits(KEYS, 3, places))
    assert bits.shape == (4, 3) and bits.dtype == "uint32"
    np.testing.assert_array_equal(bits[:, 1], bits[:, 2])
    np.testing.assert_array_equal(bits[1], bits[2])
    assert len({*bits[[0, 1, 3]][:, :2].ravel(), *np.ravel(row_bits(KEYS[:1], 4, places))[:2]}) == 8
    with row_keys(KEYS):
        np.testing.assert_array_equal(row_bits(None, 3, places), bits)


def test_another_salt_is_another_mask():
    with row_keys(KEYS):
        a, b = (np.asarray(RowDropout(0.5, salt)(ONES, training=True)) for salt in (0, 1))
    assert 0.4 < np.mean(a == b) < 0.6


def test_without_keys_each_call_draws_anew():
    layer = RowDropout(0.5, salt=0)
    a, b = (np.asarray(layer(ONES, training=True)) for _ in range(2))
    assert np.any(a != b)
    assert np.any(a[0] != a[1])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_is_the_rate_and_the_mean_stays(rate):
    """For each position over rows, and for each row over positions. Neighbours are independent."""
    x = np.ones((2000, 50), "float32")
    with row_keys(mix(np.arange(2000, dtype="uint32"))):
        y = np.asarray(RowDropout(rate, salt=3)(x, training=True))
    kept = y > 0
    np.testing.assert_allclose(y[kept], 1 / (1 - rate), rtol=1e-6)
    for counts, number in ((kept.sum(0), 2000), (kept.sum(1), 50)):
        expected = number * (1 - rate), number * rate * (1 - rate)
        z = (counts - expected[0]) / np.sqrt(expected[1])
        assert 0.7 < z.std() < 1.3
    assert stats.binomtest(int(kept.sum()), kept.size, 1 - rate).pvalue > 1e-3
    for a, b in ((kept[:, 1:], kept[:, :-1]), (kept[1:], kept[:-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.015


def test_a_graph_and_bfloat16():
    layer = RowDropout(0.5, salt=0, dtype="bfloat16")

    @tf.function(jit_compile=True)
    def drop(x, keys):
        with row_keys(keys):
            return layer(x, training=True)

    y = drop(tf.cast(ONES, "bfloat16"), KEYS)
    assert y.dtype == tf.bfloat16
    with row_keys(KEYS):
        expected = RowDropout(0.5, salt=0)(ONES, training=True)
    np.testing.assert_array_equal(tf.cast(y, "float32"), expected)


def test_it_can_be_saved(tmp_path):
    model = keras.Sequential([keras.Input((3,)), RowDropout(0.25, salt=7)])
    model.save(tmp_path / "x.keras")
    layer = keras.saving.load_model(tmp_path / "x.keras").layers[-1]
    assert (layer.rate, layer.salt) == (0.25, 7)


def numpy_mix(x):
    """MurmurHash3's finaliser."""
    x = np.asarray(x, "uint32")
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def keys_of(seed, steps, rows=1):
    """The keys [steps, rows] of all steps."""
    keys = [step_keys(seed, np.int64(step), np.arange(rows, dtype="int32")) for step in steps]
    return np.stack([np.asarray(key) for key in keys])


def test_no_two_seeds_share_a_stretch_of_steps():
    """Seeds that are near each other, negative or long; also with a shift by some steps."""
    seeds = [*range(24), -1, -2, 1_000_003, 2_000_006, 2**31, 2**32, 2**32 + 1, 2**63 - 1]
    keys = {seed: keys_of(seed, range(60))[:, 0] for seed in seeds}
    owners = {}
    for seed, stretch in keys.items():
        for step in range(len(stretch) - 1):
            pair = tuple(stretch[step : step + 2])
            assert owners.setdefault(pair, (seed, step)) == (seed, step)
    values = np.concatenate(list(keys.values()))
    assert len(np.unique(values)) >= len(values) - 1  # 2,000 keys of 2^32: one pair may be equal


def test_rows_of_a_step_are_not_those_of_another_shifted():
    keys = keys_of(3, range(40), rows=64)
    assert len(np.unique(keys)) >= keys.size - 1
    assert np.abs(np.corrcoef((keys & 1).astype(float)) - np.eye(40)).max() < 0.6


def test_keys_are_the_written_hash():
    """They equal the same hash in NumPy, with explicit wrapping."""
    with np.errstate(over="ignore"):

        def hashed(x, salt):
            return numpy_mix(np.uint32(x) + np.uint32(salt * 0x9E3779B9 % 2**32))

        key = hashed(hashed(7, 1) ^ np.uint32(0), 2)
        key = numpy_mix(key ^ hashed(11, 3))
        expected = [numpy_mix(key ^ hashed(row, 4)) for row in range(5)]
    np.testing.assert_array_equal(keys_of(7, [11], rows=5)[0], expected)
