import numpy as np
import pytest
import tensorflow as tf

import vim_tf
from vim_tf.data.transforms import to_uint8
from vim_tf.errors import UserError
from vim_tf.generation.image_generator import ImageGenerator
from vim_tf.generation.labels import quote_label
from vim_tf.sampling.sample import row_seeds

LABELS = [0, 1, 1, 0, 1, 0, 0]


@pytest.fixture(scope="module")
def generator(tiny_runs):
    return ImageGenerator.load(tiny_runs["vim"])


@pytest.fixture(scope="module")
def images(generator):
    return generator.generate(LABELS, seed=3)


def assert_same_images(actual, expected):
    """Asserts equal images; pixels may round differently, as XLA may order sums differently."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1)
    assert np.mean(actual == expected) > 0.99


def test_images_are_decoded_tokens(generator, images):
    assert images.shape == (7, 16, 16, 3)
    assert images.dtype == np.uint8
    seeds = np.asarray(row_seeds(3, 7))
    tokens = generator.vim.generate(np.int32(LABELS), seed=seeds)
    decoded = np.asarray(generator.tokenizer.decode_tokens(tokens))
    assert_same_images(images, np.round((decoded + 1) * 127.5).clip(0, 255))
    assert len(np.unique(images.reshape(7, -1), axis=0)) > 1


@pytest.mark.parametrize("batch_size", [3, 100])
def test_an_image_does_not_depend_on_its_batch(generator, images, batch_size):
    calls = []
    again = generator.generate(
        LABELS, seed=3, batch_size=batch_size, callback=lambda *done: calls.append(done)
    )
    assert_same_images(again, images)
    expected = [(3, 7), (6, 7), (7, 7)] if batch_size == 3 else [(7, 7)]
    assert calls == expected


def test_another_seed_gives_other_images(generator, images):
    assert np.any(generator.generate(LABELS, seed=4) != images)


def test_without_labels_n_says_how_many(generator):
    tokens = generator.vim.generate(n=2, seed=np.asarray(row_seeds(1, 2)))
    assert_same_images(
        generator.generate(n=2, seed=1), to_uint8(generator.tokenizer.decode_tokens(tokens))
    )


@pytest.mark.parametrize(
    ("labels", "n", "expected"),
    [
        (1, 3, [1, 1, 1]),
        ("red", 2, [1, 1]),
        ("red", None, [1]),
        (["red", "blue"], None, [1, 0]),
        (np.array([1, 0, 1]), 3, [1, 0, 1]),
        (tf.constant([1, 0, 1]), np.int64(3), [1, 0, 1]),
        (np.array(["red", "blue"]), None, [1, 0]),
        (np.int8(1), 2, [1, 1]),
        (np.str_("red"), 1, [1]),
        (("1", "red", 0), None, [1, 1, 0]),
        ([1, 0], None, [1, 0]),
    ],
)
def test_labels_are_one_or_a_list(generator, labels, n, expected):
    found = list(generator.generate_tokens(labels, n, seed=2))
    np.testing.assert_array_equal(found[0], generator.vim.generate(expected, seed=2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": [0], "n": 5}, "^there are 1 labels and n is 5; give as many as n$"),
        ({"labels": []}, "^labels is empty; give one or more, or None$"),
        ({"labels": [0, 1.5]}, "label 1.5 is none of the model's classes"),
        ({"labels": [0, None]}, "label None is none of the model's classes"),
        ({"labels": 2}, "^label 2 is none of the model's classes: 0 blue, 1 red$"),
        ({"labels": ["cats"]}, "^label cats is none of the model's classes: 0 blue, 1 red$"),
        ({"labels": [1, True]}, "^label True is none of the model's classes"),
        (
            {"labels": [[0, 1]]},
            r"^labels hold \[0, 1\]; give one label, or a list of one for each i",
        ),
        ({"labels": np.int32([[0], [1]])}, r"^labels hold \[0\]; give one label, or a list"),
        ({"labels": b"red"}, "^label b'red' is none of the model's classes"),
        ({"labels": {"red": 1}}, "^label {'red': 1} is none of the model's classes"),
        ({"labels": float("nan")}, "^label nan is none of the model's classes"),
        ({"n": 0}, "^n is 0; it must be 1 or more$"),
        ({"n": 2.5}, "^n is 2.5; it must be an integer$"),
        ({"n": True}, "^n is True; it must be an integer$"),
        ({"n": "2"}, "^n is '2'; it must be an integer$"),
        ({"n": [2]}, r"^n is \[2\]; it must be an integer$"),
        ({"batch_size": 2.0}, "^batch_size is 2.0; it must be an integer$"),
        ({"seed": True}, "^seed is True; it must be an integer$"),
        ({"seed": None}, "^seed is None; it must be an integer$"),
        ({"temperature": float("nan")}, "^temperature is nan; it must be at least 0$"),
        ({"batch_size": 0}, "^batch_size is 0; it must be 1 or more$"),
        ({"seed": 1.5}, "^seed is 1.5; it must be an integer$"),
        ({"seed": 2**32}, f"^seed is {2**32}; it must be from {-(2**31)} to {2**32 - 1}$"),
    ],
)
def test_bad_settings_are_refused(generator, given, message):
    with pytest.raises(UserError, match=message):
        generator.generate(**given)


def test_without_anything_one_image_comes(generator):
    assert generator.generate().shape == (1, 16, 16, 3)


def test_a_last_batch_that_is_smaller_compiles_nothing(tiny_runs, monkeypatch):
    """Each number of rows is traced once. 20, 21 and 22 images are made in batches of 8."""
    generator, traced = ImageGenerator.load(tiny_runs["vim"]), []
    for model, name in ((generator.vim, "sample_tokens"), (generator.tokenizer, "decode_tokens")):
        original = getattr(model, name)

        def note(rows, *others, original=original, name=name, **options):
            traced.append((name, rows.shape[0]))
            return original(rows, *others, **options)

        monkeypatch.setattr(model, name, note)
    whole = generator.generate([0, 1] * 11, batch_size=8)
    for n in (20, 21):
        found = generator.generate(([0, 1] * 11)[:n], batch_size=8)
        np.testing.assert_array_equal(found, whole[:n])
    assert sorted(traced) == [("decode_tokens", 8), ("sample_tokens", 8)]


def test_labels_go_by_number_or_by_name(generator):
    assert generator.class_names == ("blue", "red")
    assert [generator.label_number(label) for label in ("red", "0", "1", "blue")] == [1, 0, 1, 0]


@pytest.mark.parametrize("label", ["2", "-1", "green", "", "1.5"])
def test_unknown_labels_are_refused(generator, label):
    with pytest.raises(UserError, match="none of the model's classes: 0 blue, 1 red") as caught:
        generator.label_number(label)
    assert f"label {quote_label(label)} " in str(caught.value)


def test_without_classes_there_are_no_labels(generator):
    plain = ImageGenerator(generator.vim, generator.tokenizer, ())
    with pytest.raises(UserError, match="trained without labels"):
        plain.label_number("0")


def test_many_classes_are_listed_in_part():
    names = tuple(f"class {i}" for i in range(1000))
    with pytest.raises(UserError, match=r"19 class 19 \.\.\.$"):
        ImageGenerator(None, None, names).label_number("1000")


def test_a_saved_generator_gives_the_same(generator, images, tmp_path):
    generator.save(tmp_path / "preset", {"steps": 6})
    again = ImageGenerator.load(tmp_path / "preset")
    assert again.class_names == ("blue", "red")
    assert again.vim.metadata["steps"] == 6
    np.testing.assert_array_equal(again.generate(LABELS, seed=3), images)
    # Without names, as in a preset from VIM.save_to_preset alone, classes have numbers.
    generator.vim.save_to_preset(tmp_path / "preset")
    assert ImageGenerator.load(tmp_path / "preset").class_names == ("0", "1")


def test_a_tokenizer_generates_nothing(tiny_runs):
    with pytest.raises(UserError, match="holds a ViTVQGAN, which generates nothing"):
        ImageGenerator.load(tiny_runs["vit_vqgan"])


def test_uint8():
    values = np.float32([-1, -0.999, 0, 0.5, 1, 1.2, -1.3])
    np.testing.assert_array_equal(to_uint8(values), [0, 0, 128, 191, 255, 255, 0])


def test_it_is_a_public_name():
    assert vim_tf.ImageGenerator is ImageGenerator
