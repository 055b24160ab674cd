"""Seam excess and gradient energy; tests/test_evaluate.py has the other figures."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from vim_tf.config.sections import ViTVQGANConfig
from vim_tf.errors import UserError
from vim_tf.evaluation.reconstruction import Reconstructions
from vim_tf.evaluation.runner import evaluate_reconstruction
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.runs.run import Run


def white(shape):
    return np.ones(shape, "float32")


def noise(shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")


def one_colour_per_patch(shape):
    return noise(shape)[:, ::4, ::4].repeat(4, 1).repeat(4, 2)


def reconstruct(tokenizer, images, labels=None, class_names=()):
    """The `Reconstructions` of batches of 4."""
    labels = np.zeros(len(images), "int32") if labels is None else labels
    source = SimpleNamespace(
        count=len(images),
        description={},
        class_names=class_names,
        labelled_batches=lambda size: (
            (images[i : i + size], labels[i : i + size]) for i in range(0, len(images), size)
        ),
    )
    reconstructions = Reconstructions(tokenizer, source)
    for _ in range(2):  # the figures are those of the last pass
        assert sum(map(len, reconstructions.batches(4))) == len(images)
    return reconstructions


def evaluate(tokenizer, images):
    """The figures {name: float} and {name: why it is missing}."""
    return reconstruct(tokenizer, images).figures()


class Changing:
    """A tokenizer that reconstructs images as `change(images)`, which TensorFlow traces."""

    config = ViTVQGANConfig(patch_size=4, output="rgb")
    quantizer = SimpleNamespace(lookup=lambda tokens: tokens)

    def __init__(self, change):
        self.change = change

    def tokenize(self, images):
        self.images = images
        return tf.zeros([images.shape[0], 4], tf.int32)

    def decode_distribution(self, codes):
        return self.change(self.images), None, None


def seam_ratio(images):
    """Mean difference across the borders of patches of 4 pixels, over that inside of them."""
    pairs = [
        (i % 4 == 0, np.abs(x[:, i].astype("float64") - x[:, i - 1]))
        for x in (images, images.transpose(0, 2, 1, 3))
        for i in range(1, images.shape[1])
    ]
    seams, inside = ([d for at_seam, d in pairs if at_seam == kind] for kind in (True, False))
    return np.mean(seams) / np.mean(inside)


def energy(images):
    down, across = np.diff(images, axis=1), np.diff(images, axis=2)
    return np.mean([*down.ravel() ** 2, *across.ravel() ** 2], dtype="float64")


def test_both_figures_are_ratios_of_all_images_together(tiny):
    tokenizer = ViTVQGAN(tiny("vit_vqgan").model, (16, 16))
    images = noise((6, 16, 16, 3)) * np.float32([1, 1, 1, 1, 0.1, 0.1])[:, None, None, None]
    figures, _ = evaluate(tokenizer, images)
    reconstructions = np.asarray(tokenizer(images))
    expected = seam_ratio(reconstructions) / seam_ratio(images)
    assert figures["seam excess"] == pytest.approx(expected, rel=1e-5)
    expected = energy(reconstructions) / energy(images)
    assert figures["gradient energy"] == pytest.approx(expected, rel=1e-5)


def test_a_class_has_the_figures_of_its_images_alone(tiny):
    tokenizer = ViTVQGAN(tiny("vit_vqgan").model, (16, 16))
    images, labels = noise((11, 16, 16, 3)), np.int32([2, 0, 0, 2, 2, 0, 0, 2, 2, 0, 2])
    images *= np.float32([0.1, 1, 1])[labels][:, None, None, None]
    found = reconstruct(tokenizer, images, labels, ("a", "empty", "b")).figures_by_class()
    assert list(found) == ["a", "b"]
    for label, name in ((0, "a"), (2, "b")):
        alone, _ = evaluate(tokenizer, images[labels == label])
        assert {"PSNR", "l2", "SSIM", "seam excess", "gradient energy"} <= set(found[name])
        expected = {key: alone[key] for key in found[name] if key != "images"}
        assert found[name].pop("images") == np.sum(labels == label)
        assert found[name] == pytest.approx(expected, rel=1e-5)


def test_the_originals_have_no_excess():
    figures, _ = evaluate(Changing(tf.identity), noise((6, 16, 16, 3)))
    assert (figures["seam excess"], figures["gradient energy"]) == (1, 1)


def test_a_grid_and_blur_show():
    images = scipy.ndimage.gaussian_filter(noise((6, 32, 32, 3)), (0, 1, 1, 0))
    grid = 0.3 * ((np.indices((32, 32)) // 4).sum(0) % 2)[..., None].astype("float32")
    figures, _ = evaluate(Changing(lambda x: x + grid), images)
    assert figures["seam excess"] > 2 and figures["gradient energy"] > 1.1
    figures, _ = evaluate(Changing(lambda x: tf.nn.avg_pool2d(x, 3, 1, "SAME")), images)
    assert figures["seam excess"] == pytest.approx(1, abs=0.1) and figures["gradient energy"] < 0.7


@pytest.mark.parametrize(
    ("original", "reconstruction", "size", "missing"),
    [
        (white, noise, 8, {"gradient energy": "originals never", "seam excess": "inside a patch"}),
        (noise, white, 8, {"seam excess": "of the reconstructions never differ inside a patch"}),
        (one_colour_per_patch, noise, 8, {"seam excess": "of the originals never differ inside"}),
        (noise, noise, 4, {"seam excess": "of the originals never differ across patches"}),
    ],
)
def test_images_without_differences(original, reconstruction, size, missing):
    fixed = reconstruction((4, size, size, 3))
    figures, reasons = evaluate(Changing(lambda x: fixed), original((8, size, size, 3)))
    for name in ("seam excess", "gradient energy"):
        assert (name in figures) != (name in missing)
        assert missing.get(name, "") in reasons.get(name, "")


def test_images_too_small_for_lpips(tiny, tmp_path, lpips_file):
    experiment = tiny("vit_vqgan", "data.image_size=12")
    folder = Run(tmp_path / "run")
    folder.start(experiment)
    tokenizer = ViTVQGAN(experiment.model, experiment.data.image_size)
    folder.save_preset(tokenizer.save_to_preset)
    with pytest.raises(UserError, match="LPIPS of images of 12 x 12 .* leave out lpips"):
        evaluate_reconstruction(folder.path, lpips=lpips_file)
