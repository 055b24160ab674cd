import dataclasses
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf.config.sections import QuantizerConfig, TransformerConfig, ViTVQGANConfig
from vim_tf.data.transforms import normalize
from vim_tf.errors import UserError
from vim_tf.export.litert import tflite
from vim_tf.export.plain_models import TOKENIZE, write_edge_model
from vim_tf.generation.litert import load_litert
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.runs.trained_run import TrainedRun, open_run

pytestmark = pytest.mark.large  # conversions

DECODERS = [name for name in tflite.FILES if name.startswith("decoder")]


@pytest.fixture(scope="module")
def run(tiny_runs):
    return open_run(tiny_runs["vit_vqgan"])


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """(folder, measurements by file name) of the tiny run's export."""
    folder = tmp_path_factory.mktemp("tflite")
    rows = tflite.export_tflite(run, folder)
    return folder, {row.name: row for row in rows}


def random_tokens(run, rows):
    shape = (rows, run.tokenizer.tokens_per_image)
    return np.random.default_rng(0).integers(0, 16, shape).astype("int32")


def test_all_files_are_written_and_measured(exported):
    folder, measured = exported
    assert sorted(path.name for path in folder.iterdir()) == sorted(tflite.FILES)
    for name, row in measured.items():
        assert row.size == (folder / name).stat().st_size
        assert row.milliseconds > 0
        assert row.format == "tflite"
    assert list(measured) == list(tflite.FILES)


def test_the_limits_hold_and_each_loss_of_bits_shows(exported):
    measured = exported[1]
    for row in measured.values():
        assert row.failures == []
    psnr = {name: measured[name].values["psnr"] for name in DECODERS}
    assert psnr["decoder_float32.tflite"] > psnr["decoder_float16.tflite"] > 50
    assert psnr["decoder_float16.tflite"] > psnr["decoder_int8.tflite"] < 60


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_takes_any_number_of_rows(run, exported, name):
    tokens = random_tokens(run, 3)
    together = tflite.run_tflite(exported[0] / name, tokens)
    assert together.shape == (3, 16, 16, 3) and together.dtype == np.float32
    alone = [tflite.run_tflite(exported[0] / name, row[np.newaxis])[0] for row in tokens]
    assert np.abs(together[0] - together[1]).max() > 0.1
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_tokenizer_takes_any_number_of_rows(run, exported):
    path = exported[0] / "tokenizer_float32.tflite"
    images = normalize(run.images(3)).numpy()
    together = tflite.run_tflite(path, images)
    assert together.dtype == np.int32
    np.testing.assert_array_equal(together, run.tokenizer.tokenize(images))
    for image, tokens in zip(images, together, strict=True):
        np.testing.assert_array_equal(tflite.run_tflite(path, image[np.newaxis])[0], tokens)


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_answer_as_keras_for_tokens_that_no_image_has(run, exported, name):
    tokens = random_tokens(run, 8)
    actual = tflite.run_tflite(exported[0] / name, tokens)
    error = np.abs(actual - run.tokenizer.decode_tokens(tokens)).max()
    # The ranges of int8 numbers are those of the tokens of images.
    assert error < {"decoder_float32.tflite": 1e-5, "decoder_float16.tflite": 1e-2}.get(name, 0.4)


@pytest.mark.parametrize("token", [-1, 16])
@pytest.mark.parametrize("name", DECODERS)
def test_a_token_that_is_no_code_is_refused(run, exported, name, token):
    tokens = random_tokens(run, 2)
    tokens[1, 3] = token
    with pytest.raises(RuntimeError, match="out of bounds"):
        tflite.run_tflite(exported[0] / name, tokens)


@pytest.mark.parametrize("name", tflite.FILES)
def test_only_builtin_operations(exported, name):
    operations = tflite.read_operations((exported[0] / name).read_bytes())
    names = {operation for operation, _ in operations}
    assert {"FULLY_CONNECTED", "SOFTMAX", "GELU"} <= names
    assert ("CONV_2D" in names) == name.startswith("decoder")  # the tiny run has a refinement
    assert not {operation for operation in names if "custom" in operation.lower()}


