import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf import losses
from vim_tf.trainers.adversary import WAITS
from vim_tf.trainers.trainer import NO_XLA
from vim_tf.trainers.vit_vqgan_trainer import ViTVQGANTrainer

EVERYTHING = (
    "losses.entropy=0.1",
    "model.quantizer.rotation_trick=true",
    "model.quantizer.revive_every=2",
    "optimizer.clip_norm=1",
    "discriminator_optimizer.clip_norm=1",
)


def make_images(batch=8, seed=0):
    """Images of blocks of one colour, so that a model can learn something."""
    colours = np.random.default_rng(seed).uniform(-1, 1, (batch, 4, 4, 3)).astype("float32")
    return colours.repeat(4, 1).repeat(4, 2)


@pytest.fixture
def make(tiny):
    def make(*overrides, **compile_arguments):
        keras.utils.set_random_seed(0)
        trainer = ViTVQGANTrainer(tiny("vit_vqgan", *overrides))
        trainer.compile(**compile_arguments)
        return trainer

    return make


BATCH = {"image": tf.constant(make_images()), "label": tf.zeros([8], tf.int32)}


def without_bound(trainer):
    """Sets the running means so that the bound of the adversarial weight does not act."""
    trainer.adversary.mean_squares.assign([1e12, 1.0])
    return trainer


def gradients_at(trainer, step, batch=BATCH):
    trainer.optimizer.iterations.assign(step)
    return trainer.compute_gradients(batch)


def values(variables):
    return [variable.numpy() for variable in variables]


def assert_close(actual, expected, tolerance=1e-5):
    for a, b in zip(actual, expected, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=tolerance * max(np.abs(b).max(), 1e-3))


@pytest.mark.large
def test_a_step_with_everything_on_moves_every_weight(make):
    trainer = make(*EVERYTHING)
    before = values(trainer.model.trainable_variables)
    averages = values(trainer.ema_model.weights)
    discriminator = values(trainer.adversary.network.trainable_variables)
    assert discriminator
    step = tf.function(trainer.train_step)
    for _ in range(3):
        logs = step(BATCH)
    assert all(np.isfinite(value) for value in logs.values()), logs
    assert int(trainer.step) == 3
    for old, variable in (
        *zip(before, trainer.model.trainable_variables, strict=True),
        *zip(averages, trainer.ema_model.weights, strict=True),
        *zip(discriminator, trainer.adversary.network.trainable_variables, strict=True),
    ):
        assert np.any(old != variable.numpy()), variable.path
    assert logs["code_angle"] > 0
    assert logs["r1"] > 0


@pytest.mark.parametrize("output", ["logit_laplace", "rgb"])
def test_total_is_the_weighted_sum_of_the_terms(make, output):
    laplace = 0.3 if output == "logit_laplace" else 0
    trainer = make(
        f"model.output={output}",
        f"losses.logit_laplace={laplace}",
        "losses.codebook_mean=0.7",
        "losses.commitment_mean=0.4",
        "losses.l2=2",
        "losses.entropy=0.2",
        "losses.adversarial=0.6",
    )
    _, logs, output = without_bound(trainer).compute_gradients(BATCH)
    model, images = trainer.model, BATCH["image"].numpy()
    latents, codes = np.asarray(output.latents), np.asarray(output.codes)
    image, mean, log_scale = model.decode_distribution(output.codes)
    image = np.asarray(image)
    book = model.quantizer.codebook.numpy()
    book /= np.linalg.norm(book, axis=1, keepdims=True)
    affinity = 2 * latents.reshape(-1, 4) @ book.T
    logits = trainer.adversary.network(image).numpy().astype("float64")
    squared = np.mean((latents - codes) ** 2)
    expected = {
        "codebook": squared,
        "commitment": squared,
        "l2": np.mean((image - images) ** 2) / 4,
        "entropy": float(losses.entropy_loss(affinity, 0.01)),
        "adversarial": np.mean(np.log1p(np.exp(-logits))),
    }
    weights = {"codebook": 0.7, "commitment": 0.4, "l2": 2, "entropy": 0.2, "adversarial": 0.6}
    if laplace:
        expected["logit_laplace"] = float(
            np.mean(losses.logit_laplace_loss(mean, log_scale, images))
        )
        weights["logit_laplace"] = laplace
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    total = sum(weights[name] * value for name, value in expected.items())
    np.testing.assert_allclose(logs["total"], total, rtol=1e-4)
    clipped = np.clip(image, -1, 1)
    error = np.mean((clipped - images) ** 2, axis=(1, 2, 3)) / 4
    np.testing.assert_allclose(logs["psnr"], np.mean(-10 * np.log10(error)), rtol=1e-4)


