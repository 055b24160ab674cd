import dataclasses
import subprocess
import sys

import keras
import numpy as np
import pytest

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
from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.trainers.decoder_trainer import DecoderTrainer
from vim_tf.trainers.vit_vqgan_trainer import ViTVQGANTrainer

IMAGE_SIZE = (16, 24)
ENCODER = TransformerConfig(blocks=2, heads=5, dim=20, mlp_dim=28)
DECODER = TransformerConfig(blocks=1, heads=2, dim=16, mlp_dim=36)
TOKENIZER = ViTVQGANConfig(4, ENCODER, DECODER, quantizer=QuantizerConfig(codes=17, code_dim=3))


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


def test_a_decoder_has_slots_and_averages_of_its_own_weights_alone(tiny):
    experiment = tiny("decoder", "losses.adversarial=0.1")
    tokenizer = ViTVQGAN(tiny("vit_vqgan").model, (16, 16))
    trainer = DecoderTrainer(experiment, tokenizer)
    trainer.compile()
    estimate = memory.estimate_decoder(experiment, tokenizer.config)
    decoder, discriminator = (
        network.count_params() for network in (tokenizer.decoder, trainer.adversary.network)
    )
    rows = {name: row[0] for name, row in estimate.rows.items()}
    slots = [
        variable
        for optimizer in (trainer.optimizer, trainer.adversary.optimizer)
        for variable in optimizer.variables
        if len(variable.shape)
    ]
    assert estimate.parameters == {"decoder": decoder, "discriminator": discriminator}
    assert rows["optimizer's slots"] == 4 * sum(keras.ops.size(v) for v in slots)
    assert rows["moving average of weights"] == 4 * decoder
    # Three whole tokenizers: the one to start from, the one in training, and the averages.
    names = "weights", "moving average of weights"
    kept = sum(row for name, row in rows.items() if name in names or "frozen" in name)
    assert kept == 4 * (3 * tokenizer.count_params() + discriminator)
    whole = memory.estimate_vit_vqgan(tiny("vit_vqgan", "losses.adversarial=0.1"))
    assert set(whole.rows) - set(rows) == {"activations: encoder", "activations: quantizer"}
    assert rows["activations: decoder"] == whole.rows["activations: decoder"][0]


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
