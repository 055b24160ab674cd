import numpy as np
import pytest

from vim_tf.metrics.unigram_baseline import STRENGTHS, unigram_nats


def brute_force(train, held_out, codes, smoothing):
    total = 0.0
    for row in held_out:
        for place, token in enumerate(row):
            count = sum(1 for other in train if other[place] == token)
            total -= np.log((count + smoothing) / (len(train) + smoothing * codes))
    return total / held_out.size


def make_tokens(seed, images, codes=7, length=5):
    # Each position prefers a different code. Pooled positions would be another model.
    random = np.random.default_rng(seed)
    preferred = np.arange(length) % codes
    drawn = random.integers(codes, size=(images, length))
    return np.where(random.random((images, length)) < 0.6, preferred, drawn).astype("int32")


@pytest.mark.parametrize("smoothing", [0.01, 1.0, 3.0])
def test_matches_brute_force(smoothing):
    train, held_out = make_tokens(0, 40), make_tokens(1, 9)
    expected = brute_force(train, held_out, 7, smoothing)
    assert unigram_nats(train, held_out, 7, smoothing) == pytest.approx(expected, rel=1e-12)


def test_default_strength_is_the_best_for_the_baseline():
    train, held_out = make_tokens(0, 40), make_tokens(1, 9)
    expected = min(brute_force(train, held_out, 7, strength) for strength in STRENGTHS)
    assert unigram_nats(train, held_out, 7) == pytest.approx(expected, rel=1e-12)
    assert expected < brute_force(train, held_out, 7, 100.0)


def test_heavy_smoothing_knows_nothing():
    train, held_out = make_tokens(0, 40), make_tokens(1, 9)
    assert unigram_nats(train, held_out, 7, 1e12) == pytest.approx(np.log(7), rel=1e-9)


def test_many_samples_give_the_entropy():
    train, held_out = make_tokens(0, 20_000), make_tokens(1, 20_000)
    share = np.full(7, 0.4 / 7)
    share[0] += 0.6
    assert unigram_nats(train, held_out, 7) == pytest.approx(
        -np.sum(share * np.log(share)), abs=0.01
    )


@pytest.mark.parametrize(
    ("train", "held_out", "message"),
    [
        (np.zeros((3, 4), int), np.zeros((2, 5), int), "held_out has the shape"),
        (np.zeros((0, 4), int), np.zeros((2, 4), int), "train_tokens has the shape"),
        (np.full((3, 4), 7), np.zeros((2, 4), int), "train_tokens go from 7 to 7"),
        (np.zeros((3, 4), int), np.full((2, 4), -1), "held_out go from -1"),
    ],
)
def test_refuses_what_cannot_be_right(train, held_out, message):
    with pytest.raises(ValueError, match=message):
        unigram_nats(train, held_out, 7)