@pytest.mark.parametrize("loss", ["non_saturating", "hinge"])
def test_gradients_equal_those_of_a_single_tape(make, loss):
    """The tokenizer's loss is total + weight * generator_loss(D(reconstruction)); D's has R1."""
    trainer = make(
        *EVERYTHING,
        "discriminator.ramp_steps=4",
        "losses.adversarial=3",
        f"discriminator.loss={loss}",
    )
    discriminator_loss, generator_loss = {
        "non_saturating": (
            losses.non_saturating_discriminator_loss,
            losses.non_saturating_generator_loss,
        ),
        "hinge": (losses.hinge_discriminator_loss, losses.hinge_generator_loss),
    }[loss]
    (gradients, discriminator_gradients, _), logs, _ = gradients_at(without_bound(trainer), 2)
    weight = 3 * (2 + 1) / (4 + 1)
    np.testing.assert_allclose(logs["adversarial_weight"], weight, rtol=1e-6)
    model, images = trainer.model, BATCH["image"]
    with tf.GradientTape(persistent=True) as tape:
        output = model.encode(images, training=True)
        codes = model.quantizer.pass_codes(output)
        image, mean, log_scale = model.decode_distribution(codes, training=True)
        affinity = tf.reshape(model.quantizer.affinity(output.latents), [-1, 16])
        fake_logits = trainer.adversary.network(image)
        total = (
            losses.codebook_loss(output.latents, output.codes)
            + 0.25 * losses.commitment_loss(output.latents, output.codes)
            + tf.reduce_mean(losses.l2_loss(image, images))
            + 0.1 * tf.reduce_mean(losses.logit_laplace_loss(mean, log_scale, images))
            + 0.1 * losses.entropy_loss(affinity, 0.01)
            + weight * generator_loss(fake_logits)
        )
        with tf.GradientTape() as inner:
            inner.watch(images)
            real_logits = trainer.adversary.network(images)
            summed = tf.reduce_sum(real_logits)
        slopes = inner.gradient(summed, images)
        penalty = tf.reduce_mean(tf.reduce_sum(slopes**2, [1, 2, 3]))
        judgement = (
            discriminator_loss(real_logits, fake_logits) + 0.625 / 2 * 2 * penalty
        )  # 10 * 16 / 256
    np.testing.assert_allclose(logs["total"], total, rtol=1e-4)
    np.testing.assert_allclose(logs["r1"], penalty, rtol=1e-4)
    variables = [variable.value for variable in model.trainable_variables]
    assert_close(gradients, tape.gradient(total, variables))
    np.testing.assert_allclose(logs["adversarial"], generator_loss(fake_logits), rtol=1e-4)
    np.testing.assert_allclose(
        logs["discriminator"], discriminator_loss(real_logits, fake_logits), rtol=1e-4
    )
    variables = [variable.value for variable in trainer.adversary.network.trainable_variables]
    assert_close(
        discriminator_gradients, tape.gradient(judgement, variables, unconnected_gradients="zero")
    )


def test_r1_acts_on_every_second_step_only(make):
    trainer = make()
    (_, lazy, _), logs, _ = gradients_at(trainer, 1)
    assert logs["r1"] == 0
    (_, penalised, _), logs, _ = gradients_at(trainer, 2)
    assert logs["r1"] > 0
    assert max(np.abs(a - b).max() for a, b in zip(lazy, penalised, strict=True)) > 1e-3


@pytest.mark.large
def test_the_discriminator_rests_before_its_start_and_then_ramps(make):
    trainer = without_bound(make("discriminator.start=3", "discriminator.ramp_steps=1"))
    plain = make("losses.adversarial=0")
    np.testing.assert_array_equal(*(t.model.encoder.head.outer.kernel for t in (trainer, plain)))
    before = values(trainer.adversary.network.trainable_variables)
    step, plain_step = (tf.function(t.train_step) for t in (trainer, plain))
    weights = []
    for _ in range(3):
        trainer.reset_logs(True)
        logs = step(BATCH)
        plain_step(BATCH)
        weights.append(float(logs["adversarial_weight"]))
    assert_close(values(trainer.model.weights), values(plain.model.weights))
    for old, new in zip(before, trainer.adversary.network.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, new)
    for _ in range(2):
        trainer.reset_logs(True)
        weights.append(float(step(BATCH)["adversarial_weight"]))
    np.testing.assert_allclose(weights, [0, 0, 0, 0.05, 0.1], rtol=1e-6)
    for old, new in zip(before, trainer.adversary.network.trainable_variables, strict=True):
        assert np.any(old != new.numpy()), new.path


def test_a_start_below_one_is_a_share_of_the_run(make):
    trainer = make("discriminator.start=0.5", "training.steps=6")
    assert gradients_at(trainer, 2)[1]["discriminator"] == 0
    assert gradients_at(trainer, 3)[1]["discriminator"] > 0


def test_a_plateau_of_psnr_starts_the_discriminator(make):
    trainer = make("discriminator.plateau=0.5", "discriminator.start=200", "training.steps=1000")
    psnrs = {100: 10.0, 200: 10.1, 300: 11.0, 400: 11.4, 500: 30.0}
    assert int(trainer.adversary.start.numpy()) == WAITS

    def starts(step):
        return trainer.after_evaluation(step, {"psnr": psnrs[step]})["start"]

    assert starts(100) == WAITS  # there is no value to compare with
    assert starts(200) == starts(200) == 200  # as if the run was resumed there
    trainer.adversary.start.assign(WAITS)
    assert [starts(step) for step in (300, 300, 400)] == [WAITS, WAITS, 400]
    trainer.adversary.start.assign(400)
    assert starts(500) == 400  # it stays


