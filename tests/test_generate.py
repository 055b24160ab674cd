import json

import keras
import numpy as np
import pytest
from PIL import Image

import vim_tf
from vim_tf import evaluate, generate
from vim_tf.data.transforms import to_uint8
from vim_tf.drawing import grids
from vim_tf.errors import UserError
from vim_tf.generation.image_generator import ImageGenerator


@pytest.fixture
def run(tiny_runs, tmp_path):
    """A function (*arguments) -> the written image."""

    def run(*arguments, name="x.png"):
        out = tmp_path / name
        generate.main(["--run", str(tiny_runs["vim"]), "--out", str(out), *arguments])
        return np.asarray(Image.open(out))

    return run


def cut(image, row, column, zoom):
    side, gap = 16 * zoom, grids.GAP * zoom
    top, left = gap + row * (side + gap), gap + column * (side + gap)
    return image[top : top + side, left : left + side][::zoom, ::zoom]


@pytest.mark.parametrize("given", ["red,0", " 1 , blue"])
def test_classes_come_in_turn(run, tiny_runs, given, capsys):
    pixels = run("--labels", given, "--n", "5", "--seed", "2", "--zoom", "3")
    expected = ImageGenerator.load(tiny_runs["vim"]).generate([1, 0, 1, 0, 1], seed=2)
    for i, image in enumerate(expected):  # 5 images in 3 columns
        np.testing.assert_array_equal(cut(pixels, i // 3, i % 3, 3), image)
    assert "5 images: " in capsys.readouterr().out


def test_a_row_for_each_class(run, tiny_runs):
    pixels = run("--per-class", "3", "--zoom", "2")
    expected = ImageGenerator.load(tiny_runs["vim"]).generate([0, 0, 0, 1, 1, 1])
    margin = pixels.shape[1] - 2 * (3 * (16 + grids.GAP) + grids.GAP)
    for i, image in enumerate(expected):
        np.testing.assert_array_equal(cut(pixels[:, margin:], i // 3, i % 3, 2), image)


def test_another_decoder_makes_images_of_the_same_tokens(run, tiny_runs, tiny_decoder, tmp_path):
    pixels = run("--labels", "red", "--n", "1", "--decoder", str(tiny_decoder), "--zoom", "1")
    own = ImageGenerator.load(tiny_runs["vim"])
    tokens = next(own.generate_tokens(["red"], 1))
    expected = vim_tf.load(tiny_decoder).decode_tokens(tokens)
    np.testing.assert_array_equal(cut(pixels, 0, 0, 1), to_uint8(expected)[0])
    assert (pixels != run("--labels", "red", "--n", "1", "--zoom", "1", name="y.png")).any()
    facts = grids.read_facts(tmp_path / "x.png")
    assert facts["decoder"] == str(tiny_decoder)
    models, others = facts["models"], grids.read_facts(tmp_path / "y.png")["models"]
    assert models == others | {"decoder": vim_tf.load(tiny_decoder).decoder_hash()}
    assert others == own.hashes()
    images = vim_tf.generate_images(tiny_runs["vim"], "red", n=1, decoder=tiny_decoder)
    np.testing.assert_array_equal(
        images, vim_tf.generate_images(own, "red", n=1, decoder=tiny_decoder)
    )
    np.testing.assert_array_equal(images[0], cut(pixels, 0, 0, 1))


@pytest.mark.large
def test_without_labels_and_with_settings(run, tiny_runs):
    given = ["--n", "2", "--temperature", "0.5", "--top-k", "3", "--top-p", "0.9"]
    pixels = run(*given, "--batch-size", "1", "--zoom", "1")
    settings = {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "batch_size": 1}
    expected = ImageGenerator.load(tiny_runs["vim"]).generate(n=2, **settings)
    for i, image in enumerate(expected):
        np.testing.assert_array_equal(cut(pixels, 0, i, 1), image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "2"], "label 2 is none of the model's classes"),
        (["--labels", "blue,green"], "label green is none"),
        (["--n", "0"], "--n is 0"),
        (["--litert", "x.tflite"], "x.tflite is not there; give a generator_"),
        (["--litert", "x", "--strategy", "mirrored"], "--strategy mirrored cannot share it"),
        (["--batch-size", "-1"], "--batch-size is -1"),
        (["--per-class", "0"], "--per-class is 0"),
        (["--zoom", "0"], "--zoom is 0"),
        (
            ["--zoom", "100000"],
            "the grid of 16 images would have 7,400,000 x 7,400,000 pixels; at most 134,217,728 "
            "are drawn; lower --zoom or the number of images, or give a folder as --out",
        ),
        (["--n", str(10**9)], "the grid of 1,000,000,000 images would have"),
        (["--labels", '"blue'], "the double quote after the start is not closed"),
        (["--strategy", "mirrored", "--cpu-replicas", "65"], "--cpu-replicas is 65; at most 64"),
        (["--top-p", "0"], "top_p is 0"),
        (["--top-k", "17"], "top_k is 17"),
        (["--temperature", "-1"], "temperature is -1"),
        (["--guidance-scale", "2"], "guidance needs labels"),
        (["--seed", str(2**40)], "seed"),
    ],
)
def test_wrong_values_are_refused(run, arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run(*arguments)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(run, tmp_path):
    (tmp_path / "x.png").write_text("mine")
    with pytest.raises(UserError, match="x.png exists"):
        run()
    assert (tmp_path / "x.png").read_text() == "mine"


def test_the_file_must_be_a_png_in_a_folder(run):
    with pytest.raises(UserError, match="x.jpg; give a file name that ends in .png, or a folder"):
        run(name="x.jpg")
    with pytest.raises(UserError, match="does not exist; make it"):
        run(name="nowhere/x.png")


def test_a_tokenizers_run_is_refused(tiny_runs, tmp_path):
    with pytest.raises(UserError, match="holds a ViTVQGAN"):
        out = str(tmp_path / "x.png")
        generate.main(["--run", str(tiny_runs["vit_vqgan"]), "--out", out])


# A folder of single images ----------------------------------------------------------------------


@pytest.fixture
def write(tiny_runs, tmp_path):
    """A function (*arguments) -> the folder of single images."""

    def write(*arguments):
        folder = tmp_path / "samples"
        given = ["--run", str(tiny_runs["vim"]), "--out", f"{folder}/", "--seed", "2"]
        generate.main([*given, *arguments])
        return folder

    return write


def test_single_images_with_their_settings(write, tiny_runs):
    folder = write("--labels", "red,blue", "--n", "3", "--top-p", "0.9", "--batch-size", "2")
    settings = json.loads((folder / "samples.json").read_text())
    names = ["0_seed2_label1_red.png", "1_seed2_label0_blue.png", "2_seed2_label1_red.png"]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "samples.json"]
    expected = ImageGenerator.load(tiny_runs["vim"])
    assert settings["run"] == str(tiny_runs["vim"])
    assert settings["models"]["vim"] == expected.vim.model_hash()
    assert (settings["seed"], settings["top_p"], settings["top_k"]) == (2, 0.9, 0)
    assert settings["images"][1] == {"file": names[1], "index": 1, "label": 0, "class": "blue"}
    images = expected.generate([1, 0, 1], seed=2, top_p=0.9)
    for name, image in zip(names, images, strict=True):
        with Image.open(folder / name) as file:
            np.testing.assert_array_equal(np.asarray(file), image)
            assert file.info["Software"] == settings["written_by"]
    facts = grids.read_facts(folder / names[1])
    assert (facts["index"], facts["class"], facts["top_p"]) == (1, "blue", 0.9)


def test_a_grid_has_its_settings_too(run, tmp_path):
    run("--labels", "red", "--n", "2", "--seed", "3")
    facts = grids.read_facts(tmp_path / "x.png")
    assert (facts["seed"], facts["n"], facts["labels"]) == (3, 2, [1, 1])
    assert facts["class_names"] == {"1": "red"}
    Image.new("RGB", (1, 1)).save(tmp_path / "other.png")
    assert grids.read_facts(tmp_path / "other.png") is None


def test_the_folder_can_be_evaluated(write, tiny_runs, tmp_path):
    """`evaluate images` reads it: FID 0 to the same samples in an .npz of the generator."""
    folder = write("--n", "8", "--labels", "red,blue")
    labels = [1, 0] * 4
    same = ImageGenerator.load(tiny_runs["vim"]).generate(labels, seed=2)
    np.savez(tmp_path / "same.npz", same)
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(3, 4, 4), keras.layers.GlobalAveragePooling2D()]
    network = keras.Sequential(
        [keras.Input((16, 16, 3)), *layers, keras.layers.Dense(2, "softmax")]
    )
    network.save(tmp_path / "network.keras")
    given = ["images", "--images", str(folder), "--reference", str(tmp_path / "same.npz")]
    given += ["--extractor", str(tmp_path / "network.keras"), "--metrics", "fid"]
    evaluate.main([*given, "--out", str(tmp_path / "result.json")])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["images"]["count"] == 8
    assert result["figures"]["FID[network]"] == pytest.approx(0, abs=1e-6)


def test_a_folder_that_holds_something_is_refused(write, tmp_path):
    (tmp_path / "samples").mkdir()
    assert (write("--n", "1", "--zoom", "2") / "0_seed2.png").exists()  # an empty one is taken
    with pytest.raises(UserError, match="samples is a folder that is not empty; give a new one"):
        write("--n", "1")
    with pytest.raises(UserError, match=r"--out is .*0_seed2\.png/deeper, but .*png is a file"):
        generate.main(["--run", "x", "--out", str(tmp_path / "samples" / "0_seed2.png" / "deeper")])


def test_a_wrong_setting_leaves_no_folder(write, tmp_path):
    with pytest.raises(UserError, match="top_p is 7"):
        write("--top-p", "7")
    assert not list(tmp_path.iterdir())
