"""Keras' callbacks that save: weights work, a whole trainer is refused before the first step."""

import keras
import numpy as np
import pytest

import vim_tf
from vim_tf.errors import UserError

ADVICE = r"ModelCheckpoint\('x\.weights\.h5', save_weights_only=True\)"


@pytest.fixture
def make(tiny):
    """A function () -> (a new compiled trainer of a classifier, its data)."""

    def make(seed=0):
        experiment = tiny("classifier")
        keras.utils.set_random_seed(seed)
        data = vim_tf.make_image_dataset(experiment.data, experiment.seed)
        trainer = vim_tf.ClassifierTrainer(experiment, len(data.class_names))
        trainer.compile()
        return trainer, data

    return make


def fit(trainer, data, *callbacks):
    trainer.fit(data.train(), steps_per_epoch=2, epochs=2, shuffle=False, verbose=0,
                callbacks=list(callbacks), validation_data=data.evaluation())  # fmt: skip


def test_a_whole_trainer_is_refused_before_the_first_step(make, tmp_path):
    trainer, data = make()
    whole = keras.callbacks.ModelCheckpoint(tmp_path / "m.keras")
    for callbacks in ([whole], whole, keras.callbacks.CallbackList([whole])):
        with pytest.raises(UserError, match=rf"m\.keras, which would save a whole .*{ADVICE}"):
            trainer.fit(data.train(), steps_per_epoch=1, callbacks=callbacks)
    with pytest.raises(UserError, match=rf"m\.keras: a trainer cannot be saved .*{ADVICE}"):
        trainer.save(tmp_path / "m.keras")
    assert int(trainer.step) == 0
    assert not list(tmp_path.iterdir())


def test_weights_are_saved_and_loaded(make, tmp_path):
    trainer, data = make()
    path = tmp_path / "{epoch}.weights.h5"
    fit(trainer, data, keras.callbacks.ModelCheckpoint(path, save_weights_only=True))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["1.weights.h5", "2.weights.h5"]
    other, _ = make(seed=1)
    images = next(iter(data.evaluation()))["image"]
    assert np.any(np.asarray(other.ema_model(images)) != np.asarray(trainer.ema_model(images)))
    other.load_weights(tmp_path / "2.weights.h5")
    for name in ("model", "ema_model"):
        found, expected = (np.asarray(getattr(one, name)(images)) for one in (other, trainer))
        np.testing.assert_array_equal(found, expected)
    assert int(other.step) == int(trainer.step) == 4
    for found, expected in zip(other.optimizer.variables, trainer.optimizer.variables, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_early_stopping_and_backups_work(make, tmp_path):
    trainer, data = make()
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    stopping = keras.callbacks.EarlyStopping(monitor="val_cross_entropy", patience=0, mode="min")
    fit(trainer, data, backup, stopping, keras.callbacks.CSVLogger(tmp_path / "log.csv"))
    other, _ = make(seed=1)
    fit(other, data, keras.callbacks.BackupAndRestore(tmp_path / "backup"))
    assert (tmp_path / "log.csv").read_text().startswith("epoch,")
