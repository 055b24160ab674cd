import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from vim_tf import formats, generate
from vim_tf.config.sections import TransformerConfig, VIMConfig
from vim_tf.errors import UserError
from vim_tf.export.litert import tflite, tflite_generator
from vim_tf.files import hash_file
from vim_tf.generation import litert_vim
from vim_tf.generation.litert_vim import ABOUT_FILE, NEXT_LOGITS, LiteVIM
from vim_tf.models.vim import VIM
from vim_tf.runs.trained_run import open_run

pytestmark = pytest.mark.large  # conversions

FLOAT32, INT8 = tflite_generator.FILES
LABELS = np.array([0, 1, 1], "int32")


@pytest.fixture(scope="module")
def run(tiny_runs):
    """The tiny run with a larger VIM, so that weights become int8."""
    run = open_run(tiny_runs["vim"])
    keras.utils.set_random_seed(0)
    config = VIMConfig(TransformerConfig(2, 4, 64, 128))
    vim = VIM(config, run.vim.grid, run.vim.codes, run.vim.classes)
    return dataclasses.replace(run, vim=vim)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """(folder, measurements by file name) of its export."""
    folder = tmp_path_factory.mktemp("tflite")
    rows = tflite_generator.export_generator(run, folder)
    return folder, {row.name: row for row in rows}


@pytest.fixture(scope="module")
def exported_run(tiny_runs, tmp_path_factory):
    """The folder of the export of the tiny run itself."""
    folder = tmp_path_factory.mktemp("tflite")
    tflite_generator.export_generator(open_run(tiny_runs["vim"]), folder)
    return folder


@pytest.fixture(scope="module")
def model(exported):
    return LiteVIM(exported[0] / FLOAT32)


def test_the_files_are_written_and_measured(run, exported):
    folder, measured = exported
    assert {path.name for path in folder.iterdir()} == {FLOAT32, INT8, ABOUT_FILE}
    for name, row in measured.items():
        assert row.failures == []
        assert row.size == (folder / name).stat().st_size
        assert row.milliseconds > 0
    assert measured[INT8].size < 0.5 * measured[FLOAT32].size
    assert abs(measured[FLOAT32].values["nats"]) < abs(measured[INT8].values["nats"])
    about = json.loads((folder / ABOUT_FILE).read_text())
    assert about["class_names"] == list(run.class_names)


def test_a_generator_that_is_not_the_model_is_not_exported(run, tmp_path, monkeypatch):
    right = type(run.vim).next_logits_reading

    def wrong(self, previous, position, cache, labels, hidden):
        return right(self, previous, 0 * position, cache, labels, hidden)

    monkeypatch.setattr(type(run.vim), "next_logits_reading", wrong)
    float32, _ = tflite_generator.export_generator(run, tmp_path)
    assert float32.failures


@pytest.mark.parametrize(("name", "error"), [(FLOAT32, 1e-5), (INT8, 0.3)])
def test_logits_are_those_of_keras(run, exported, name, error):
    tokens = run.held_out.tokens[:3]
    expected = np.asarray(run.vim(tokens, LABELS))
    actual = LiteVIM(exported[0] / name).logits(tokens, LABELS)
    assert expected.std() > 0.3
    assert np.abs(actual - expected).max() < error


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"guidance_scale": 3.0},
        {"temperature": [0.0, 1.0, 2.0], "top_k": [0, 3, 0], "top_p": 0.9},
        {"top_k": 4, "guidance_scale": [1.0, 2.0, 0.0]},
    ],
)
def test_it_draws_what_keras_draws(run, model, settings):
    expected = run.vim.generate(LABELS, seed=5, **settings)
    actual = model.generate(LABELS, seed=5, **settings)
    assert actual.dtype == np.int32 and len(np.unique(actual)) > 3
    np.testing.assert_array_equal(actual, expected)


def test_without_labels_and_one_row_after_more(run, model):
    np.testing.assert_array_equal(model.generate(n=2, seed=1), run.vim.generate(n=2, seed=1))
    np.testing.assert_array_equal(model.generate(n=1, seed=1), run.vim.generate(n=1, seed=1))


@pytest.mark.parametrize("parts", [1, 3, 16])
def test_a_cache_draws_the_same_however_it_grows(run, exported, parts, monkeypatch):
    monkeypatch.setattr(litert_vim, "PARTS", parts)
    assert run.vim.tokens_per_image == 16  # 3 does not divide it
    model = LiteVIM(exported[0] / FLOAT32)
    for seed in (1, 2):  # the second time the cache starts short again
        actual = model.generate(LABELS, seed=seed)
        np.testing.assert_array_equal(actual, run.vim.generate(LABELS, seed=seed))


