import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from vim_tf import losses
from vim_tf.config.loss_sections import DiscriminatorConfig
from vim_tf.config.sections import (
    QuantizerConfig,
    TransformerConfig,
    VIMConfig,
    ViTVQGANConfig,
)
from vim_tf.costs import activations, memory, parameters
from vim_tf.models.discriminator import Discriminator
from vim_tf.models.perceptual import PerceptualFeatures
from vim_tf.models.precision import computing_in
from vim_tf.models.refinement import Refinement
from vim_tf.models.transformer import Transformer
from vim_tf.models.vim import VIM
from vim_tf.trainers.vit_vqgan_trainer import ViTVQGANTrainer

IMAGE_SIZE = (16, 24)
ENCODER = TransformerConfig(blocks=2, heads=5, dim=20, mlp_dim=28)
DECODER = TransformerConfig(blocks=1, heads=2, dim=16, mlp_dim=36)
TOKENIZER = ViTVQGANConfig(4, ENCODER, DECODER, quantizer=QuantizerConfig(codes=17, code_dim=3))
DROPOUT = dataclasses.replace(ENCODER, dropout=0.1)


# Activations: the tensors of the forward pass that the backward pass of TensorFlow's graph uses ---

ALIASES = {"Reshape", "Identity", "Squeeze", "ExpandDims", "StopGradient"}
NOT_KEPT = {"Const", "Placeholder", "ReadVariableOp"}
KEPT = (tf.float32, tf.bfloat16, tf.bool)
PRECISIONS = {"float32": activations.FLOAT, "mixed_bfloat16": activations.HALF}


def kept_bytes(forward, variables, *shapes):
    """Bytes of floats and masks that the backward pass uses of the forward pass.

    The graph is not run. Weights, which are cast for bfloat16, and scalars do not count.
    """
    kept = {}

    def trace(*inputs):
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_sum(x) for x in tf.nest.flatten(forward(*inputs))])
        graph = tf.compat.v1.get_default_graph()
        before = {op.name for op in graph.get_operations()}
        gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
        waiting, seen = [tf.convert_to_tensor(gradient).op for gradient in gradients], set()
        while waiting:
            op = waiting.pop()
            if op.name in seen or op.type in ("Shape", "ShapeN"):
                continue
            seen.add(op.name)
            for tensor in op.inputs:
                if tensor.op.name not in before:
                    waiting.append(tensor.op)
                    continue
                while tensor.op.type in ALIASES:
                    tensor = tensor.op.inputs[0]
                of_weights = tensor.op.type == "Cast" and tensor.op.inputs[0].op.type in NOT_KEPT
                if tensor.op.type not in NOT_KEPT and tensor.dtype in KEPT and not of_weights:
                    kept[tensor.name] = tensor.shape.num_elements() * tensor.dtype.size
        return gradients

    specs = [tf.TensorSpec(shape, dtype) for shape, dtype in shapes]
    tf.function(trace, autograph=False).get_concrete_function(*specs)
    return sum(kept.values())


