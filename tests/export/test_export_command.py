"""`python -m vim_tf.export` as a whole. Other tests check the files of each format."""

import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import yaml

import vim_tf
from vim_tf import command_line
from vim_tf.data.transforms import to_uint8
from vim_tf.errors import UserError
from vim_tf.export import __main__ as command
from vim_tf.export import export_run
from vim_tf.export.serving.signatures import Signatures
from vim_tf.runs.trained_run import TrainedRun


def export(run, out, *more):
    command.main(["--run", str(run), "--to", str(out), *more])


@pytest.fixture(scope="module")
def exported(tiny_runs, tmp_path_factory):
    """The SavedModel of the tiny VIM, exported twice."""
    out = tmp_path_factory.mktemp("export") / "out"
    export(tiny_runs["vim"], out)
    first = {path: path.read_bytes() for path in (out / "vim" / "1").rglob("*") if path.is_file()}
    export(tiny_runs["vim"], out)
    return out, first


@pytest.mark.large
def test_a_second_export_is_a_second_version(exported):
    out, first = exported
    assert {path.name for path in (out / "vim").iterdir()} == {"1", "2"}
    assert {path: path.read_bytes() for path in first} == first
    assert not list(out.glob(".staging*"))


@pytest.mark.large
def test_it_answers_and_says_what_it_is(exported, tiny_runs):
    folder = exported[0] / "vim" / "1"
    answers = tf.saved_model.load(str(folder)).signatures
    assert set(answers) > {"serving_default", "generate", "tokenize_bytes", "embed"}
    assert answers["serving_default"].structured_input_signature == (
        answers["generate"].structured_input_signature
    )
    assert (folder / "assets" / "class_names.txt").read_text() == "blue\nred\n"
    protocol = json.loads((folder / "assets" / "protocol.json").read_text())
    metadata = json.loads((tiny_runs["vim"] / "preset" / "metadata.json").read_text())
    assert protocol["hashes"]["vim"] == metadata["hash"]
    assert (protocol["codes"], protocol["classes"], protocol["steps"]) == (16, 2, 6)
    assert (folder / "assets.extra" / "tf_serving_warmup_requests").exists()


@pytest.mark.large
def test_a_vim_is_exported_with_another_decoder(tiny_runs, tiny_decoder, tmp_path):
    export(tiny_runs["vim"], tmp_path / "out", "--decoder", str(tiny_decoder))
    folder = tmp_path / "out" / "vim" / "1"
    protocol = json.loads((folder / "assets" / "protocol.json").read_text())
    vim, decoder = vim_tf.load(tiny_runs["vim"]), vim_tf.load(tiny_decoder)
    assert protocol["hashes"] == {**decoder.hashes(), "vim": vim.model_hash()}
    tokens = np.arange(16, dtype="int32")[None]
    decode = tf.saved_model.load(str(folder)).signatures["decode"]
    images = decode(tokens=tf.constant(tokens))["images"]
    np.testing.assert_array_equal(images, to_uint8(decoder.decode_tokens(tokens)))


@pytest.mark.large
def test_the_report_lists_every_signature(exported):
    report = json.loads((exported[0] / "reports" / "2" / "export_report.json").read_text())
    assert report["passed"]
    assert report["version"] == 2
    assert {row["name"] for row in report["measurements"]} == {
        *("tokenize", "tokenize_bytes", "decode", "decode_bytes", "reconstruct"),
        *("embed", "embed_bytes", "generate", "generate_default", "generate_unlabelled"),
    }


@pytest.mark.large
def test_an_export_that_is_not_what_keras_computes_is_refused(
    tiny_runs, tmp_path, monkeypatch, capsys
):
    right = Signatures._decode
    monkeypatch.setattr(
        Signatures, "_decode", lambda self, tokens: right(self, tf.reverse(tokens, [1]))
    )
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as caught:
        export(tiny_runs["vit_vqgan"], out)
    assert caught.value.code == command.EXIT_NOT_EQUAL == 1
    errors = capsys.readouterr().err
    assert "error: saved_model decode: psnr is" in errors
    assert f"nothing was exported; report: {out / 'reports' / '1'}" in errors
    assert [path.name for path in out.iterdir()] == ["reports"]
    assert not json.loads((out / "reports" / "1" / "export_report.json").read_text())["passed"]


