import hashlib
import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from vim_tf.data import transforms
from vim_tf.data.images import make_image_dataset
from vim_tf.data.transforms import to_uint8
from vim_tf.errors import UserError
from vim_tf.evaluation.image_sources import RunImages, Samples, hash_images, open_images
from vim_tf.generation.image_generator import ImageGenerator


def make_images(count=5, height=12, width=16):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), "uint8")


@pytest.fixture
def folder(tmp_path):
    """Five PNG images in two sub-folders, in the order of `images()`."""
    for i, image in enumerate(make_images()):
        (tmp_path / "set" / "ab"[i > 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "set" / "ab"[i > 2] / f"{i}.png")
    return tmp_path / "set"


def all_of(source, batch_size=2):
    return np.concatenate(list(source.batches(batch_size)))


def test_a_folder_in_the_order_of_its_paths(folder):
    source = open_images(folder, "images")
    assert source.count == 5
    assert [len(batch) for batch in source.batches(2)] == [2, 2, 1]
    np.testing.assert_array_equal(all_of(source), make_images())
    assert source.description == {
        "kind": "folder", "path": str(folder), "size": [12, 16], "crop": "none"
    }  # fmt: skip


def test_images_are_turned_and_put_on_white(folder):
    turn = Image.Exif()
    turn[0x0112] = 6  # must be turned clockwise by 90 degrees
    image = make_images(1, 16, 12)[0]
    Image.fromarray(image).save(folder / "a" / "0.png", exif=turn)
    clear = np.zeros((12, 16, 4), "uint8")
    Image.fromarray(clear).save(folder / "a" / "1.png")
    found = all_of(open_images(folder, "images"))
    np.testing.assert_array_equal(found[0], np.rot90(image, -1))
    assert (found[1] == 255).all()


def test_mixed_sizes_need_a_crop(folder):
    Image.fromarray(make_images(1, 20, 10)[0]).save(folder / "b" / "4.png")
    with pytest.raises(UserError, match=r"a/0.png is 12 x 16 and b/4.png is 20 x 10; give im"):
        open_images(folder, "images")
    source = open_images(folder, "images", image_size=(6, 8))
    expected = to_uint8(transforms.transform_for_evaluation(tf.constant(make_images()[:4]), (6, 8)))
    np.testing.assert_array_equal(all_of(source)[:4], expected)
    assert source.description["crop"] == "shorter side resized, centre"


def test_non_images_and_damaged_ones_are_named(folder):
    whole = (folder / "a" / "1.png").read_bytes()
    (folder / "a" / "1.png").write_bytes(whole[:-60])
    with pytest.raises(UserError, match="reference: .*1.png cannot be decoded"):
        all_of(open_images(folder, "reference"))
    (folder / "a" / "0.png").write_text("text")
    with pytest.raises(UserError, match="reference: .*/a/0.png cannot be read: it is no image"):
        open_images(folder, "reference")


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="images is .*, and no images are in it"):
        open_images(tmp_path, "images")
    with pytest.raises(UserError, match="images is .*/x, which does not exist"):
        open_images(tmp_path / "x", "images")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_read_in_pieces(tmp_path, save, monkeypatch):
    save(tmp_path / "x.npz", make_images())
    # Neither format lets NumPy load the whole array.
    monkeypatch.setattr(np, "load", None)
    source = open_images(tmp_path / "x.npz", "images")
    assert source.count == 5
    assert [len(batch) for batch in source.batches(3)] == [3, 2]
    np.testing.assert_array_equal(all_of(source), make_images())
    np.testing.assert_array_equal(all_of(source), make_images())  # and again from the start


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": make_images()}, "holds images; an .npz with arr_0"),
        ({"arr_0": make_images() / 255}, r"arr_0 is float64 \[5, 12, 16, 3\]"),
        ({"arr_0": make_images()[..., 0]}, r"arr_0 is uint8 \[5, 12, 16\]"),
        ({"arr_0": make_images().transpose(0, 3, 1, 2)}, r"arr_0 is uint8 \[5, 3, 12, 16\]"),
        ({"arr_0": make_images()[:0]}, r"arr_0 is uint8 \[0, 12"),
        ({"arr_0": np.asfortranarray(make_images())}, "arr_0 is not in C order"),
    ],
)
def test_an_npz_of_another_format(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=message):
        open_images(tmp_path / "x.npz", "images")