def test_the_int8_decoder_computes_in_integers_alone(exported):
    operations = tflite.read_operations((exported[0] / "decoder_int8.tflite").read_bytes())
    assert [name for name, floats in operations if floats] == ["DEQUANTIZE"]
    assert operations[-1] == ("DEQUANTIZE", True)


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("decoder_float32.tflite", {np.float32}),
        ("decoder_float16.tflite", {np.float32, np.float16}),
        ("decoder_dynamic_int8.tflite", {np.float32, np.int8}),
        ("tokenizer_float32.tflite", {np.float32}),
    ],
)
def test_weights_are_stored_as_the_name_says(exported, name, stored):
    interpreter = load_litert().Interpreter(str(exported[0] / name))
    types = {detail["dtype"] for detail in interpreter.get_tensor_details()}
    assert types & {np.float32, np.float16, np.int8} == stored


def test_an_int8_tokenizer_keeps_its_codes_as_they_are(tmp_path):
    """With codes of 8 bits, other codes would be the nearest."""
    keras.utils.set_random_seed(0)
    size = TransformerConfig(1, 2, 64, 128)
    quantizer = QuantizerConfig(codes=96, code_dim=24)
    tokenizer = ViTVQGAN(ViTVQGANConfig(4, size, size, quantizer=quantizer), (16, 16))
    write_edge_model(tokenizer, tmp_path)
    data = tflite.convert(tmp_path, TOKENIZE, "dynamic_int8")
    details = load_litert().Interpreter(model_content=data).get_tensor_details()
    found = {(tuple(sorted(one["shape"])), one["dtype"]) for one in details}
    assert ((24, 96), np.float32) in found and ((64, 128), np.int8) in found
    assert ((24, 96), np.int8) not in found


def test_custom_and_float_operations_are_counted():
    """LiteRT has no operation for a Cholesky decomposition."""
    spec = tf.TensorSpec([None, 4, 4], tf.float32)
    function = tf.function(lambda x: tf.linalg.cholesky(x) + 1.0, input_signature=[spec])
    module = tf.Module()
    module.call = function
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], module
    )
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS,
        tf.lite.OpsSet.SELECT_TF_OPS,
    ]
    data = converter.convert()
    assert tflite.read_operations(data) == [("custom: FlexCholesky", True), ("ADD", True)]
    assert tflite.count_operations(data) == {"custom_operations": 1, "float_operations": 2}


def test_a_wrong_decoder_is_found(run, tmp_path, monkeypatch):
    """The codes in the file are shifted by one: every token has the code of its neighbour."""

    def write_wrong_model(tokenizer, folder):
        codebook = tokenizer.quantizer.codebook
        right = codebook.numpy()
        codebook.assign(np.roll(right, 1, axis=0))
        write_edge_model(tokenizer, folder)
        codebook.assign(right)

    names = ("decoder_float32.tflite", "tokenizer_float32.tflite")
    monkeypatch.setattr(tflite, "FILES", {name: tflite.FILES[name] for name in names})
    monkeypatch.setattr(tflite, "write_edge_model", write_wrong_model)
    decoder, tokenizer = tflite.export_tflite(run, tmp_path)
    assert len(decoder.failures) == 1 and "psnr" in decoder.failures[0]
    assert len(tokenizer.failures) == 1 and "tokens_equal" in tokenizer.failures[0]


def test_images_for_training_calibrate_and_held_out_ones_measure(run, tmp_path, monkeypatch):
    asked, calibrated = [], []

    class Watched(TrainedRun):
        def images(self, count, split="validation"):
            asked.append((count, split))
            return run.images(count, split)

    def convert(edge_model, signature, kind, calibration):
        calibrated.append(calibration)
        raise UserError("enough")

    monkeypatch.setattr(tflite, "convert", convert)
    parts = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
    with pytest.raises(UserError, match="enough"):
        tflite.export_tflite(Watched(**parts), tmp_path)
    assert asked == [(64, "train"), (16, "validation")]
    expected = run.tokenizer.tokenize(normalize(run.images(64, "train")))
    np.testing.assert_array_equal(calibrated[0], expected)


def test_without_litert_one_line_says_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(UserError, match=r"pip install 'ai-edge-litert>=2.1.3,<3'$") as caught:
        tflite.export_tflite(run, tmp_path)
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())
