"""Compares counts from configs with those of the products in TensorFlow's graphs."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from vim_tf.config.loader import load_config
from vim_tf.config.loss_sections import DiscriminatorConfig
from vim_tf.costs import operations as counts
from vim_tf.costs.step_time import count_vit_vqgan_step
from vim_tf.models.discriminator import Discriminator
from vim_tf.models.perceptual import PerceptualFeatures
from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN

IMAGE_SIZE = (16, 24)
ENCODER = ("blocks=2", "heads=5", "dim=20", "mlp_dim=28")
IMAGES = ((3, *IMAGE_SIZE, 3), tf.float32)


def operations(function, *shapes):
    """Counts two operations per multiply-add of the products and convolutions in a graph.

    The graph of the function is not run.
    """
    specs = [tf.TensorSpec(shape, dtype) for shape, dtype in shapes]
    graph = tf.function(function, autograph=False).get_concrete_function(*specs).graph
    total = 0
    for op in graph.get_operations():
        if op.type in ("MatMul", "BatchMatMulV2"):
            transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
            inner = op.inputs[0].shape[-2 if transposed else -1]
        elif op.type == "Conv2D":
            inner = math.prod(op.inputs[1].shape[:3])
        else:
            assert "Einsum" not in op.type and "PartitionedCall" not in op.type
            continue
        total += 2 * inner * math.prod(op.outputs[0].shape)
    return total


def test_it_needs_no_tensorflow():
    code = "import sys, vim_tf.costs.operations; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("output", ["logit_laplace", "rgb"])
@pytest.mark.parametrize("head", [[], ["refinement_channels=5"], ["overlapping_patches=true"]])
def test_tokenizer(tiny, output, head):
    given = [f"model.encoder.{size}" for size in ENCODER]
    given += [f"model.{setting}" for setting in head]
    given += ["model.quantizer.codes=17", f"model.output={output}", "losses.logit_laplace=0"]
    config = tiny("vit_vqgan", *given).model
    model = ViTVQGAN(config, IMAGE_SIZE)
    features, codes = ((3, 24, 20), tf.float32), ((3, 24, 4), tf.float32)
    assert operations(model.encoder, IMAGES) == 3 * counts.count_encoder_operations(
        config, IMAGE_SIZE
    )
    assert operations(
        lambda x: model.quantizer(x).tokens, features
    ) == 3 * counts.count_quantizer_operations(config, IMAGE_SIZE)
    assert operations(model.decode_distribution, codes) == 3 * counts.count_decoder_operations(
        config, IMAGE_SIZE
    )


def test_vim(tiny):
    config = tiny("vim", *(f"model.transformer.{size}" for size in ENCODER)).model
    model = VIM(config, (4, 6), 17, 2)
    found = operations(model, ((3, 24), tf.int32), ((3,), tf.int32))
    assert found == 3 * counts.count_vim_operations(config, 24, 17)


@pytest.mark.parametrize("image_size", [(16, 24), (28, 28), (7, 9)])
def test_discriminator(image_size):
    config = DiscriminatorConfig(channels=16, base_channels=128)
    model = Discriminator(config, image_size)
    model.build()
    found = operations(model, ((4, *image_size, 3), tf.float32))
    assert found == 4 * counts.count_discriminator_operations(config, image_size)


def test_at_32_pixels_a_discriminator_costs_no_more_than_the_tokenizer():
    """In a step of the built-in configuration, R1's share included."""
    file = Path(__file__).parents[2] / "configs" / "emoji" / "vit_vqgan.yaml"
    experiment = load_config([file], ["losses.adversarial=0.1"])
    _, found = count_vit_vqgan_step(experiment, 1)
    discriminator = found["discriminator"] + found["R1, its share of a step"]
    assert 0.3 < discriminator / found["tokenizer"] <= 1


def test_perceptual_features():
    found = operations(PerceptualFeatures(None), ((2, 64, 48, 3), tf.float32))
    assert found == 2 * counts.count_vgg16_operations((64, 48))