def test_a_damaged_npz(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, make_images())
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    with pytest.raises(UserError, match="is no .npz that can be read"):
        open_images(path, "images")
    path.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    with pytest.raises(UserError, match="can be read .*CRC"):
        all_of(open_images(path, "images"))


def test_the_first_n(folder, tmp_path):
    np.savez(tmp_path / "x.npz", make_images())
    for path in (folder, tmp_path / "x.npz"):
        np.testing.assert_array_equal(
            all_of(open_images(path, "images", limit=3)), make_images()[:3]
        )
        with pytest.raises(UserError, match="n is 6, but images .* holds 5 images"):
            open_images(path, "images", limit=6)


def test_the_same_images_have_the_same_hash(folder, tmp_path):
    np.savez(tmp_path / "x.npz", make_images())
    found = set()
    for path, batch_size in itertools.product((folder, tmp_path / "x.npz"), (1, 3)):
        digest = hashlib.sha256()
        for images in open_images(path, "images").batches(batch_size):
            hash_images(digest, images)
        found.add(digest.hexdigest())
    expected = hashlib.sha256()
    for image in make_images():
        expected.update((12).to_bytes(8, "little") + (16).to_bytes(8, "little") + image.tobytes())
    assert found == {expected.hexdigest()}


# Runs ---------------------------------------------------------------------------------------------


def test_the_images_of_a_run(tiny):
    experiment = tiny("vit_vqgan")
    data = make_image_dataset(experiment.data, 0)
    expected = np.concatenate([batch["image"] for batch in data.evaluation()])
    source = RunImages(data)
    assert source.count == len(expected) == 10
    np.testing.assert_array_equal(all_of(source, 3), np.rint((expected + 1) * 127.5))
    source = RunImages(data, "train", limit=5)
    train = np.concatenate([batch["image"] for batch in data.evaluation("train")])
    np.testing.assert_array_equal(np.concatenate(list(source.float_batches(4))), train[:5])
    with pytest.raises(UserError, match="n is 25, but the run's train data hold 24 images"):
        RunImages(data, "train", limit=25)


@pytest.fixture(scope="module")
def generator(tiny_runs):
    return ImageGenerator.load(tiny_runs["vim"])


def test_samples_are_those_of_the_generator(generator):
    settings = {"temperature": 0.9, "top_k": 5, "top_p": 0.9, "guidance_scale": 2.0}
    source = Samples(generator, 5, "balanced", 7, settings)
    expected = generator.generate([0, 1, 0, 1, 0], seed=7, **settings)
    np.testing.assert_array_equal(all_of(source, 3), expected)
    assert source.description["label_mode"] == "balanced"
    unconditional = Samples(generator, 3, "unconditional", 7)
    np.testing.assert_array_equal(all_of(unconditional), generator.generate(n=3, seed=7))


def test_classes_are_balanced(generator):
    labels = Samples(generator, 101).labels
    assert np.bincount(labels).tolist() == [51, 50]


def test_label_modes_that_cannot_be(generator):
    without = ImageGenerator(generator.vim, generator.tokenizer, ())
    assert Samples(without, 3).description["label_mode"] == "unconditional"
    with pytest.raises(UserError, match="label_mode is balanced, but the run was trained witho"):
        Samples(without, 3, "balanced")
    with pytest.raises(UserError, match="label_mode is random; allowed are balanced, uncond"):
        Samples(generator, 3, "random")
    with pytest.raises(UserError, match="seed is 4294967296; it must be from"):
        next(Samples(generator, 3, seed=2**32).batches(2))