def values(model):
    return [variable.value for variable in model.trainable_variables]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [ENCODER, DROPOUT])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_transformer_keeps(size, causal, precision):
    with computing_in(precision):
        model = Transformer(size, causal)
    model.build((None, 6, 20))
    x = tf.Variable(tf.zeros([1, 6, 20], model.compute_dtype))
    kept = kept_bytes(lambda: model(x, training=True), [x, *values(model)])
    # The input is a variable here, but a tensor in a network.
    kept += 4 * 6 * 20
    assert activations.keep_transformer(size, 6, causal, PRECISIONS[precision])[0] == kept


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model.output=rgb", "losses.logit_laplace=0", "model.quantizer.rotation_trick=true"],
        ["losses.entropy=0.1", "losses.codebook_mean=0", "model.positions=sincos"],
        ["model.quantizer.l2_normalize=false"],
        ["model.refinement_channels=5"],
        ["model.overlapping_patches=true"],
        ["model.refinement_channels=5", "model.output=rgb", "losses.logit_laplace=0"],
    ],
)
def test_tokenizer_keeps(tiny, overrides):
    experiment = tiny("vit_vqgan", "data.image_size=[16,24]", "losses.adversarial=0", *overrides)
    trainer = ViTVQGANTrainer(experiment)

    def forward(images):
        output = trainer.model.encode(images, training=True)
        codes = trainer.model.quantizer.pass_codes(output)
        decoded = trainer.model.decode_distribution(codes, training=True)
        return trainer._code_terms(output), trainer._pixel_terms(images, *decoded)

    kept = kept_bytes(forward, values(trainer.model), ((8, *IMAGE_SIZE, 3), tf.float32))
    rows = memory.estimate_vit_vqgan(experiment).rows
    estimated = sum(row[0] for name, row in rows.items() if name.startswith("activations"))
    # Entropy also keeps a few numbers per code, for any batch size.
    assert estimated == pytest.approx(kept, rel=0.001 if experiment.losses.entropy else 0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_refinement_keeps(precision):
    config = dataclasses.replace(TOKENIZER, refinement_channels=5)
    with computing_in(precision):
        layer = Refinement(5)
        layer.build((None, None, None, 6))
    images = tf.Variable(tf.zeros([1, *IMAGE_SIZE, 6], layer.compute_dtype))
    kept = kept_bytes(lambda: layer(images), [images, *values(layer)])
    size = PRECISIONS[precision]
    # The input is a variable here, but a tensor in a network.
    kept += size * 6 * IMAGE_SIZE[0] * IMAGE_SIZE[1]
    assert activations.keep_refinement(config, IMAGE_SIZE, size) == kept


def test_perceptual_loss_keeps():
    features = PerceptualFeatures(None)
    reconstruction = tf.Variable(tf.zeros([1, *IMAGE_SIZE, 3]))
    kept = kept_bytes(
        lambda images: losses.perceptual_loss(features(reconstruction), features(images)),
        [reconstruction],
        ((1, *IMAGE_SIZE, 3), tf.float32),
    )
    assert activations.keep_perceptual(IMAGE_SIZE) == kept
    frozen = sum(int(np.prod(weight.shape)) for weight in features.vgg.weights)
    assert parameters.count_vgg16() == frozen


@pytest.mark.parametrize(("image_size", "batch"), [((16, 24), 4), ((28, 28), 6), ((7, 9), 5)])
def test_discriminator_keeps(image_size, batch):
    config = DiscriminatorConfig(channels=16, base_channels=128)
    model = Discriminator(config, image_size)
    model.build()
    images = tf.Variable(tf.zeros([batch, *image_size, 3]))
    forward, r1 = activations.keep_discriminator(config, image_size, batch)
    assert forward == kept_bytes(lambda: model(images), [images, *values(model)])

    def penalty():
        with tf.GradientTape() as tape:
            watched = tf.identity(images)
            tape.watch(watched)
            logits = tf.reduce_sum(model(watched))
        return losses.r1_penalty(tape.gradient(logits, watched))

    assert r1 == pytest.approx(kept_bytes(penalty, values(model)), rel=0.01)


@pytest.mark.parametrize("size", [ENCODER, DROPOUT])
def test_vim_keeps(tiny, size):
    experiment = tiny("vim", "data.batch_size=1", "data.image_size=[16,24]")
    config = VIMConfig(size)
    experiment = dataclasses.replace(experiment, model=config)
    model = VIM(config, (4, 6), 17, 2)
    kept = kept_bytes(
        lambda tokens, labels: losses.cross_entropy(model(tokens, labels, training=True), tokens),
        values(model),
        ((1, 24), tf.int32),
        ((1,), tf.int32),
    )
    rows = memory.estimate_vim(experiment, TOKENIZER, 2).rows
    estimated = sum(row[0] for name, row in rows.items() if name.startswith("activations"))
    assert estimated == kept - 4 * 24 * 17  # the gradient of the logits, which is freed at once


def test_what_is_computed_again_is_not_kept():
    of_blocks = [
        activations.keep_transformer(dataclasses.replace(DROPOUT, blocks=n), 300) for n in (1, 2, 3)
    ]
    whole, inputs, without, both = of_blocks[0]
    assert of_blocks == [(n * whole, n * inputs, n * without, n * both) for n in (1, 2, 3)]
    assert inputs == both == 4 * 300 * DROPOUT.dim
    each = DROPOUT.heads * (4 + 4 + 1)  # for each pair: softmax, after dropout, mask
    assert whole - without == 300 * 300 * each


@pytest.mark.parametrize("queries", [128, 50, 400])
def test_a_blocks_gradient(queries):
    """The peak is at the gradient of the MLP, or later, at the gradient of the attention."""
    plain, whole, some, both = activations.differentiate_block(DROPOUT, 300, query_block=queries)
    queries = min(queries, 300)
    mlp, inputs = activations.keep_mlp(DROPOUT, 300), 4 * 300 * 20
    hidden, weights = 2 * 4 * 300 * 28, 2 * 4 * 5 * 300 * 300
    attention, none, stretch = (
        activations.keep_attention(DROPOUT, 300, False, n) for n in (300, 0, queries)
    )
    stretches = {128: 3, 50: 6, 300: 1}[queries]
    rest = weights * queries // 300 + stretches * 2 * inputs  # with gradients of keys, values
    assert plain == weights - mlp
    assert whole == attention + weights - inputs
    assert some == max(hidden, stretch - none + rest - mlp)
    assert both == max(none + mlp + hidden, stretch + rest) - inputs


def test_a_wide_mlp_takes_more_than_few_tokens_weights():
    wide = dataclasses.replace(ENCODER, mlp_dim=1000)
    plain, whole, *_ = activations.differentiate_block(wide, 10)
    assert plain == 2 * 4 * 10 * 1000
    kept = activations.keep_transformer(dataclasses.replace(wide, blocks=1), 10)[0]
    assert whole == kept + plain - 4 * 10 * 20
