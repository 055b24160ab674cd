"""Steps of VIM with a cache that the caller keeps, as with LiteRT."""

import numpy as np

from vim_tf.config.sections import TransformerConfig, VIMConfig
from vim_tf.models.attention import HIDDEN
from vim_tf.models.vim import VIM

TOKENS = np.random.default_rng(0).integers(11, size=(3, 6)).astype("int32")
LABELS = np.array([0, 3, 1], "int32")


def test_steps_that_only_read_the_cache_equal_the_whole():
    """The values in the cache from the position on have no effect."""
    model = VIM(VIMConfig(TransformerConfig(blocks=3, heads=2, dim=16, mlp_dim=24)), (2, 3), 11, 4)
    random = np.random.default_rng(1)
    for weight in model.trainable_variables:
        weight.assign(random.normal(size=weight.shape) * 0.5 + ("gamma" in weight.path))
    whole = np.asarray(model(TOKENS, LABELS))
    caches = [[np.full(np.shape(x), 3.0, "float32") for x in pair] for pair in model.init_cache(3)]
    for position in range(6):
        previous = TOKENS[:, position - 1] if position else np.full(3, 7, "int32")  # not read
        hidden = np.where(np.arange(6) < position, 0, HIDDEN).astype("float32")
        logits, entries = model.next_logits_reading(
            previous, np.int32(position), caches, LABELS, hidden
        )
        np.testing.assert_allclose(logits, whole[:, position], rtol=1e-5, atol=1e-5)
        for pair, entry in zip(caches, entries, strict=True):
            for cache, new in zip(pair, entry, strict=True):
                cache[:, :, position : position + 1] = new
