import dataclasses
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf import losses
from vim_tf.config.experiments import ViTVQGANExperiment
from vim_tf.config.loss_sections import DiscriminatorConfig
from vim_tf.config.sections import (
    QuantizerConfig,
    TransformerConfig,
    VIMConfig,
    ViTVQGANConfig,
)
from vim_tf.costs import memory, parameters
from vim_tf.models.discriminator import Discriminator
from vim_tf.models.perceptual import PerceptualFeatures
from vim_tf.models.precision import computing_in
from vim_tf.models.refinement import Refinement
from vim_tf.models.transformer import Transformer
from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.trainers.vit_vqgan_trainer import ViTVQGANTrainer

IMAGE_SIZE = (16, 24)
ENCODER = TransformerConfig(blocks=2, heads=5, dim=20, mlp_dim=28)
DECODER = TransformerConfig(blocks=1, heads=2, dim=16, mlp_dim=36)
TOKENIZER = ViTVQGANConfig(4, ENCODER, DECODER, quantizer=QuantizerConfig(codes=17, code_dim=3))
DROPOUT = dataclasses.replace(ENCODER, dropout=0.1)


def test_it_needs_no_tensorflow():
    code = "import sys, vim_tf.costs.memory; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Parameters -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"positions": "sincos"},
        {"output": "rgb"},
        {"patch_size": 8},
        {"refinement_channels": 5},
        {"refinement_channels": 5, "output": "rgb"},
        {"overlapping_patches": True},
    ],
)
def test_tokenizer_parameters(fields):
    config = dataclasses.replace(TOKENIZER, **fields)
    model = ViTVQGAN(config, IMAGE_SIZE)
    counted = parameters.count_vit_vqgan(config, IMAGE_SIZE)
    assert counted == {name: getattr(model, name).count_params() for name in counted}
    assert sum(counted.values()) == model.count_params()


@pytest.mark.parametrize("image_size", [(16, 24), (28, 28), (7, 9), (33, 64)])
@pytest.mark.parametrize("channels", [6, 512])
def test_discriminator_parameters(image_size, channels):
    config = DiscriminatorConfig(channels=channels, base_channels=200)
    model = Discriminator(config, image_size)
    model.build()
    assert sum(parameters.count_discriminator(config, image_size)) == model.count_params()


@pytest.mark.parametrize("conditional", [False, True])
def test_vim_parameters(conditional):
    config = VIMConfig(ENCODER, conditional=conditional)
    counted = parameters.count_vim(config, (2, 3), 17, 7)
    assert counted == VIM(config, (2, 3), 17, 7).count_params()


# Activations: the tensors of the forward pass that the backward pass of TensorFlow's graph uses ---

ALIASES = {"Reshape", "Identity", "Squeeze", "ExpandDims", "StopGradient"}
NOT_KEPT = {"Const", "Placeholder", "ReadVariableOp"}
KEPT = (tf.float32, tf.bfloat16, tf.bool)
PRECISIONS = {"float32": memory.FLOAT, "mixed_bfloat16": memory.HALF}


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
    assert memory.keep_transformer(size, 6, causal, PRECISIONS[precision])[0] == kept


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
    assert memory.keep_refinement(config, IMAGE_SIZE, size) == kept


def test_perceptual_loss_keeps():
    features = PerceptualFeatures(None)
    reconstruction = tf.Variable(tf.zeros([1, *IMAGE_SIZE, 3]))
    kept = kept_bytes(
        lambda images: losses.perceptual_loss(features(reconstruction), features(images)),
        [reconstruction],
        ((1, *IMAGE_SIZE, 3), tf.float32),
    )
    assert memory.keep_perceptual(IMAGE_SIZE) == kept
    frozen = sum(int(np.prod(weight.shape)) for weight in features.vgg.weights)
    assert parameters.count_vgg16() == frozen


@pytest.mark.parametrize(("image_size", "batch"), [((16, 24), 4), ((28, 28), 6), ((7, 9), 5)])
def test_discriminator_keeps(image_size, batch):
    config = DiscriminatorConfig(channels=16, base_channels=128)
    model = Discriminator(config, image_size)
    model.build()
    images = tf.Variable(tf.zeros([batch, *image_size, 3]))
    forward, r1 = memory.keep_discriminator(config, image_size, batch)
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
        memory.keep_transformer(dataclasses.replace(DROPOUT, blocks=n), 300) for n in (1, 2, 3)
    ]
    whole, inputs, without, both = of_blocks[0]
    assert of_blocks == [(n * whole, n * inputs, n * without, n * both) for n in (1, 2, 3)]
    assert inputs == both == 4 * 300 * DROPOUT.dim
    each = DROPOUT.heads * (4 + 4 + 1)  # for each pair: softmax, after dropout, mask
    assert whole - without == 300 * 300 * each


@pytest.mark.parametrize("queries", [128, 50, 400])
def test_a_blocks_gradient(queries):
    """The peak is at the gradient of the MLP, or later, at the gradient of the attention."""
    plain, whole, some, both = memory.differentiate_block(DROPOUT, 300, query_block=queries)
    queries = min(queries, 300)
    mlp, inputs = memory.keep_mlp(DROPOUT, 300), 4 * 300 * 20
    hidden, weights = 2 * 4 * 300 * 28, 2 * 4 * 5 * 300 * 300
    attention, none, stretch = (
        memory.keep_attention(DROPOUT, 300, False, n) for n in (300, 0, queries)
    )
    stretches = {128: 3, 50: 6, 300: 1}[queries]
    rest = weights * queries // 300 + stretches * 2 * inputs  # with gradients of keys, values
    assert plain == weights - mlp
    assert whole == attention + weights - inputs
    assert some == max(hidden, stretch - none + rest - mlp)
    assert both == max(none + mlp + hidden, stretch + rest) - inputs


