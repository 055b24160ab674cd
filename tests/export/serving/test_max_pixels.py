"""The number of pixels of an image that a SavedModel decodes, and the memory for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vim_tf.data.image_limits import LEAST, pixel_limit
from vim_tf.errors import UserError
from vim_tf.export.__main__ import main
from vim_tf.export.serving.encoded_images import BYTES_PER_PIXEL, DECODED_AT_A_TIME
from vim_tf.export.serving.signatures import Signatures

SCRIPT = Path(__file__).parents[2] / "image_memory_run.py"


@pytest.mark.parametrize("value", [0, -1, 100_000_001, 10**30])
def test_the_option_is_from_1_to_100_million(tmp_path, value):
    arguments = ["--run", str(tmp_path), "--to", str(tmp_path / "out"), "--max-pixels", str(value)]
    with pytest.raises(UserError, match=f"--max-pixels is {value}; it must be ") as caught:
        main(arguments)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_the_default_is_the_model_s_limit(served_run):
    signatures = Signatures(served_run.tokenizer, served_run.vim)
    assert signatures.max_pixels == pixel_limit(served_run.tokenizer.image_size) == LEAST
    assert Signatures(served_run.tokenizer, None, max_pixels=7).max_pixels == 7


@pytest.mark.large
def test_requests_of_the_worst_images_stay_within_the_stated_memory(export_dir):
    protocol = json.loads((export_dir / "vim" / "1" / "assets" / "protocol.json").read_text())
    assert protocol["max_pixels"] == LEAST
    done = subprocess.run(
        [sys.executable, SCRIPT, "served", export_dir / "vim" / "1"],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert len(found) == 6
    for kind, (size, errors, grown) in ((k, v.values()) for k, v in found.items()):
        assert errors == [""] and size < 2**20, kind  # small files, all decoded
        assert 3 * LEAST <= grown <= DECODED_AT_A_TIME * BYTES_PER_PIXEL * LEAST, kind