@pytest.mark.large
def test_stage_1_and_half_a_training_are_said(tiny_runs, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(tiny_runs["vit_vqgan"], run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["training"]["steps"] = 12
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    export(run, tmp_path / "out")
    errors = capsys.readouterr().err
    assert f"{run} is not fully trained: its weights are those of step 6 of 12" in errors
    assert f"{run} is a run of stage 1: only the tokenizer's signatures are exported" in errors
    answers = tf.saved_model.load(str(tmp_path / "out" / "vim" / "1")).signatures
    expected = {"tokenize", "tokenize_bytes", "decode", "decode_bytes", "reconstruct"}
    assert set(answers) == expected | {"serving_default"}
    assert "images" in answers["serving_default"].structured_input_signature[1]


def test_an_export_that_breaks_off_leaves_nothing(tiny_runs, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device", "variables.data")

    monkeypatch.setattr(export_run.saved_model, "write_saved_model", fail)
    with pytest.raises(OSError, match="No space left"):
        export(tiny_runs["vit_vqgan"], tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*"))


@pytest.mark.large
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_a_stopped_export_goes_on_from_its_finished_format(tiny_runs, tmp_path, name):
    """The signal comes when the second format begins."""
    out, formats = tmp_path / "out", ["--formats", "saved_model,tflite"]
    given = [sys.executable, "-m", "vim_tf.export", "--run", tiny_runs["vit_vqgan"], "--to", out]
    with subprocess.Popen([*map(str, given), *formats], stderr=subprocess.PIPE, text=True) as first:
        for line in first.stderr:
            if line == "tflite: exporting and comparing with Keras\n":
                first.send_signal(signal.Signals[name])
    assert first.returncode == (75 if name == "SIGTERM" else -9)
    assert [path.name for path in out.glob("[!.]*")] == ["reports"]
    staged = {
        path.relative_to(out / ".staging-1" / "vim"): path.read_bytes()
        for path in (out / ".staging-1" / "vim").rglob("*")
        if path.is_file()
    }
    done = subprocess.run([*map(str, given), *formats], capture_output=True, text=True, check=True)
    assert "version 1 goes on; finished are saved_model\n" in done.stderr
    assert "saved_model: exporting" not in done.stderr
    assert {path: (out / "vim" / "1" / path).read_bytes() for path in staged} == staged
    report = json.loads((out / "reports" / "1" / "export_report.json").read_text())
    assert {row["format"] for row in report["measurements"]} == {"saved_model", "tflite"}
    assert not list(out.glob(".staging*"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--formats", "saved_model,onnx"], "--formats has onnx; allowed are saved_model, tflite,"),
        (["--formats", ","], "--formats is empty; name some of saved_model, tflite, tfjs"),
        (["--max-pixels", "0"], "--max-pixels is 0; it must be 1 or more"),
        (["--embed-block", "9"], "embed_block is 9; this model has blocks 1 to 1"),
        (["--set", "seed=1"], "override seed=1 would change the trained model"),
        (["--set", "data.path=/nowhere"], "data.path is /nowhere, which does not exist"),
    ],
)
def test_bad_options(tiny_runs, tmp_path, more, message):
    with pytest.raises(UserError) as caught:
        export(tiny_runs["vim"], tmp_path / "out", *more)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_torn_checkpoint_is_one_line(tiny_runs, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    shutil.copytree(tiny_runs["vim"], run)
    weights = run / "preset" / "model.weights.h5"
    content = np.frombuffer(weights.read_bytes(), "uint8").copy()
    content[len(content) // 2 :] = 0
    weights.write_bytes(content.tobytes())
    with pytest.raises(SystemExit) as caught:
        command_line.run(lambda: export(run, tmp_path / "out"))
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {weights}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("chosen", "arguments", "taken"), [(1, [], 1), (0, [], None), (1, ["--embed-block", "7"], 7)]
)
def test_embed_takes_the_block_that_the_probe_chose(
    tiny_runs, tmp_path, monkeypatch, chosen, arguments, taken
):
    def refuse(tokenizer, vim, block, max_pixels):
        raise UserError(f"embed of {block}")

    monkeypatch.setattr(TrainedRun, "probed_block", chosen)
    monkeypatch.setattr(export_run, "Signatures", refuse)
    with pytest.raises(UserError, match=f"embed of {taken}"):
        export(tiny_runs["vim"], tmp_path / "out", *arguments)
