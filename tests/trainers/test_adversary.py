"""The adversarial term's pull is measured, bounded and halved; its logs are means of real steps."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf import losses
from vim_tf.trainers.vit_vqgan_trainer import ViTVQGANTrainer

COLOURS = np.random.default_rng(0).uniform(-1, 1, (8, 4, 4, 3)).astype("float32")
BATCH = {"image": tf.constant(COLOURS.repeat(4, 1).repeat(4, 2)), "label": tf.zeros([8], tf.int32)}


@pytest.fixture
def make(tiny):
    def make(*overrides):
        keras.utils.set_random_seed(0)
        trainer = ViTVQGANTrainer(tiny("vit_vqgan", *overrides))
        trainer.compile()
        return trainer

    return make


def norms(trainer):
    """The logs of `apply_gradients` for one step; the weights change."""
    gradients, logs, _ = trainer.compute_gradients(BATCH)
    return logs, {name: float(value) for name, value in trainer.apply_gradients(gradients).items()}


def test_each_terms_gradient_is_that_of_every_image_alone(make):
    trainer = make("losses.l2=2", "losses.logit_laplace=0.3")
    trainer.adversary.mean_squares.assign([1e12, 1.0])
    output = trainer.model.encode(BATCH["image"])
    decoded = trainer.model.decoder_output(output.codes)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(decoded)
        image, mean, log_scale = trainer.model.distribution_of(decoded)
        sums = {
            "l2": 2 * tf.reduce_sum(losses.l2_loss(image, BATCH["image"])),
            "logit_laplace": 0.3
            * tf.reduce_sum(losses.logit_laplace_loss(mean, log_scale, BATCH["image"])),
            "adversarial": 0.1 * tf.reduce_sum(tf.nn.softplus(-trainer.adversary.network(image))),
        }
    expected = {}
    for name, value in sums.items():
        rows = tape.gradient(value, decoded).numpy().reshape(8, -1)  # a sum: each image's own
        expected[name] = np.sqrt(np.mean(np.sum(rows**2, 1)))
    _, logs = norms(trainer)
    for name, value in expected.items():
        np.testing.assert_allclose(logs[f"{name}_gradient"], value, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("output", ["logit_laplace", "rgb"])
def test_parts_of_a_batch_measure_the_same_gradients(make, output):
    settings = [f"model.output={output}"] + ["losses.logit_laplace=0"] * (output == "rgb")
    whole = make(*settings)
    parts = make(*settings, "training.gradient_accumulation_steps=2")
    found = []
    for trainer in (whole, parts):
        norms(trainer)
        # The accumulated step of a graph, and the running means of two steps.
        found.append((norms(trainer)[1], trainer.adversary.mean_squares.numpy()))
    for name, value in found[0][0].items():
        np.testing.assert_allclose(found[1][0][name], value, rtol=1e-3, err_msg=name)
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-3)


def test_the_weight_holds_the_bound_and_is_0_while_nothing_is_known(make):
    adversary = make("losses.adversarial=0.2", "losses.adversarial_limit=0.25").adversary
    step = tf.constant(3, tf.int64)
    assert adversary.weight(step) == 0
    adversary.mean_squares.assign([4.0, 100.0])
    np.testing.assert_allclose(adversary.weight(step), 0.25 * 2 / 10, rtol=1e-6)
    adversary.mean_squares.assign([4.0, 0.01])
    np.testing.assert_allclose(adversary.weight(step), 0.2, rtol=1e-6)
    adversary.halvings.assign(2)
    np.testing.assert_allclose(adversary.weight(step), 0.05, rtol=1e-6)


def test_running_means_are_those_of_the_steps_with_a_discriminator(make):
    adversary = make().adversary
    adversary.note_squares(tf.constant(5.0), tf.constant(0.0))  # before its start
    np.testing.assert_array_equal(adversary.mean_squares, [0, 0])
    adversary.note_squares(tf.constant(2.0), tf.constant(6.0))
    adversary.note_squares(tf.constant(4.0), tf.constant(1.0))
    expected = [0.1 * (0.9 * 2 + 4), 0.1 * (0.9 * 6 + 1)]
    np.testing.assert_allclose(adversary.mean_squares, expected, rtol=1e-6)


def test_a_step_takes_the_bounded_weight(make):
    trainer = make("losses.adversarial=1000", "losses.adversarial_limit=0.5")
    step = tf.function(trainer.train_step)
    for _ in range(3):
        trainer.reset_logs(True)
        before = trainer.adversary.mean_squares.numpy()
        logs = {name: float(value) for name, value in step(BATCH).items()}
    assert 0 < logs["adversarial_weight"] < 1000
    np.testing.assert_allclose(
        logs["adversarial_weight"], 0.5 * np.sqrt(before[0] / before[1]), rtol=1e-4
    )


def test_r1_is_the_mean_over_the_steps_that_compute_it(make):
    """With r1_every 2, steps 0 and 2 of the first three have it."""
    trainer, penalties = make("discriminator.r1_every=2", "losses.adversarial_limit=0.01"), []
    trainer.reset_logs(True)
    for _ in range(3):
        gradients, logs, output = trainer.compute_gradients(BATCH)
        step = tf.identity(trainer.step)
        trainer.log_metrics["r1"].update_state(
            logs["r1"], tf.cast(trainer.is_counted("r1", step), "float32")
        )
        penalties.append(float(logs["r1"]))
        trainer.apply_gradients(gradients)
    assert penalties[1] == 0
    np.testing.assert_allclose(
        trainer.log_metrics["r1"].result(), (penalties[0] + penalties[2]) / 2, rtol=1e-5
    )


def decide(trainer, psnrs, every=100):
    """The halvings after each evaluation; the variable follows, as in the loop."""
    found = []
    for number, psnr in enumerate(psnrs, start=1):
        decided = trainer.after_evaluation(every * number, {"psnr": psnr})
        trainer.adversary.halvings.assign(decided["halvings"])
        found.append(decided["halvings"])
    return found


@pytest.mark.parametrize(
    ("psnrs", "halvings"),
    [
        ([20.0, 22.0, 21.1, 21.0], [0, 0, 0, 0]),  # within 1 dB of the best
        ([20.0, 22.0, 20.9, 20.8, 20.95], [0, 0, 1, 2, 2]),  # the last one rises again
        ([20.0, 15.0, 14.0, 13.0], [0, 0, 1, 2]),  # the first fall is before the start, at 200
    ],
)
def test_the_weight_is_halved_where_reconstruction_gets_worse(make, psnrs, halvings):
    trainer = make("discriminator.start=200", "training.steps=1000")
    assert decide(trainer, psnrs) == halvings


def test_a_repeated_evaluation_halves_once(make):
    trainer = make("training.steps=1000")
    assert decide(trainer, [22.0, 20.0]) == [0, 1]
    assert trainer.after_evaluation(200, {"psnr": 20.0})["halvings"] == 1
    line = trainer.describe_decision("halvings", 2)
    assert "its weight is halved, to 0.025; in another run lower losses.adversarial" in line
    assert "more than 1 dB worse" in line


def test_the_best_weights_are_the_last_ones_once_the_term_is_on(make):
    trainer = make("discriminator.start=5", "training.steps=10")
    worse, better = {"reconstruction_loss": 2.0}, {"reconstruction_loss": 0.5}
    assert trainer.is_better(better, None)
    assert trainer.is_better(better, 1.0)
    assert not trainer.is_better(worse, 1.0)
    trainer.optimizer.iterations.assign(5)
    assert trainer.is_better(worse, 1.0)
