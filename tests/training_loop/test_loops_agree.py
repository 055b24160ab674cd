"""Keras' fit and the orbit loop run the same step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.trainers.vim_trainer import VIMTrainer
from vim_tf.trainers.vit_vqgan_trainer import ViTVQGANTrainer
from vim_tf.training_loop.loop import TrainLoop

pytestmark = pytest.mark.large  # the discriminator takes long to compile
STEPS = 3
RNG = np.random.default_rng(0)
COLOURS = RNG.uniform(-1, 1, (STEPS * 8, 4, 4, 3)).astype("float32")
DATA = {
    "vit_vqgan": {"image": COLOURS.repeat(4, 1).repeat(4, 2)},
    "vim": {"token": RNG.integers(0, 16, (STEPS * 8, 16)).astype("int32")},
}
OVERRIDES = {
    "vit_vqgan": (
        "losses.entropy=0.1",
        "model.quantizer.rotation_trick=true",
        "model.quantizer.revive_every=2",
        "optimizer.clip_norm=1",
        "discriminator.ramp_steps=1",
    ),
    "vim": ("optimizer.clip_norm=1", "optimizer.warmup_steps=0"),
}


def make_dataset(stage):
    labels = np.arange(STEPS * 8, dtype="int32") % 2
    return tf.data.Dataset.from_tensor_slices({**DATA[stage], "label": labels}).batch(8).repeat()


def make_trainer(tiny, stage, strategy, *overrides):
    keras.utils.set_random_seed(0)
    experiment = tiny(stage, *OVERRIDES[stage], *overrides)
    with strategy.scope():
        if stage == "vit_vqgan":
            trainer = ViTVQGANTrainer(experiment)
        else:
            tokenizer = ViTVQGAN(tiny("vit_vqgan").model, (16, 16))
            trainer = VIMTrainer(experiment, tokenizer, 2)
        trainer.compile()
    return trainer


def run_orbit(trainer, strategy, stage):
    batches = strategy.experimental_distribute_dataset(make_dataset(stage))
    loop = TrainLoop(trainer, strategy, batches, images_per_epoch=24)
    return loop.train(tf.constant(STEPS))


def everything(trainer):
    """Weights, averages and slots of all networks, by path."""
    variables = [*trainer.variables, *trainer.optimizer.variables]
    if adversary := getattr(trainer, "adversary", None):
        variables += [*adversary.network.variables, *adversary.optimizer.variables]
    counters = {id(variable) for variable in trainer.metrics_variables}
    return [(v.path, v.numpy()) for v in variables if id(v) not in counters]


@pytest.fixture
def graphs_as_written():
    """No graph rewrites: inside orbit's loop TensorFlow rewrites, and so rounds, differently."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@pytest.mark.parametrize("stage", DATA)
def test_fit_and_orbit_give_the_same_weights_bit_for_bit(tiny, stage, graphs_as_written):
    default = tf.distribute.get_strategy()
    fitted = make_trainer(tiny, stage, default)
    fitting = fitted.fit(make_dataset(stage), shuffle=False, steps_per_epoch=STEPS, verbose=0)
    one = tf.distribute.OneDeviceStrategy("CPU:0")
    looped = make_trainer(tiny, stage, one)
    start = everything(looped)
    logs = run_orbit(looped, one, stage)
    moved = 0
    for (path, a), (_, b), (_, c) in zip(
        everything(fitted), everything(looped), start, strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=path)
        moved += np.any(b != c)
    assert moved > 20
    rates = {name: logs.pop(name) for name in looped.learning_rates()}  # fit has no such logs
    assert {name: float(rate) for name, rate in fitted.learning_rates().items()} == rates
    for name, value in logs.items():
        np.testing.assert_array_equal(fitting.history[name][0], value, err_msg=name)
