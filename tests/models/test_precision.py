"""Training in bfloat16, compared with the same training in float32."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import vim_tf
from vim_tf.errors import UserError
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.trainers.classifier_trainer import ClassifierTrainer
from vim_tf.trainers.vim_trainer import VIMTrainer
from vim_tf.trainers.vit_vqgan_trainer import ViTVQGANTrainer

STAGES = ["vit_vqgan", "vim", "classifier"]
MORE = {
    "vit_vqgan": ["losses.adversarial=0"],  # the discriminator always computes in float32
    "vim": ["model.transformer.dropout=0", "model.label_drop=0"],
    "classifier": ["model.dropout=0"],
}


@pytest.fixture
def make(tiny):
    """A function (stage, precision, *overrides) -> trainer, always with the same weights."""

    def make(stage, precision, *overrides):
        keras.utils.set_random_seed(0)
        experiment = tiny(stage, f"training.precision={precision}", *MORE[stage], *overrides)
        if stage == "vim":
            trainer = VIMTrainer(experiment, ViTVQGAN(tiny("vit_vqgan").model, (16, 16)), 2)
        else:
            trainers = {"vit_vqgan": ViTVQGANTrainer, "classifier": ClassifierTrainer}
            more = (2,) if stage == "classifier" else ()
            trainer = trainers[stage](experiment, *more)
        trainer.compile()
        return trainer

    return make


def make_batch(stage):
    rng = np.random.default_rng(0)
    batch = {"label": tf.constant([0, 1] * 4)}
    if stage == "vim":
        batch["token"] = tf.constant(rng.integers(0, 16, (8, 16)), tf.int32)
    else:
        batch["image"] = tf.constant(rng.uniform(-1, 1, (8, 16, 16, 3)), tf.float32)
    return batch


@pytest.mark.parametrize("jit_compile", ["false", pytest.param("true", marks=pytest.mark.large)])
@pytest.mark.parametrize("stage", STAGES)
def test_gradients_are_those_of_float32_but_for_rounding(make, stage, jit_compile, monkeypatch):
    monkeypatch.setattr("vim_tf.trainers.trainer.has_accelerator", lambda: True)  # XLA on a CPU
    found = []
    for precision in ("float32", "mixed_bfloat16"):
        trainer = make(stage, precision, f"training.jit_compile={jit_compile}")
        assert trainer.model.compute_dtype == ("float32", "bfloat16")[len(found)]
        assert trainer.ema_model.compute_dtype == "float32"
        gradients, logs, _ = trainer._gradients(make_batch(stage))
        flat = tf.nest.flatten(gradients, expand_composites=False)
        assert {tensor.dtype for tensor in (*flat, *logs.values())} == {tf.float32}
        flat = [tf.convert_to_tensor(gradient) for gradient in flat]
        found.append((np.concatenate([np.ravel(gradient) for gradient in flat]), logs))
    (expected, expected_logs), (actual, logs) = found
    cosine = actual @ expected / np.linalg.norm(actual) / np.linalg.norm(expected)
    assert 0.99 < cosine < 1 - 1e-7  # close, but not the same computation
    name = {"vit_vqgan": "total", "vim": "nats", "classifier": "cross_entropy"}[stage]
    np.testing.assert_allclose(logs[name], expected_logs[name], rtol=0.02)


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_kept_is_float32(make, stage):
    trainer = make(stage, "mixed_bfloat16")
    trainer.train_step(make_batch(stage))
    kept = [*trainer.model.weights, *trainer.ema_model.weights, *trainer.optimizer.variables]
    assert {v.dtype for v in kept if "float" in v.dtype} == {"float32"}
    if stage == "vit_vqgan":
        output = trainer.model.encode(make_batch(stage)["image"], training=True)
        assert output.latents.dtype == output.codes.dtype == tf.float32


def test_the_policy_of_others_stays(make):
    for before in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(before)
        try:
            make("vim", "mixed_bfloat16")
            assert keras.config.dtype_policy().name == before
        finally:
            keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "bfloat16", "float64"])
def test_a_policy_that_is_not_meant_is_refused_in_one_line(tiny_runs, policy):
    """Before, a preset was called damaged, as its weights had lost digits."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        for run in tiny_runs.values():
            message = (
                f"^the dtype policy of Keras is {policy}; vim_tf's models compute in float32 or"
            )
            with pytest.raises(UserError, match=message):
                vim_tf.load(run)
    finally:
        keras.config.set_dtype_policy(before)
    assert vim_tf.load(tiny_runs["vim"]).dtype_policy.name == before.name


def test_a_trainer_does_not_look_at_the_policy(make):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        trainer = make("classifier", "float32")
    finally:
        keras.config.set_dtype_policy(before)
    assert trainer.model.dtype_policy.name == "float32"