def test_a_callback_sees_each_row_of_the_grid(model):
    seen = []
    model.generate(n=1, callback=lambda *done: seen.append(done))
    columns, length = model.grid[1], model.tokens_per_image
    assert seen == [(done, length) for done in range(columns, length + 1, columns)]


@pytest.mark.parametrize("labels", [[2], [-1]])
def test_settings_are_checked(model, labels):
    with pytest.raises(UserError, match="label is"):
        model.generate(labels)


def test_the_command_line_draws_the_same_images(tiny_runs, exported_run, tmp_path):
    given = ["--run", str(tiny_runs["vim"]), "--per-class", "2", "--seed", "3", "--out"]
    generate.main([*given, str(tmp_path / "keras.png")])
    generate.main([*given, str(tmp_path / "litert.png"), "--litert", str(exported_run / FLOAT32)])
    one, other = (np.asarray(Image.open(tmp_path / f"{x}.png")) for x in ("keras", "litert"))
    np.testing.assert_array_equal(one, other)


def seal(folder, name, **changes):
    """Writes the current hash of a file, and other changes, into generator.json."""
    content = formats.read_json(folder / ABOUT_FILE, "export", "")
    content["files"][name] = hash_file(folder / name)
    (folder / ABOUT_FILE).write_text(formats.to_json("export", {**content, **changes}))


def test_files_that_do_not_fit_are_refused(tiny_runs, exported, tmp_path):
    given = ["--run", str(tiny_runs["vim"]), "--out", str(tmp_path / "x.png"), "--litert"]
    with pytest.raises(UserError, match="was exported from another model"):
        generate.main([*given, str(exported[0] / FLOAT32)])
    folder = tmp_path / "copy"
    shutil.copytree(exported[0], folder)
    data = bytearray((folder / INT8).read_bytes())
    data[len(data) // 2] ^= 64
    (folder / INT8).write_bytes(data)
    with pytest.raises(UserError, match="does not have the hash in generator.json; export the run"):
        LiteVIM(folder / INT8)
    (folder / INT8).write_bytes(b"no file of LiteRT")
    seal(folder, INT8)
    with pytest.raises(UserError, match="is no LiteRT file"):
        LiteVIM(folder / INT8)
    seal(folder, FLOAT32, codes=17)
    with pytest.raises(UserError, match="answers with 16 codes, not 17"):
        LiteVIM(folder / FLOAT32)
    (folder / ABOUT_FILE).write_text(formats.to_json("export", {"grid": [4, 4], "codes": 16}))
    with pytest.raises(UserError, match=f"{ABOUT_FILE} is damaged: .* is a required property"):
        LiteVIM(folder / FLOAT32)
    (folder / ABOUT_FILE).unlink()
    with pytest.raises(UserError, match=f"{ABOUT_FILE} is not there"):
        LiteVIM(folder / FLOAT32)


def test_an_export_knows_whether_its_model_saw_the_null_label(exported, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(exported[0], folder)
    content = formats.read_json(folder / ABOUT_FILE, "export", "")
    assert content["label_drop"] == 0.1  # the default of this run's VIM
    seal(folder, FLOAT32, label_drop=0.0)
    model = LiteVIM(folder / FLOAT32)
    with pytest.raises(
        UserError, match="labels are missing; .*model.label_drop 0: it never saw one"
    ):
        model.generate(n=1)
    with pytest.raises(
        UserError, match="guidance_scale is 2.0; it must be 1, because guidance needs"
    ):
        model.generate([0], guidance_scale=2.0)


def test_a_file_that_generates_nothing_is_refused(run, exported, tmp_path):
    tflite.export_tflite(run, tmp_path)
    shutil.copy(exported[0] / ABOUT_FILE, tmp_path)
    seal(tmp_path, "decoder_float32.tflite")
    with pytest.raises(UserError, match="generates nothing"):
        LiteVIM(tmp_path / "decoder_float32.tflite")


def test_a_file_of_another_signature_is_refused(exported, tmp_path):
    module = tf.Module()
    spec = tf.TensorSpec([1], tf.int32, "previous")
    signatures = {NEXT_LOGITS: tf.function(lambda previous: previous + 1, input_signature=[spec])}
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=signatures)
    file = tmp_path / FLOAT32
    file.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved")).convert())
    shutil.copy(exported[0] / ABOUT_FILE, tmp_path)
    seal(tmp_path, FLOAT32)
    with pytest.raises(UserError, match="takes no hidden, labels, position; export the run again"):
        LiteVIM(file)