def test_before_its_start_no_plateau_counts_and_without_one_it_has_no_part(make):
    early = make("discriminator.plateau=0.5", "discriminator.start=0.9", "training.steps=1000")
    psnr = {"psnr": 9.0}
    starts = [early.after_evaluation(step, psnr)["start"] for step in (100, 899, 900)]
    assert starts == [WAITS, WAITS, 900]
    assert make("discriminator.start=7").after_evaluation(100, psnr)["start"] == 7
    assert make("losses.adversarial=0").after_evaluation(100, psnr) == {}


@pytest.mark.large
def test_a_start_that_moves_is_that_of_the_step_and_of_the_optimizer(make):
    moved = make("discriminator.plateau=1", "training.steps=20", "discriminator.ramp_steps=1")
    fixed = make("discriminator.start=2", "training.steps=20", "discriminator.ramp_steps=1")
    steps = [tf.function(trainer.train_step) for trainer in (moved, fixed)]
    for number in range(5):
        if number == 2:
            moved.adversary.start.assign(2)
        logs = [step(BATCH) for step in steps]
    for a, b in zip(
        *(t.adversary.network.trainable_variables for t in (moved, fixed)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert float(logs[0]["adversarial_weight"]) == float(logs[1]["adversarial_weight"]) > 0


def test_perceptual_loss_takes_part(make, monkeypatch):
    """Uses other features than VGG's, because its weights are a download."""
    module = "vim_tf.trainers.reconstruction_trainer.PerceptualFeatures"
    monkeypatch.setattr(module, lambda weights: lambda images: [images[:, ::4, ::4]])
    trainer = make("losses.perceptual=2", "losses.adversarial=0")
    assert trainer.remarks == [
        "data.image_size is 16 x 16; the perceptual network sees these images enlarged to 32 pixels"
    ]
    _, logs, output = trainer.compute_gradients(BATCH)
    image = np.asarray(trainer.model.decode_distribution(output.codes)[0])[:, ::4, ::4]
    unit = [
        x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (image, make_images()[:, ::4, ::4])
    ]
    perceptual = np.mean(np.sum((unit[0] - unit[1]) ** 2, -1))
    np.testing.assert_allclose(logs["perceptual"], perceptual, rtol=1e-4)
    weights = {"codebook": 1, "commitment": 0.25, "l2": 1, "logit_laplace": 0.1, "perceptual": 2}
    total = sum(weight * float(logs[name]) for name, weight in weights.items())
    np.testing.assert_allclose(logs["total"], total, rtol=1e-5)


def test_evaluation_equals_numpy_on_the_averaged_weights(make):
    trainer = make()
    for weight in trainer.model.weights:  # now the average differs from the model
        weight.assign(tf.random.stateless_normal(weight.shape, [1, 2], dtype=weight.dtype))
    results = trainer.evaluate_batch(BATCH)
    images, pixels = make_images(), np.asarray(trainer.ema_model(BATCH["image"]))
    error = (pixels - images) / 2
    np.testing.assert_allclose(results["l1"], np.abs(error).mean((1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(results["l2"], (error**2).mean((1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(
        results["psnr"], -10 * np.log10((error**2).mean((1, 2, 3))), rtol=1e-4
    )
    np.testing.assert_array_equal(results["token"], trainer.ema_model.tokenize(BATCH["image"]))
    summary = trainer.summarize({name: np.asarray(value) for name, value in results.items()})
    np.testing.assert_allclose(summary["psnr"], np.mean(results["psnr"]), rtol=1e-5)
    assert summary["usage"] == len(np.unique(results["token"])) / 16


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["losses.adversarial=0"], False),
        (["losses.adversarial=0.1"], True),
        (["losses.adversarial=0", "model.refinement_channels=4"], True),
    ],
)
def test_steps_with_convolutions_are_not_compiled_with_xla_on_a_cpu(make, settings, said):
    trainer = make("training.jit_compile=true", *settings)
    assert trainer.remarks == [NO_XLA] * said
    assert (trainer._gradients == trainer.compute_gradients) == said


@pytest.mark.large
def test_xla_gives_the_same_losses(make, monkeypatch):
    monkeypatch.setattr("vim_tf.trainers.trainer.has_accelerator", lambda: True)
    logs = {}
    for compiled in ("false", "true"):
        trainer = make(*EVERYTHING, f"training.jit_compile={compiled}")
        step = tf.function(trainer.train_step)
        logs[compiled] = [step(BATCH)["total"].numpy() for _ in range(3)]
    np.testing.assert_allclose(logs["true"], logs["false"], rtol=1e-4)
