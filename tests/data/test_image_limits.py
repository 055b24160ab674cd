import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vim_tf.config.sections import DataConfig
from vim_tf.data import image_limits
from vim_tf.data.image_limits import BYTES_PER_PIXEL, LEAST, MOST, pixel_limit
from vim_tf.data.images import make_image_dataset
from vim_tf.errors import UserError

SCRIPT = Path(__file__).parents[1] / "image_memory_run.py"


def test_the_limit_grows_with_the_model_between_two_bounds():
    assert pixel_limit() == pixel_limit((256, 256)) == LEAST
    assert pixel_limit((1024, 768)) == 64 * 1024 * 768 == (8 * 1024) * (8 * 768)
    assert pixel_limit((2048, 2048)) == MOST == 100_000_000


@pytest.mark.parametrize("size", [(7680, 4320), (7008, 4672), (6000, 4000)])
def test_frames_and_photographs_are_below_it_for_the_smallest_model(size):
    assert size[0] * size[1] <= pixel_limit((32, 32))


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_folder_has_the_limit_of_its_model(tmp_path, monkeypatch, capsys, on_error):
    monkeypatch.setattr(image_limits, "LEAST", 1)
    for name, size in (("a", (65, 64)), ("b", (64, 64)), ("c", (64, 64))):
        Image.new("L", size, ord(name)).save(tmp_path / f"{name}.png")

    def open_images(image_size):
        config = DataConfig(
            source="folder", path=str(tmp_path), image_size=image_size, on_error=on_error
        )
        return make_image_dataset(config, 0)

    message = "65 x 64 pixels is above the limit of 4,096 pixels; make it smaller"
    if on_error == "stop":
        with pytest.raises(UserError, match=message):
            open_images((8, 8))
    else:
        data = open_images((8, 8))
        assert data.train_size + data.validation_size == 2
        said = capsys.readouterr().err
        assert message in said and "1 left out: 1 damaged or unreadable file (a.png: " in said
    data = open_images((8, 9))
    assert data.train_size + data.validation_size == 3


def run(*arguments):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.large
@pytest.mark.parametrize("by", ["decode_image", "decode_with_pillow"])
def test_decoding_takes_no_more_than_the_stated_bytes_a_pixel(by):
    for kind, found in run(by).items():
        assert found["pixels"] > 0.99 * LEAST
        # The result alone has 3 bytes per pixel.
        assert 3 <= found["grown"] / found["pixels"] <= BYTES_PER_PIXEL, kind


@pytest.mark.large
def test_a_folder_is_decoded_within_the_bound_of_the_cores(tmp_path):
    found = run("folder", tmp_path)
    assert found["images"] == 8
    at_a_time = min(os.cpu_count(), 8)
    assert 3 <= found["grown"] / found["pixels"] <= BYTES_PER_PIXEL * at_a_time


@pytest.mark.large
def test_a_folder_of_bombs_is_refused_without_memory(tmp_path):
    found = run("bombs", tmp_path)
    assert found["error"].count("is above the limit of 33,554,432 pixels; make it smaller") == 1
    assert found["grown"] < 50 * 2**20
