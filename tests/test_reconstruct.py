"""`python -m vim_tf.reconstruct` on tiny runs."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import vim_tf
from vim_tf import reconstruct
from vim_tf.drawing import grids
from vim_tf.errors import UserError
from vim_tf.evaluation.image_sources import open_images


@pytest.fixture
def files(tiny_images):
    """The held-out images, in the order of the loader."""
    return sorted((tiny_images / "validation").rglob("*.png"))


@pytest.fixture
def run(tiny_runs, tmp_path, capsys):
    """A function (*arguments) -> (path of the result, the printed lines)."""

    def run(*arguments, out="x.png", stage="vit_vqgan"):
        path = tmp_path / out
        given = ["--run", str(tiny_runs[stage]), "--out", str(path), *map(str, arguments)]
        reconstruct.main(given)
        return path, capsys.readouterr().out.splitlines()

    return run


def test_originals_stand_above_what_the_tokenizer_makes_of_them(run, files, tiny_runs):
    path, lines = run(*files[:3], "--zoom", "2")
    originals = np.stack([np.asarray(Image.open(file)) for file in files[:3]])
    images = originals / 127.5 - 1
    expected = np.asarray(vim_tf.load(tiny_runs["vit_vqgan"])(np.float32(images)))
    rounded = np.round((expected + 1) * 127.5).clip(0, 255).astype("uint8")
    grid = grids.reconstruction_grid(originals, rounded, 8, 2)
    found = np.asarray(Image.open(path)).astype(int)
    assert found.shape == grid.shape
    assert np.abs(found - grid).max() <= 1
    errors = np.mean(np.square((expected - images) / 2), axis=(1, 2, 3))
    psnr = -10 * np.log10(errors)
    for line, file, value in zip(lines, files, psnr, strict=False):
        assert line.startswith(f"{file}: ")
        assert float(line.split()[-2]) == pytest.approx(value, abs=0.01)
    assert lines[3] == f"mean PSNR of 3 images: {psnr.mean():.2f} dB"
    assert lines[4] == str(path)
    assert [one["file"] for one in grids.read_facts(path)["images"]] == list(map(str, files[:3]))


def test_a_folder_has_the_psnr_of_the_evaluation(run, tiny_images, tiny_runs):
    _, lines = run(tiny_images / "validation", stage="vim")
    expected = vim_tf.evaluate_reconstruction(tiny_runs["vit_vqgan"]).figures["PSNR"]
    assert float(re.search(r"of 10 images: (.*) dB", lines[-2])[1]) == pytest.approx(
        expected, abs=0.01
    )


def test_single_images_in_two_folders(run, files):
    path, _ = run(*files[4:6], out="both/")
    names = ["0_4.png", "1_0.png"]
    for kind in ("originals", "reconstructions"):
        assert sorted(file.name for file in (path / kind).iterdir()) == names
        assert open_images(path / kind, "images").count == 2  # `evaluate images` takes them
    for file, name in zip(files[4:6], names, strict=True):
        np.testing.assert_array_equal(Image.open(path / "originals" / name), Image.open(file))
    result = json.loads((path / "reconstruct.json").read_text())
    facts = grids.read_facts(path / "reconstructions" / "1_0.png")
    assert facts["images"] == [result["images"][1]]


def test_photos_are_turned_cropped_and_put_on_white_as_in_training(run, tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 3, 3)).astype("uint8").repeat(20, 0).repeat(20, 1)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", quality=95, exif=exif)
    clear = np.dstack([pixels, np.zeros(pixels.shape[:2], "uint8")])
    Image.fromarray(clear).save(tmp_path / "clear.png")
    path, _ = run(tmp_path / "photo.jpg", tmp_path / "clear.png", out="both")
    photo, white = (np.asarray(Image.open(f)) for f in sorted((path / "originals").iterdir()))
    assert np.all(white == 255)
    turned = Image.fromarray(pixels).rotate(-90, expand=True).crop((0, 10, 40, 50))
    expected = np.asarray(turned.resize((16, 16), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(photo - expected).mean() < 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.png"], "^nowhere.png does not exist; give image files or folders$"),
        (["{images}", "--zoom", "0"], "^--zoom is 0; it must be 1 or more$"),
        (["{images}", "--batch-size", "0"], "^--batch-size is 0"),
        (["{images}", "--zoom", "9999"], "^the grid of 20 images would have .* lower --zoom or"),
        (["{broken}"], r"^IMAGE: .*broken\.png cannot be read: .*; remove it$"),
        (["{empty}"], "^IMAGE is .*empty, and no images are in it"),
    ],
)
def test_mistakes_are_refused(run, tiny_images, tmp_path, arguments, message):
    inputs = tmp_path / "inputs"
    (inputs / "empty").mkdir(parents=True)
    (inputs / "broken.png").write_bytes(b"no image")
    places = {"images": tiny_images / "validation", "broken": inputs / "broken.png"}
    given = [word.format(empty=inputs / "empty", **places) for word in arguments]
    with pytest.raises(UserError, match=message):
        run(*given)
    assert [path.name for path in tmp_path.iterdir()] == ["inputs"]


def test_nothing_is_overwritten_and_a_classifier_is_no_tokenizer(
    run, files, tmp_path, tiny_classifier
):
    with pytest.raises(
        UserError, match="holds a Classifier, which reconstructs nothing; give a run"
    ):
        reconstruct.main(
            ["--run", str(tiny_classifier), str(files[0]), "--out", str(tmp_path / "x.png")]
        )
    shutil.copy(files[0], tmp_path / "x.png")
    with pytest.raises(UserError, match="x.png exists"):
        run(files[0])
    with pytest.raises(UserError, match="x.gif; give a file name that ends in .png, or a folder"):
        run(files[0], out="x.gif")
