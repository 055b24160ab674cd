"""The export for browsers: converted, run by Node, compared with Keras."""

import json
import sys

import numpy as np
import pytest

from vim_tf.export.browser import tfjs, tfjs_convert
from vim_tf.runs.trained_run import open_run


@pytest.mark.large
def test_every_decoder_keeps_its_limits(exported, run, about):
    folder, measurements = exported
    assert [row.name for row in measurements] == list(about["decoders"].values())
    for row in measurements:
        assert row.failures == []
        assert row.limits and row.milliseconds > 0
        assert row.size == sum(path.stat().st_size for path in (folder / row.name).iterdir())
    sizes = [row.size for row in measurements]
    assert sizes == sorted(sizes, reverse=True)
    assert len(about["examples"]) == 10  # all held-out images of the tiny run
    assert about["class_names"] == ["blue", "red"] and about["generates"]
    assert (folder / "LICENSE-tfjs.txt").read_text().strip().startswith("Apache License")
    found = [sys.modules[name] for name in tfjs_convert.STAND_INS if name in sys.modules]
    assert all(module.__spec__ for module in found)  # a stand-in module has none


@pytest.mark.large
@pytest.mark.parametrize("rows", [1, 5])
def test_node_decodes_any_tokens_as_keras(exported, run, node_modules, rows):
    tokenizer = run.tokenizer
    rng = np.random.default_rng(rows)
    shape = [rows, tokenizer.tokens_per_image]
    tokens = rng.integers(0, tokenizer.config.quantizer.codes, shape).astype("int32")
    decoder = exported[0] / tfjs.decoder_folder("float32")
    images, _ = tfjs.decode_in_node(decoder, node_modules, tokens, tokenizer.image_size)
    expected = np.asarray(tokenizer.decode_tokens(tokens))
    np.testing.assert_allclose(images, expected, rtol=0, atol=1e-4)


@pytest.mark.large
def test_a_decoder_that_differs_from_keras_is_found(tiny_runs, node_modules, tmp_path, monkeypatch):
    """Also tests the export of stage 1, which says that it cannot generate."""
    run = open_run(tiny_runs["vit_vqgan"])
    write_decoder = tfjs.write_decoder

    def write_another(tokenizer, folder):
        bias = tokenizer.decoder.head.outer.bias
        before = bias.numpy()
        bias.assign(before + 0.5)
        write_decoder(tokenizer, folder)
        bias.assign(before)

    monkeypatch.setattr(tfjs, "write_decoder", write_another)
    measurements = tfjs.export_tfjs(run, tmp_path, node_modules)
    assert all(row.failures for row in measurements), measurements
    assert any("off_pixels" in line for line in measurements[0].failures)
    about = json.loads((tmp_path / tfjs.EXAMPLES_FILE).read_text())
    assert about["class_names"] == [] and not about["generates"]


@pytest.mark.large
def test_the_converters_last_words_are_shown(node_modules, tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(RuntimeError, match="(?s)tfjs_convert .* failed.*SavedModel"):
        tfjs.convert(tmp_path / "model", tmp_path)
