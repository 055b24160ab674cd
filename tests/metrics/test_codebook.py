import numpy as np
import pytest

from vim_tf.metrics.codebook import codebook_usage


def test_usage_is_the_mean_over_full_batches():
    tokens = np.array([[0, 0], [1, 1], [2, 3], [2, 3], [4, 4]])
    # Batches of 2 images have codes {0, 1} and {2, 3} of 8. The fifth image fills no batch.
    result = codebook_usage(tokens, codes=8, batch=2)
    assert result["usage"] == pytest.approx(2 / 8)
    assert result["dead_codes"] == 3


def test_usage_of_fewer_images_than_a_batch():
    assert codebook_usage(np.array([[0, 1], [1, 2]]), codes=4)["usage"] == pytest.approx(3 / 4)


def test_perplexity_is_the_number_of_equally_frequent_codes():
    tokens = np.tile(np.arange(5), (6, 4))
    assert codebook_usage(tokens, codes=16)["perplexity"] == pytest.approx(5)


def test_perplexity_is_the_exponential_of_the_entropy():
    tokens = np.array([[0, 0, 0, 1]])
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert codebook_usage(tokens, codes=2)["perplexity"] == pytest.approx(np.exp(entropy))
