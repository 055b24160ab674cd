"""`VIM.generate` refuses wrong arguments in one line, and takes numbers of every kind."""

import numpy as np
import pytest
import tensorflow as tf

from vim_tf.config.sections import TransformerConfig, VIMConfig
from vim_tf.errors import UserError
from vim_tf.models.vim import VIM

CODES, CLASSES = 11, 4


def make_vim(classes=CLASSES, **config):
    tiny = TransformerConfig(blocks=1, heads=2, dim=16, mlp_dim=24)
    return VIM(VIMConfig(tiny, **config), (2, 3), CODES, classes)


@pytest.fixture(scope="module")
def model():
    return make_vim()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": [0, 4]}, "label is 4; it must be from 0 to 3"),
        ({"labels": -1}, "label is -1; it must be from 0 to 3"),
        ({"labels": [0.5]}, "labels is .* takes integers"),
        ({"labels": [[0, 1]]}, r"labels has the shape \(1, 2\)"),
        ({"labels": []}, "labels asks for 0 rows"),
        ({"labels": [[0], [1, 2]]}, "labels has rows of different lengths; give one number, or"),
        ({"labels": True}, "labels is True; it takes integers"),
        ({"labels": ["cats"]}, r"labels is \['cats'\]; it takes integers"),
        ({"n": 0}, "n is 0; it must be 1 or more"),
        ({"n": 2.0}, "n is 2.0; it must be an integer"),
        ({"n": True}, "n is True; it must be an integer"),
        ({"n": "3"}, "n is '3'; it must be an integer"),
        ({"seed": 2**70}, "seed is 1.18059\\d*e.21; it must be from -2147483648 to 4294967295"),
        ({"seed": None}, "seed is None; it takes integers"),
        ({"seed": False}, "seed is False; it takes integers"),
        ({"top_k": 5.0}, "top_k is 5.0; it takes integers"),
        ({"temperature": [None]}, r"temperature is \[None\]; it takes numbers"),
        ({"labels": [0, 1], "n": 3}, "rows disagree: n 3, labels 2"),
        ({"labels": [0, 1], "seed": [1, 2, 3]}, "rows disagree: labels 2, seed 3"),
        ({"seed": 2**32}, "seed is 4294967296; it must be from -2147483648 to 4294967295"),
        ({"seed": 0.5}, "seed is 0.5; it takes integers"),
        ({"temperature": -0.1}, "temperature is -0.1; it must be at least 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": "hot"}, "temperature is 'hot'; it takes numbers"),
        ({"top_k": 12}, "top_k is 12; it must be from 0 to 11"),
        ({"top_k": [3, -1]}, "top_k is -1"),
        ({"top_p": 0}, "top_p is 0; it must be above 0"),
        ({"top_p": 1.1}, "top_p is 1.1; it must be above 0 and at most 1"),
        ({"labels": 1, "guidance_scale": -1}, "guidance_scale is -1"),
        ({"guidance_scale": 3}, "guidance_scale is 3 without labels"),
    ],
)
def test_refuses_settings_out_of_range(model, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        model.generate(**settings)
    assert "\n" not in str(caught.value)


def test_refuses_labels_and_guidance_where_none_were_trained():
    model = make_vim(classes=0)
    with pytest.raises(UserError, match="trained without labels"):
        model.generate(0)
    with pytest.raises(UserError, match="guidance_scale is 2 without labels"):
        model.generate(guidance_scale=2)


def test_refuses_what_a_model_that_always_saw_labels_never_learnt():
    model = make_vim(label_drop=0.0)
    with pytest.raises(
        UserError, match="^labels are missing; .*model.label_drop 0: it never saw one; gi"
    ):
        model.generate(n=2)
    with pytest.raises(
        UserError, match="^guidance_scale is 2.0; it must be 1, because guidance need"
    ):
        model.generate([0, 1], guidance_scale=[1.0, 2.0])
    assert model.generate([0, 1], guidance_scale=1).shape == (2, model.tokens_per_image)
    never = make_vim(label_drop=1.0)
    with pytest.raises(
        UserError, match="^labels are given, but .*model.label_drop 1: it never saw a labe"
    ):
        never.generate([0, 1])
    assert never.generate(n=2).shape == (2, model.tokens_per_image)


def test_takes_numbers_of_every_kind(model):
    expected = model.generate([1, 2], seed=3, n=2, top_k=4)
    found = model.generate(
        np.int64([1, 2]), np.uint8(3), n=np.int16(2), top_k=np.int32(4), temperature=np.float64(1)
    )
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(model.generate(tf.constant([1, 2]), seed=3, top_k=4), expected)
