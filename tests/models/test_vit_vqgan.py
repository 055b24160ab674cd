import dataclasses

import keras
import numpy as np
import pytest

from vim_tf.config.sections import QuantizerConfig, TransformerConfig, ViTVQGANConfig
from vim_tf.models.vit_vqgan import ViTVQGAN


def make_model(image_size=(8, 12), **changes):
    tiny = TransformerConfig(blocks=1, heads=2, dim=16, mlp_dim=24)
    fields = {"patch_size": 4, "encoder": tiny, "decoder": tiny, "output": "rgb", **changes}
    quantizer = QuantizerConfig(codes=16, code_dim=4)
    return ViTVQGAN(ViTVQGANConfig(quantizer=quantizer, **fields), image_size)


def make_images(height=8, width=12, batch=5):
    shape = (batch, height, width, 3)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")


@pytest.mark.parametrize("output", ["rgb", "logit_laplace"])
@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_images_need_not_be_square(output, positions):
    model = make_model(output=output, positions=positions)
    images = make_images()
    assert model.grid == (2, 3)
    assert model.tokens_per_image == 6
    tokens = model.tokenize(images)
    assert tokens.shape == (5, 6)
    assert tokens.dtype == "int32"
    assert 0 <= np.min(tokens) < np.max(tokens) < 16
    pixels = np.asarray(model.decode_tokens(tokens))
    assert pixels.shape == images.shape
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(model(images), pixels, atol=1e-5)
    codes = model.encode(images).codes
    np.testing.assert_allclose(model.decode(codes), pixels, atol=1e-5)


@pytest.mark.parametrize("output", ["rgb", "logit_laplace"])
def test_decoded_images_stay_in_range(output):
    model = make_model(output=output)
    model.decoder.head.outer.kernel.assign(model.decoder.head.outer.kernel * 50)
    images = np.asarray(model(make_images()))
    assert (images.min(), images.max()) == (-1, 1)
    unclipped = np.asarray(model.decode_distribution(model.encode(make_images()).codes)[0])
    assert np.abs(unclipped).max() > 1
    np.testing.assert_allclose(np.clip(unclipped, -1, 1), images, atol=1e-3)


def test_rgb_has_no_distribution():
    model = make_model()
    codes = model.encode(make_images()).codes
    images, mean, log_scale = model.decode_distribution(codes)
    np.testing.assert_allclose(images, model.decoder(codes), atol=1e-6)
    assert mean is None
    assert log_scale is None


def test_images_are_the_sigmoid_of_the_mean_unsqueezed():
    model = make_model(output="logit_laplace")
    codes = model.encode(make_images()).codes
    images, mean, log_scale = (np.asarray(x) for x in model.decode_distribution(codes))
    channels = np.asarray(model.decoder(codes))
    assert channels.shape[-1] == 6
    np.testing.assert_array_equal(mean, channels[..., :3])
    np.testing.assert_array_equal(log_scale, channels[..., 3:])
    pixel = (1 / (1 + np.exp(-mean)) - 0.1) / 0.8  # [0.1,0.9] -> [0,1]
    np.testing.assert_allclose(images, 2 * pixel - 1, atol=1e-5)


def test_encoder_and_decoder_have_sizes_of_their_own():
    wide = TransformerConfig(blocks=2, heads=4, dim=24, mlp_dim=16)
    model = make_model(decoder=wide)
    assert len(model.encoder.transformer.blocks) == 1
    assert len(model.decoder.transformer.blocks) == 2
    assert model.decoder.embedding.kernel.shape == (4, 24)
    assert model(make_images()).shape == (5, 8, 12, 3)


def test_resized_models_give_the_same_for_the_same_size():
    model = make_model()
    other = model.resized((8, 12))
    np.testing.assert_allclose(other(make_images()), model(make_images()), atol=1e-5)
    assert other.quantizer.codebook is not model.quantizer.codebook


@pytest.mark.parametrize(
    "head", [{}, {"refinement_channels": 5}, {"overlapping_patches": True}], ids=str
)
def test_resized_models_keep_all_weights_but_positions(head):
    model = make_model(**head)
    for weight in model.decoder.weights:
        weight.assign(weight + 1)  # that of a refinement begins at zero
    for part in (model.encoder, model.decoder):  # equal everywhere, so resizing does not change it
        part.positions.table.assign(np.ones(part.positions.table.shape))
    other = model.resized((12, 8))
    assert other(make_images(12, 8)).shape == (5, 12, 8, 3)
    for old, new in zip(model.weights, other.weights, strict=True):
        assert old.path.split("/")[1:] == new.path.split("/")[1:]
        if "seed" not in old.path:
            np.testing.assert_allclose(new, old, atol=1e-5, err_msg=old.path)


