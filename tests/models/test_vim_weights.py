import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf.config.sections import TRANSFORMER_PRESETS, TransformerConfig, VIMConfig
from vim_tf.models.vim import VIM

TOKENS = np.random.default_rng(0).integers(11, size=(3, 6)).astype("int32")
LABELS = np.array([0, 3, 1], "int32")


def make_vim(seed=1):
    keras.utils.set_random_seed(seed)
    return VIM(VIMConfig(TransformerConfig(1, 2, 16, 24)), (2, 3), 11, 4)


@pytest.fixture(scope="module")
def model():
    return make_vim()


def test_config_survives_json(model):
    config = json.loads(json.dumps(model.get_config()))
    copy = VIM.from_config(config)
    assert copy.config == model.config and copy.get_config() == model.get_config()
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(copy(TOKENS, LABELS), model(TOKENS, LABELS))


def test_preset_gives_the_same_tokens(model, tmp_path):
    model.generate(n=1)  # a compiled function must not get into the preset
    model.save_to_preset(tmp_path, {"class_names": ["a", "b", "c", "d"]})
    copy = VIM.from_preset(tmp_path)
    assert copy.metadata["class_names"] == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(copy.generate(LABELS, 1), model.generate(LABELS, 1))


def test_a_checkpoint_holds_the_weights_alone(model, tmp_path):
    model.generate(n=1)
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    copy = make_vim(seed=2)
    tf.train.Checkpoint(model=copy).read(path).assert_consumed()
    np.testing.assert_array_equal(copy(TOKENS, LABELS), model(TOKENS, LABELS))


def count_parameters(config, grid, codes, classes):
    dim, mlp_dim = config.dim, config.mlp_dim
    attention = 3 * dim * dim + dim * dim + dim
    block = attention + 2 * dim * mlp_dim + mlp_dim + dim + 4 * dim
    embeddings = (codes + classes + 1 + sum(grid)) * dim
    return config.blocks * block + embeddings + 2 * dim + (dim + 1) * codes


@pytest.mark.parametrize(
    ("config", "grid", "codes", "classes"),
    [((1, 2, 8, 16), (2, 3), 5, 0), ((3, 4, 12, 20), (4, 1), 9, 7), ((2, 1, 6, 6), (5, 5), 4, 1)],
)
def test_number_of_parameters(config, grid, codes, classes):
    config = TransformerConfig(*config)
    model = VIM(VIMConfig(config), grid, codes, classes)
    assert model.count_params() == count_parameters(config, grid, codes, classes)


@pytest.mark.parametrize(("preset", "millions"), [("vim_base", 650), ("vim_large", 1697)])
def test_number_of_parameters_beside_the_papers(preset, millions):
    # The paper's numbers are met to the last digit if the projection after attention is left out
    # of the count; with it, as in this model, there are 7 to 9% more.
    config = TRANSFORMER_PRESETS[preset]
    count = count_parameters(config, (32, 32), 8192, 1000)
    projections = config.blocks * (config.dim**2 + config.dim)
    assert round((count - projections) / 1e6) == millions
    assert 1.06 < count / 1e6 / millions < 1.10
