import dataclasses

import keras
import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from vim_tf import losses
from vim_tf.config.loss_sections import DiscriminatorConfig
from vim_tf.models.discriminator import (
    Discriminator,
    Equalized,
    ResidualBlock,
    blur,
    minibatch_stddev,
)

TINY = DiscriminatorConfig(channels=16, base_channels=128)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.mark.parametrize(
    ("size", "last"),
    [
        ((64, 64), (4, 4)),
        ((32, 32), (4, 4)),
        ((28, 28), (7, 7)),
        ((48, 64), (6, 8)),
        ((30, 17), (7, 4)),
        ((6, 9), (6, 9)),
    ],
)
def test_one_float32_logit_for_each_image_of_any_size(size, last):
    model = Discriminator(TINY, size)
    logits = model(normal(3, *size, 3))
    assert logits.shape == (3,)
    assert logits.dtype == "float32"
    assert np.std(logits) > 0
    assert model.last_size == last


def test_channels_grow_as_images_shrink():
    model = Discriminator(DiscriminatorConfig(channels=24, base_channels=256), (32, 64))
    model.build()
    widths = [block.first.features for block in model.blocks] + [model.hidden.features]
    assert widths == [256 // 64, 256 // 32, 256 // 16, 24]  # 256 // 8, but capped


@pytest.mark.parametrize(
    ("side", "widths"),
    [
        (16, [32, 32, 32]),
        (32, [32, 64, 64, 64]),
        (64, [32, 64, 128, 128, 128]),
        (128, [32, 64, 128, 256, 256, 256]),
        (512, [64, 128, 256, 512, 512, 512, 512, 512]),
    ],
)
def test_widths_follow_the_image_size(side, widths):
    model = Discriminator(DiscriminatorConfig(), (side, side // 2))
    found = [block.first.features for block in model.blocks] + [model.hidden.features]
    assert found == widths[: len(found)]


def test_papers_size():
    """Counted by hand from the paper's layers: 256 x 256, 64 channels at the top."""
    widths = [64, 128, 256, 512, 512, 512, 512]
    count = 3 * 64 + 64
    for fine, coarse in zip(widths[:-1], widths[1:], strict=True):
        count += 9 * fine * fine + fine + 9 * fine * coarse + coarse + fine * coarse
    count += 9 * 513 * 512 + 512 + 16 * 512 * 512 + 512 + 512 + 1
    model = Discriminator(DiscriminatorConfig(), (256, 256))
    model.build()
    assert model.count_params() == count


def test_seen_images_need_no_fixed_batch():
    model = Discriminator(TINY, (8, 8))
    model.build()
    dynamic = tf.function(model, input_signature=[tf.TensorSpec((None, 8, 8, 3))])
    images = normal(8, 8, 8, 3)
    for batch in (1, 2, 3, 4, 5, 6, 8):
        np.testing.assert_allclose(
            dynamic(images[:batch]), model(images[:batch]), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("size", [(8, 8), (9, 6)])
@pytest.mark.parametrize(("padding", "stride"), [(2, 1), (1, 2)])
def test_blur_equals_scipy(size, padding, stride):
    x = normal(2, *size, 3)
    taps = np.array([1, 3, 3, 1]) / 8
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    # With origin -2 the window of 4 starts at the pixel itself, so the first results are valid.
    expected = scipy.ndimage.correlate1d(padded, taps, axis=1, mode="constant", origin=-2)
    expected = scipy.ndimage.correlate1d(expected, taps, axis=2, mode="constant", origin=-2)
    expected = expected[:, : padded.shape[1] - 3 : stride, : padded.shape[2] - 3 : stride]
    result = blur(x, padding, stride)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("batch", "group"), [(8, 4), (4, 4), (12, 4), (6, 3), (9, 3), (10, 2), (2, 2), (5, 1), (1, 1)]
)
def test_minibatch_stddev_equals_numpy(batch, group):
    x = normal(batch, 3, 4, 5)
    result = minibatch_stddev(x).numpy()
    np.testing.assert_array_equal(result[..., :5], x)
    for start in range(0, batch, group):
        members = x[start : start + group]
        expected = np.sqrt(members.var(0) + 1e-8).mean()
        np.testing.assert_allclose(result[start : start + group, ..., 5], expected, rtol=1e-4)


def test_minibatch_groups_survive_a_split_over_replicas():
    x = normal(16, 3, 4, 5)
    halves = np.concatenate([minibatch_stddev(x[:8]), minibatch_stddev(x[8:])])
    np.testing.assert_array_equal(minibatch_stddev(x), halves)


@pytest.mark.parametrize("kernel_size", [None, 1, 3])
def test_initial_outputs_have_variance_one(kernel_size):
    shape = (64, 16, 16, 40) if kernel_size else (4096, 40)
    layer = Equalized(300, kernel_size, activate=False)
    layer.build((None, *shape[1:]))
    kernel = layer.kernel.numpy()
    assert np.std(kernel) == pytest.approx(1, abs=0.05)
    x = normal(*shape, seed=1)
    outputs = layer(x).numpy()
    if kernel_size:
        outputs = outputs[:, 1:-1, 1:-1]  # padded zeros change the border
    assert np.var(outputs) == pytest.approx(1, abs=0.05)
    # The leaky ReLU reduces the mean square, and sqrt(2) restores it.
    layer.activate = True
    assert np.mean(np.square(layer(x))) == pytest.approx(1.04, abs=0.12)


def test_dense_layer_equals_numpy():
    layer = Equalized(6)
    x = normal(5, 9)
    layer.build(x.shape)
    layer.bias.assign(normal(6, seed=3))
    y = x @ layer.kernel.numpy() / 3 + layer.bias.numpy()
    expected = np.where(y > 0, y, 0.2 * y) * np.sqrt(2)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_downsampling_convolution_equals_numpy(size, kernel_size):
    """Blur at full size, convolve, keep every second pixel, all tap by tap."""
    layer = Equalized(2, kernel_size, downsample=True, activate=False, use_bias=False)
    x = normal(2, *size, 3)
    layer.build(x.shape)
    kernel = layer.kernel.numpy() / np.sqrt(3 * kernel_size**2)
    blurred = blur(x, padding=2 if kernel_size == 3 else 1).numpy()
    rows, columns = size[0] // 2, size[1] // 2
    expected = np.zeros((2, rows, columns, 2))
    for i in range(rows):
        for j in range(columns):
            patch = blurred[:, 2 * i : 2 * i + kernel_size, 2 * j : 2 * j + kernel_size]
            expected[:, i, j] = np.einsum("bhwc,hwcd->bd", patch, kernel)
    result = layer(x)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_downsampling_keeps_images_centred():
    """A mirrored image gives the mirrored feature map, without a shift."""
    for kernel_size in (1, 3):
        layer = Equalized(2, kernel_size, downsample=True)
        x = normal(1, 8, 8, 3)
        layer.build(x.shape)
        kernel = layer.kernel.numpy()
        layer.kernel.assign((kernel + kernel[:, ::-1]) / 2)
        np.testing.assert_allclose(
            layer(x[:, :, ::-1].copy()), layer(x).numpy()[:, :, ::-1], rtol=1e-4, atol=1e-5
        )


def test_residual_block_averages_its_two_ways():
    block = ResidualBlock(4, 6)
    x = normal(2, 8, 8, 4)
    block.build(x.shape)
    expected = (block.second(block.first(x)) + block.skip(x)).numpy() / np.sqrt(2)
    np.testing.assert_allclose(block(x), expected, rtol=1e-5, atol=1e-6)
    assert np.std(block.skip(x)) > 0.1


def test_a_logit_depends_on_its_group_and_on_no_other():
    model = Discriminator(TINY, (8, 8))
    images = normal(8, 8, 8, 3)
    logits = model(images).numpy()
    other_group, same_group = images.copy(), images.copy()
    other_group[5] *= 2
    same_group[1] *= 2
    np.testing.assert_allclose(model(other_group)[0], logits[0], rtol=1e-5)
    assert abs(model(same_group)[0] - logits[0]) > 1e-4


def test_r1_has_right_second_order_gradients():
    """Gradients of |d logit / d image|^2 by a weight are compared with finite differences."""
    keras.utils.set_random_seed(0)
    model = Discriminator(DiscriminatorConfig(channels=4, base_channels=32), (8, 8))
    model.build()
    images = tf.constant(normal(4, 8, 8, 3))

    @tf.function
    def penalty():
        with tf.GradientTape() as tape:
            tape.watch(images)
            total = tf.reduce_sum(model(images))
        return losses.r1_penalty(tape.gradient(total, images))

    kernels = [w for w in model.trainable_weights if w.name == "kernel"]
    with tf.GradientTape() as tape:
        value = penalty()
    gradients = tape.gradient(value, [kernel.value for kernel in kernels])
    assert len(kernels) == 7
    for kernel, gradient in zip(kernels, gradients, strict=True):
        # Along the gradient itself. The penalty is piecewise smooth, so small steps are safe.
        direction = gradient / tf.norm(gradient)
        start = kernel.numpy()
        values = []
        for sign in (-1, 1):
            kernel.assign(start + sign * 2e-3 * direction.numpy())
            values.append(float(penalty()))
        kernel.assign(start)
        slope = (values[1] - values[0]) / 4e-3
        np.testing.assert_allclose(slope, tf.norm(gradient), rtol=0.02, err_msg=kernel.path)


def test_learns_to_tell_two_sets_apart():
    """Real images are smooth. Fake ones also have a faint checkerboard. Adam at 2e-3, with R1."""
    keras.utils.set_random_seed(0)
    model = Discriminator(TINY, (12, 12))
    model.build()
    optimizer = keras.optimizers.Adam(2e-3, beta_1=0.0, beta_2=0.99)
    optimizer.build(model.trainable_variables)
    checkers = 0.2 * (-1.0) ** np.add.outer(np.arange(12), np.arange(12))[..., None]

    def images(seed, count):
        coarse = np.random.default_rng(seed).uniform(-0.8, 0.8, (count, 4, 4, 3))
        real = scipy.ndimage.zoom(coarse, (1, 3, 3, 1), order=1).astype("float32")
        return real, (real[::-1] + checkers).astype("float32")

    real, fake = images(0, 256)

    @tf.function
    def step(real, fake):
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                inner.watch(real)
                real_logits = model(real)
                total = tf.reduce_sum(real_logits)
            penalty = losses.r1_penalty(inner.gradient(total, real))
            loss = losses.non_saturating_discriminator_loss(real_logits, model(fake))
            loss += 0.05 * penalty
        gradients = tape.gradient(loss, [w.value for w in model.trainable_variables])
        optimizer.apply(gradients, model.trainable_variables)

    def accuracy():
        test_real, test_fake = images(1, 128)
        return (np.mean(model(test_real) > 0) + np.mean(model(test_fake) < 0)) / 2

    assert accuracy() < 0.7
    rng = np.random.default_rng(2)
    for _ in range(120):
        rows = rng.choice(256, 16, replace=False)
        step(real[rows], fake[rows])
    assert accuracy() > 0.95


def test_config_round_trip():
    model = Discriminator(TINY, (16, 24), name="judge")
    copy = Discriminator.from_config(model.get_config())
    assert copy.config == TINY
    assert copy.image_size == (16, 24)
    assert copy.name == "judge"
    assert model.get_config()["config"] == dataclasses.asdict(TINY)
    model.build()
    copy.build()
    copy.set_weights(model.get_weights())
    images = normal(4, 16, 24, 3)
    np.testing.assert_array_equal(copy(images), model(images))


def test_a_checkpoint_holds_every_weight(tmp_path):
    model = Discriminator(DiscriminatorConfig(channels=4, base_channels=64), (32, 32))
    model.build()
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    saved = [name for name, _ in tf.train.list_variables(path) if name.startswith("model/")]
    assert len(saved) == len(model.weights)
