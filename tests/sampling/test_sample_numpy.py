"""Compares NumPy's draws with Keras' draws, which test_sample.py compares with definitions."""

import itertools

import numpy as np
import pytest

from vim_tf.sampling import sample as sampling
from vim_tf.sampling import sample_numpy

CODES = 500
# Every pair of filters at every temperature, once for each seed.
TEMPERATURES, TOP_K, TOP_P = (0, 0.3, 1, 1.5), (0, 1, 7, CODES), (0.001, 0.3, 0.9, 1)
SETTINGS = np.array(list(itertools.product(TEMPERATURES, TOP_K, TOP_P)) * 40, "float32")


@pytest.fixture
def rows():
    """Logits, seeds, and settings by name."""
    temperature, top_k, top_p = SETTINGS.T
    random = np.random.default_rng(0)
    logits = random.normal(size=(len(SETTINGS), CODES)).astype("float32") * 2
    logits[::2] = np.round(logits[::2])  # gives many ties, at every cut
    seeds = random.integers(-(2**31), 2**31, len(SETTINGS)).astype("int32")
    return (
        logits,
        seeds,
        {"temperature": temperature, "top_k": top_k.astype("int32"), "top_p": top_p},
    )


def draw_both(logits, position, seeds, **settings):
    """The tokens of NumPy, and those of Keras."""
    return (
        sample_numpy.draw(logits, position, seeds, **settings),
        np.asarray(sampling.draw(logits, position, seeds, **settings)),
    )


@pytest.mark.parametrize("position", [0, 1023])
def test_filtered_draws_are_the_same(rows, position):
    logits, seeds, settings = rows
    tokens, expected = draw_both(logits, position, seeds, **settings)
    np.testing.assert_array_equal(tokens, expected)
    assert tokens.dtype == "int32" and len(np.unique(tokens)) > CODES / 2


def test_draws_without_filters_are_the_same(rows):
    logits, seeds, settings = rows
    tokens, expected = draw_both(logits, 3, seeds, temperature=settings["temperature"])
    np.testing.assert_array_equal(tokens, expected)


def test_guided_draws_are_the_same(rows):
    logits, seeds, settings = rows
    scale = np.linspace(0, 4, len(seeds), dtype="float32")
    logits = np.concatenate([logits, logits[::-1]])
    tokens, expected = draw_both(logits, 3, seeds, guidance_scale=scale, **settings)
    np.testing.assert_array_equal(tokens, expected)


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    # Four equal codes have exactly 0.25 each. The lower two of them reach 0.5.
    seeds = np.arange(200, dtype="int32")
    for top_p, kept in ((0.25, 1), (0.5, 2), (0.51, 3), (0.75, 3), (0.76, 4)):
        ones = np.ones(len(seeds), "float32")
        tokens = sample_numpy.draw(
            np.zeros((len(seeds), 4), "float32"),
            0,
            seeds,
            ones,
            np.zeros(200, "int32"),
            top_p * ones,
        )
        assert set(tokens) == set(range(kept))