def test_a_wide_mlp_takes_more_than_few_tokens_weights():
    wide = dataclasses.replace(ENCODER, mlp_dim=1000)
    plain, whole, *_ = memory.differentiate_block(wide, 10)
    assert plain == 2 * 4 * 10 * 1000
    kept = memory.keep_transformer(dataclasses.replace(wide, blocks=1), 10)[0]
    assert whole == kept + plain - 4 * 10 * 20


def test_many_codes_take_more_than_a_block(tiny):
    experiment = tiny("vim", "data.batch_size=1", "data.image_size=[16,24]")
    experiment = dataclasses.replace(experiment, model=VIMConfig(ENCODER))
    many = dataclasses.replace(TOKENIZER, quantizer=QuantizerConfig(codes=10_000, code_dim=3))
    for precision, size in (("float32", 4 + 4), ("mixed_bfloat16", 4 + 4 + 2)):
        training = dataclasses.replace(experiment.training, precision=precision)
        rows = memory.estimate_vim(dataclasses.replace(experiment, training=training), many, 2).rows
        assert rows["a gradient's arrays at once"] == (24 * 10_000 * size,) * 4


def test_bfloat16_casts_weights(tiny):
    plain, cast = (
        memory.estimate_vim(tiny("vim", f"training.precision={name}"), TOKENIZER, 2)
        for name in ("float32", "mixed_bfloat16")
    )
    name = "activations: weights in bfloat16"
    assert name not in plain.rows
    whole, one, *again = cast.rows[name]
    assert whole == 2 * cast.parameters["VIM"]
    assert one == whole // tiny("vim").model.transformer.blocks
    assert again == [whole, one]


# The table --------------------------------------------------------------------------------------


def test_rows_agree_with_a_trainer(tiny):
    experiment = tiny("vit_vqgan")
    trainer = ViTVQGANTrainer(experiment)
    trainer.compile()
    estimate = memory.estimate_vit_vqgan(experiment)
    networks = trainer.model, trainer.adversary.network
    trained = sum(network.count_params() for network in networks)
    slots = [
        variable
        for optimizer in (trainer.optimizer, trainer.adversary.optimizer)
        for variable in optimizer.variables
        if len(variable.shape)
    ]
    rows = {name: row[0] for name, row in estimate.rows.items()}
    assert rows["weights"] == 4 * trained
    assert rows["optimizer's slots"] == 4 * sum(keras.ops.size(v) for v in slots)
    assert rows["moving average of weights"] == 4 * trainer.ema_model.count_params()
    assert estimate.total[0] == sum(rows.values())


def test_replicas_share_the_batch(tiny):
    for one, four in (
        [memory.estimate_vit_vqgan(tiny("vit_vqgan"), n) for n in (1, 4)],
        [memory.estimate_vim(tiny("vim"), TOKENIZER, 2, n) for n in (1, 4)],
    ):
        assert (one.batch, four.batch) == (8, 2)
        assert four.rows["weights"] == one.rows["weights"]
        for name in one.rows:
            # The discriminator's group is 4 of 8 images, or 2 of 2. Its kernels have no batch.
            if name.startswith("activations") and "R1" not in name and "discr" not in name:
                assert np.array_equal(np.multiply(four.rows[name], 4), one.rows[name]), name


def test_the_column_is_that_of_the_config(tiny):
    for column, overrides in enumerate(
        (
            [],
            ["training.rematerialize=true"],
            ["training.query_block=5"],
            ["training.rematerialize=true", "training.query_block=5"],
        )
    ):
        estimate = memory.estimate_vit_vqgan(tiny("vit_vqgan", *overrides))
        assert estimate.configured == estimate.total[column]
        assert estimate.query_block == (128 if column < 2 else 5)


def test_a_factored_moment_is_left_out(tiny):
    full, factored = (
        memory.estimate_vim(tiny("vim", f"optimizer.second_moment={name}"), TOKENIZER, 2)
        for name in ("full", "factored")
    )
    assert factored.rows["optimizer's slots"] == factored.rows["weights"]
    assert full.total[0] - factored.total[0] == full.rows["weights"][0]


def test_parts_of_a_batch_share_it_and_need_a_sum_of_gradients(tiny):
    whole, parts = (
        memory.estimate_vim(tiny("vim", *more), TOKENIZER, 2)
        for more in ([], ["training.gradient_accumulation_steps=4"])
    )
    assert (whole.batch, parts.batch) == (8, 2)
    assert np.array_equal(parts.rows["gradients"], np.multiply(whole.rows["gradients"], 2))
    name = "activations: transformer"
    assert np.array_equal(np.multiply(parts.rows[name], 4), whole.rows[name])


def test_terms_without_weight_take_nothing(tiny):
    names = memory.estimate_vit_vqgan(tiny("vit_vqgan", "losses.adversarial=0")).rows
    assert not any("R1" in name or "discriminator" in name or "VGG" in name for name in names)
    experiment = tiny("vit_vqgan", "losses.perceptual=0.1")
    assert "weights of the frozen VGG16" in memory.estimate_vit_vqgan(experiment).rows


def test_the_table_for_a_reader():
    assert [memory.format_bytes(n) for n in (0, 1023, 1024, 1.5 * 2**20, 2**30, 2**42)] == [
        "0 bytes",
        "1,023 bytes",
        "1.0 KiB",
        "1.5 MiB",
        "1.0 GiB",
        "4,096.0 GiB",
    ]
    text = memory.estimate_vit_vqgan(ViTVQGANExperiment(), replicas=128).format()
    assert text.startswith("estimate for a replica of 2 images:")
    assert "as configured, plain: " in text and "here for 128 queries" in text
    assert all(len(line) <= 100 for line in text.splitlines())
