import io
import itertools
import re

import pytest

from vim_tf.costs import operations
from vim_tf.errors import UserError
from vim_tf.models.classifier import Classifier
from vim_tf.models.discriminator import Discriminator
from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.stages import describe as module
from vim_tf.stages.describe import MOST_IMAGES, describe

GRID = (4, 6)
SIZES = ("data.image_size=[16,24]", "data.batch_size=12")


def table_of(experiment):
    """The rows {call: (shape, dtype, parameters, ms, GFLOP/s)}, and the lines without a shape."""
    stream = io.StringIO()
    describe(experiment, stream)
    rows, others = {}, []
    for line in stream.getvalue().splitlines():
        found = re.match(
            r"(.+?) +\[([\d,]+)\] +(\w+) *([\d,]*?) *([\d,]+\.\d)?(?: +([\d,]+\.\d))?$", line
        )
        if found:
            call, shape, dtype, parameters, *numbers = found.groups()
            shape = tuple(map(int, shape.split(",")))
            parameters = int(parameters.replace(",", "") or 0)
            numbers = [float((number or "nan").replace(",", "")) for number in numbers]
            rows[call] = (shape, dtype, parameters, *numbers)
        else:
            others.append(line)
    return rows, others


@pytest.fixture
def tokenizer(tiny, tmp_path):
    """An untrained tokenizer of 20 codes and its preset; two classes."""
    model = ViTVQGAN(tiny("vit_vqgan", "model.quantizer.codes=20").model, (16, 24))
    model.save_to_preset(tmp_path, {"class_names": ["blue", "red"]})
    return model, tmp_path


def test_tokenizer(tiny):
    experiment = tiny("vit_vqgan", "model.encoder.dim=20", *SIZES)
    rows, others = table_of(experiment)
    assert "12" in others[0] and f"{MOST_IMAGES} images" in others[0]
    tokens = GRID[0] * GRID[1]
    expected = {
        "images": ((8, 16, 24, 3), "float32"),
        "patchify(images)": ((8, tokens, 48), "float32"),
        "ViTEncoder(images)": ((8, tokens, 20), "float32"),
        "VectorQuantizer(features).latents": ((8, tokens, 4), "float32"),
        "VectorQuantizer(features).codes": ((8, tokens, 4), "float32"),
        "VectorQuantizer(features).tokens": ((8, tokens), "int32"),
        "ViTVQGAN.decode(codes)": ((8, 16, 24, 3), "float32"),
        "ViTVQGAN.decode_tokens(tokens)": ((8, 16, 24, 3), "float32"),
        "Discriminator(images)": ((8,), "float32"),
    }
    assert {call: row[:2] for call, row in rows.items()} == expected
    assert all(row[3] >= 0 for call, row in rows.items() if call.endswith(")"))
    discriminator = Discriminator(experiment.discriminator, (16, 24))
    discriminator.build()
    assert rows["Discriminator(images)"][2] == discriminator.count_params()
    total = ViTVQGAN(experiment.model, (16, 24)).count_params()
    parts = ("ViTEncoder(images)", "VectorQuantizer(features).latents", "ViTVQGAN.decode(codes)")
    assert sum(rows[part][2] for part in parts) == total
    assert f"ViTVQGAN: {total:,} parameters" in others


def test_it_leaves_out_what_has_no_weight(tiny):
    rows, others = table_of(tiny("vit_vqgan", "losses.adversarial=0", "losses.perceptual=0.1"))
    assert not any("Discriminator" in line for line in [*rows, *others])
    # Thirteen convolutions of 3 x 3, as in keras.applications.
    assert any("VGG16" in line and "14,714,688" in line for line in others)


