"""Generation compiled with XLA, compared with that of TensorFlow's own graph."""

import numpy as np
import pytest

from vim_tf.config.sections import TransformerConfig, VIMConfig
from vim_tf.models import vim

LABELS = np.array([0, 3, 1], "int32")


@pytest.fixture(scope="module")
def make():
    """A function () -> a model of 6 tokens, with weights so large that the cache has an effect."""
    config = VIMConfig(TransformerConfig(blocks=2, heads=2, dim=16, mlp_dim=24))

    def make():
        model, random = vim.VIM(config, (2, 3), 11, 4), np.random.default_rng(1)
        for weight in model.trainable_variables:
            weight.assign(random.normal(size=weight.shape) * 0.5 + ("gamma" in weight.path))
        return model

    return make


def test_xla_draws_the_same(make, two_replicas, monkeypatch):
    """XLA writes the cache in another way. In one call, by rows of the grid, on two replicas."""
    plain = make()
    monkeypatch.setattr(vim, "XLA_WORK", 0)
    fast = make()
    with two_replicas.scope():
        shared = make()
    for settings in ({}, {"top_p": 0.9, "guidance_scale": 2.0}):
        expected = plain.generate(LABELS, 5, **settings)
        for model in (fast, shared):
            np.testing.assert_array_equal(model.generate(LABELS, 5, **settings), expected)
    by_rows = fast.generate(LABELS, 5, callback=lambda *_: None, **settings)
    np.testing.assert_array_equal(by_rows, expected)


def test_large_models_are_compiled_with_xla(make, monkeypatch):
    asked = []
    monkeypatch.setattr(vim, "compiled", lambda *_, xla, **__: asked.append(xla))
    work = make().count_params() * 6
    for limit in (work, work - 1):
        monkeypatch.setattr(vim, "XLA_WORK", limit)
        model = make()
        assert model._compiled() == (None, None)
    assert asked == [False] * 2 + [True] * 2
