import numpy as np
import pytest
import tensorflow as tf

from vim_tf.config.sections import PerturbationConfig, QuantizerConfig
from vim_tf.errors import UserError
from vim_tf.models.quantizer import VectorQuantizer
from vim_tf.models.seeded_dropout import row_keys
from vim_tf.trainers.perturbation import TokenPerturbation, find_neighbours

CODES = 40


@pytest.fixture(scope="module")
def quantizer():
    layer = VectorQuantizer(QuantizerConfig(codes=CODES, code_dim=3))
    layer.build((None, 6, 5))
    return layer


def perturb(quantizer, tokens, key=7, **config):
    perturbation = TokenPerturbation(quantizer, PerturbationConfig(**config))
    with row_keys(tf.constant(np.arange(len(tokens)) + key, tf.uint32)):
        return perturbation(tf.constant(tokens)).numpy()


def test_neighbours_are_the_nearest_others_by_distance(monkeypatch):
    monkeypatch.setattr("vim_tf.trainers.perturbation._BLOCK", 16)  # three blocks
    codes = np.random.default_rng(0).standard_normal((CODES, 3)).astype("float32")
    distances = np.linalg.norm(codes[:, None] - codes[None], axis=-1)
    np.testing.assert_array_equal(find_neighbours(codes, 5), np.argsort(distances, 1)[:, 1:6])


def test_so_many_tokens_move_each_to_one_of_its_neighbours_equally_often(quantizer):
    tokens = np.random.default_rng(1).integers(0, CODES, (400, 6)).astype("int32")
    found = perturb(quantizer, tokens, share=0.25, nearest=4)
    changed = found != tokens
    assert abs(changed.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / tokens.size)
    codebook = np.asarray(quantizer.lookup(np.arange(CODES)))
    neighbours = find_neighbours(codebook, 4)[tokens[changed]]
    places = neighbours == found[changed][:, None]
    assert (places.sum(1) == 1).all()
    counts = places.sum(0)
    assert np.abs(counts - changed.sum() / 4).max() < 4 * np.sqrt(changed.sum() * 3 / 16)


def test_the_draw_is_that_of_the_row_whatever_the_batch(quantizer):
    tokens = np.random.default_rng(2).integers(0, CODES, (8, 6)).astype("int32")
    whole = perturb(quantizer, tokens, share=0.5, nearest=4)
    part = perturb(quantizer, tokens[4:], key=11, share=0.5, nearest=4)
    np.testing.assert_array_equal(whole[4:], part)
    assert (perturb(quantizer, tokens, key=1000, share=0.5, nearest=4) != whole).any()


@pytest.mark.parametrize(("share", "moved"), [(0, False), (1, True)])
def test_none_and_all(quantizer, share, moved):
    tokens = np.full((50, 6), 3, "int32")
    found = perturb(quantizer, tokens, share=share, nearest=1)
    assert (found != tokens).all() if moved else (found == tokens).all()


def test_more_neighbours_than_other_codes_are_refused(quantizer):
    with pytest.raises(UserError, match=r"nearest is 40, .* 40 codes; give at most 39"):
        TokenPerturbation(quantizer, PerturbationConfig(nearest=CODES))
    TokenPerturbation(quantizer, PerturbationConfig(nearest=CODES - 1))