def test_decoder(tiny, tokenizer):
    model, folder = tokenizer
    run = f"tokenizer.run={folder}"
    rows, others = table_of(tiny("decoder", run, "losses.adversarial=0.1", *SIZES))
    tokens = GRID[0] * GRID[1]
    expected = {
        "images": ((8, 16, 24, 3), "float32"),
        "ViTVQGAN.tokenize(images), frozen": ((8, tokens), "int32"),
        "TokenPerturbation(tokens)": ((8, tokens), "int32"),
        "ViTVQGAN.decode_tokens(tokens)": ((8, 16, 24, 3), "float32"),
        "Discriminator(images)": ((8,), "float32"),
    }
    assert {call: row[:2] for call, row in rows.items()} == expected
    parts = "ViTVQGAN.tokenize(images), frozen", "ViTVQGAN.decode_tokens(tokens)"
    assert sum(rows[part][2] for part in parts) == model.count_params()
    assert any(line.startswith("Discriminator: ") for line in others)


def test_vim(tiny, tokenizer):
    model, folder = tokenizer
    experiment = tiny("vim", f"tokenizer.run={folder}", *SIZES)
    rows, others = table_of(experiment)
    assert any("2 classes" in line for line in others)
    tokens = GRID[0] * GRID[1]
    expected = {
        "images": ((8, 16, 24, 3), "float32"),
        "ViTVQGAN.tokenize(images)": ((8, tokens), "int32"),
        "labels": ((8,), "int32"),
        "VIM: embeddings of labels, tokens, positions": ((8, tokens, 16), "float32"),
        "VIM: transformer blocks": ((8, tokens, 16), "float32"),
        "VIM(tokens, labels): logits": ((8, tokens, 20), "float32"),
        "VIM.features(tokens, block=1)": ((8, 16), "float32"),
        "sampling.generate_tokens, 4 of 24": ((8, tokens), "int32"),
        "ViTVQGAN.decode_tokens(tokens)": ((8, 16, 24, 3), "float32"),
    }
    assert {call: row[:2] for call, row in rows.items()} == expected
    vim = VIM(experiment.model, GRID, 20, 2)
    assert sum(row[2] for call, row in rows.items() if call.startswith("VIM")) == vim.count_params()
    assert rows["ViTVQGAN.tokenize(images)"][2] == model.count_params()
    assert f"VIM: {vim.count_params():,} parameters" in others


def test_the_rate_is_of_all_images(tiny, tokenizer, monkeypatch):
    """Uses a clock that advances by a thousandth of a second at each read."""
    clock = itertools.count()
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock) / 1000)
    experiment = tiny("vit_vqgan", "model.encoder.dim=2000", *SIZES)
    rows, _ = table_of(experiment)
    size = experiment.model, (16, 24)
    for call, count in (
        ("ViTEncoder(images)", operations.count_encoder_operations),
        ("VectorQuantizer(features).latents", operations.count_quantizer_operations),
        ("ViTVQGAN.decode(codes)", operations.count_decoder_operations),
    ):
        assert rows[call][3] == 1
        assert rows[call][4] == round(8 * count(*size) / 1e6, 1) > 0, call
    rows, _ = table_of(tiny("vim", f"tokenizer.run={tokenizer[1]}", *SIZES))
    assert 0 < rows["VIM: transformer blocks"][4] < rows["VIM(tokens, labels): logits"][4]


def test_classifier(tiny):
    experiment = tiny("classifier", *SIZES)
    rows, others = table_of(experiment)
    assert any("2 classes" in line for line in others)
    parameters = Classifier(experiment.model, (16, 24), 2).count_params()
    assert rows["images"][:2] == ((8, 16, 24, 3), "float32")
    assert rows["Classifier(images): logits"][:3] == ((8, 2), "float32", parameters)


def test_vim_needs_a_tokenizer_of_these_images(tiny, tokenizer):
    with pytest.raises(UserError, match="tokenizer.run is not set"):
        describe(tiny("vim"), io.StringIO())
    experiment = tiny("vim", f"tokenizer.run={tokenizer[1]}")
    with pytest.raises(UserError, match=r"image_size is \[16, 16\].*\[16, 24\]"):
        describe(experiment, io.StringIO())