@pytest.mark.parametrize("output", ["rgb", "logit_laplace"])
def test_a_new_refinement_changes_nothing(output):
    """Weights and answers are those of the model without it, bit by bit."""
    plain, refined = (make_from_seed(output=output, refinement_channels=n) for n in (0, 5))
    count = len(plain.weights)
    assert len(refined.weights) == count + 6
    for weight, other in zip(plain.weights, refined.weights[:count], strict=True):
        assert weight.path == other.path
        np.testing.assert_array_equal(weight, other)
    np.testing.assert_array_equal(refined(make_images()), plain(make_images()))
    refined.decoder.refinement.last.bias.assign(refined.decoder.refinement.last.bias + 0.1)
    assert np.any(np.asarray(refined(make_images())) != np.asarray(plain(make_images())))


def make_from_seed(**changes):
    keras.utils.set_random_seed(0)
    return make_model(**changes)


def test_hash_is_that_of_the_weights():
    model = make_model()
    first = model.model_hash()
    assert model.model_hash() == first
    again = ViTVQGAN.from_config(model.get_config())
    assert again.model_hash() != first
    again.set_weights(model.get_weights())
    assert again.model_hash() == first
    bias = again.decoder.head.outer.bias
    bias.assign(bias + 1e-7)
    assert again.model_hash() != first


def test_each_weight_belongs_to_the_hash_of_tokens_or_to_that_of_the_decoder():
    model = make_model(output="logit_laplace", refinement_channels=5, overlapping_patches=True)
    before = model.hashes()
    decoder = list(map(id, model.decoder.weights))
    for weight in model.weights:
        old = weight.numpy()
        weight.assign(old + np.float32(1e-3))
        after, changed = model.hashes(), "decoder" if id(weight) in decoder else "tokens"
        assert {name for name in before if after[name] != before[name]} == {changed}, weight.path
        weight.assign(old)
    assert model.hashes() == before


def replace_config(model, **changes):
    """A model of another config with as many of the weights as fit."""
    other = ViTVQGAN(dataclasses.replace(model.config, **changes), model.image_size)
    for old, new in zip(model.weights, other.weights, strict=False):
        if old.shape == new.shape:
            new.assign(old)
    return other


def test_a_setting_changes_the_hash_of_the_part_that_it_changes():
    model = make_model()
    before, quantizer = model.hashes(), model.config.quantizer
    heads = dataclasses.replace(model.config.encoder, heads=4)
    for changes, changed in (
        ({"encoder": heads}, {"tokens"}),
        ({"decoder": heads}, {"decoder"}),
        ({"output": "logit_laplace"}, {"decoder"}),
        ({"overlapping_patches": True}, {"decoder"}),
        ({"refinement_channels": 2}, {"decoder"}),
        ({"positions": "sincos"}, {"tokens", "decoder"}),
        ({"quantizer": dataclasses.replace(quantizer, l2_normalize=False)}, {"tokens"}),
        # These matter in training alone.
        ({"quantizer": dataclasses.replace(quantizer, revive_every=7)}, set()),
        ({"quantizer": dataclasses.replace(quantizer, rotation_trick=True)}, set()),
    ):
        after = replace_config(model, **changes).hashes()
        assert {name for name in before if after[name] != before[name]} == changed, changes
    # 8 x 12 and 12 x 8 have the same number of patches, and so the same shapes but for positions.
    plain = make_model(positions="sincos")
    turned = ViTVQGAN(plain.config, (12, 8))
    turned.set_weights(plain.get_weights())
    assert not set(turned.hashes().values()) & set(plain.hashes().values())


def test_mixed_precision_gives_float32_images():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = make_model(output="logit_laplace", refinement_channels=5)
    finally:
        keras.config.set_dtype_policy("float32")
    output = model.encode(make_images())
    assert output.codes.dtype == "float32"
    assert model(make_images()).dtype == "float32"
    assert model.decoder(output.codes).dtype == "bfloat16"
