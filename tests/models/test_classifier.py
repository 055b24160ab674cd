import keras
import numpy as np
import pytest

from vim_tf.config.sections import ClassifierConfig
from vim_tf.models.classifier import Classifier

IMAGES = np.random.default_rng(0).uniform(-1, 1, (3, 12, 16, 3)).astype("float32")


def make(**settings):
    keras.utils.set_random_seed(0)
    return Classifier(ClassifierConfig(**{"width": 8, **settings}), (12, 16), 5)


def test_a_logit_for_each_class_from_the_mean_of_the_last_stage():
    model = make(stages=2)
    logits = np.asarray(model(IMAGES))
    assert logits.shape == (3, 5)
    # Both halve the image once: the features before the last layer have twice the width.
    assert model.layers[-1].input.shape == (None, 16)
    kernel, bias = model.layers[-1].get_weights()
    features = keras.Model(model.input, model.layers[-1].input)(IMAGES)
    np.testing.assert_allclose(logits, np.asarray(features) @ kernel + bias, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("setting", "grows"), [({"width": 16}, 3.5), ({"stages": 4}, 3.5), ({"blocks": 2}, 1.5)]
)
def test_every_knob_changes_the_size(setting, grows):
    assert make(**setting).count_params() > grows * make().count_params()


def test_an_image_does_not_depend_on_its_batch():
    model = make()
    alone = np.concatenate([np.asarray(model(IMAGES[i : i + 1])) for i in range(3)])
    np.testing.assert_allclose(model(IMAGES), alone, rtol=1e-4, atol=1e-5)


def test_dropout_acts_in_training_alone():
    model = make(dropout=0.5)
    assert np.abs(np.asarray(model(IMAGES, training=True) - model(IMAGES))).max() > 1e-3
    np.testing.assert_array_equal(model(IMAGES), model(IMAGES))
    model = make(dropout=0)
    np.testing.assert_allclose(model(IMAGES, training=True), model(IMAGES), rtol=1e-5, atol=1e-6)
