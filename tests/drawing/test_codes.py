"""Patches of codes, compared with a plain loop over all patches."""

import types

import keras
import numpy as np
import pytest

from vim_tf.config.sections import DataConfig, QuantizerConfig, TransformerConfig, ViTVQGANConfig
from vim_tf.data.images import make_image_dataset
from vim_tf.data.transforms import to_uint8
from vim_tf.drawing import codes as code_views
from vim_tf.drawing.codes import EXAMPLES, OUTSIDE, CodePatches, fade_around
from vim_tf.models.vit_vqgan import ViTVQGAN

CODES, SIZE, GRID = 7, 2, (3, 4)


def make_images(n=9, codes=CODES - 1):
    """Random images and tokens. No token has the last code."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (n, 6, 8, 3), "uint8")  # below OUTSIDE
    return images, rng.integers(codes, size=(n, 12)).astype("int32")


def gather(images, tokens, splits, seed=0):
    patches = CodePatches(CODES, SIZE, GRID, seed)
    for some in zip(np.split(images, splits), np.split(tokens, splits), strict=True):
        patches.add(*some)
    return patches


@pytest.mark.parametrize("splits", [[], [1, 5]])
def test_counts_and_means_are_those_of_a_plain_loop(splits):
    images, tokens = make_images()
    patches = gather(images, tokens, splits)
    lists = [[] for _ in range(CODES)]
    for image, row in zip(images, tokens, strict=True):
        for place, code in enumerate(row):
            top, left = 2 * (place // 4), 2 * (place % 4)
            lists[code].append(image[top : top + 2, left : left + 2].astype("float64"))
    assert patches.counts.tolist() == [len(found) for found in lists]
    used = [2, 0, 5]
    expected = [sum(lists[code]) / len(lists[code]) for code in used]
    np.testing.assert_allclose(patches.means(used), expected, rtol=1e-14)
    np.testing.assert_array_equal(patches.examples, gather(images, tokens, [4]).examples)


@pytest.mark.parametrize("n", [2, 9])
def test_examples_are_patches_of_the_code_in_different_images(n):
    images, tokens = make_images(n)
    tokens[:, 5:] = 1  # several patches in one image
    patches = gather(images, tokens, [1])
    border = ((0, 0), (SIZE, SIZE), (SIZE, SIZE), (0, 0))
    padded = np.pad(images, border, constant_values=OUTSIDE)
    for code in range(CODES):
        having = np.flatnonzero((tokens == code).any(axis=1))
        assert patches.images[code] == len(having)
        filled = min(EXAMPLES, len(having))
        sources = []
        for example in patches.examples[code, :filled]:
            found = [
                (i, row * 4 + column)
                for i in having
                for row in range(3)
                for column in range(4)
                if np.array_equal(
                    padded[i, 2 * row : 2 * row + 6, 2 * column : 2 * column + 6], example
                )
            ]
            ((i, place),) = found
            assert tokens[i, place] == code
            sources.append(i)
        assert len(set(sources)) == filled
        assert np.all(patches.examples[code, filled:] == OUTSIDE)


def test_every_image_of_a_code_is_equally_likely_an_example():
    pixels, repeats = 20, 500
    images = np.arange(pixels, dtype="uint8")[:, None, None, None] + np.zeros(
        (pixels, 2, 2, 3), "uint8"
    )
    hits = np.zeros(pixels)
    for seed in range(repeats):
        patches = CodePatches(1, 2, (1, 1), seed)
        patches.add(images, np.zeros((pixels, 1), "int32"))
        hits[patches.examples[0, :, 2, 2, 0]] += 1
    expected = repeats * EXAMPLES / pixels  # 100, standard deviation 9
    assert hits.sum() == repeats * EXAMPLES
    assert np.all(np.abs(hits - expected) < 40)


def test_every_patch_of_an_image_is_equally_likely_its_example():
    image = np.arange(4, dtype="uint8").reshape(1, 2, 2, 1).repeat(3, axis=3)
    hits = np.zeros(4)
    for seed in range(400):
        patches = CodePatches(1, 1, (2, 2), seed)
        patches.add(image, np.zeros((1, 4), "int32"))
        hits[patches.examples[0, 0, 1, 1, 0]] += 1
    assert np.all(np.abs(hits - 100) < 40)


def test_the_seed_decides_about_examples():
    images, tokens = make_images()
    first, same, other = (gather(images, tokens, [4], seed).examples for seed in (-1, -1, 2))
    np.testing.assert_array_equal(first, same)
    assert np.any(first != other)


def test_the_middle_of_a_window_is_not_faded():
    windows = np.random.default_rng(0).integers(0, 200, (2, 5, 6, 6, 3), "uint8")
    faded = fade_around(windows, 2)
    middle = np.s_[:, :, 2:4, 2:4]
    np.testing.assert_array_equal(faded[middle], windows[middle])
    paler = faded > windows
    paler[middle] = True
    assert np.all(paler)


# The view ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tiny_images):
    transformer = TransformerConfig(blocks=1, heads=2, dim=16, mlp_dim=24)
    quantizer = QuantizerConfig(codes=16, code_dim=4, initial_scale=1.0)
    config = ViTVQGANConfig(4, transformer, transformer, quantizer=quantizer)
    data = DataConfig(
        source="folder", path=f"{tiny_images}/train", image_size=(16, 16), batch_size=8,
        validation_path=f"{tiny_images}/validation",
    )  # fmt: skip
    keras.utils.set_random_seed(2)  # with some other weights, fewer than four codes are used
    return types.SimpleNamespace(
        tokenizer=ViTVQGAN(config, (16, 16)), data=make_image_dataset(data, seed=0)
    )


@pytest.mark.parametrize("split", ["validation", "train"])
def test_the_most_used_codes_come_first(run, monkeypatch, split):
    drawn = {}

    def note_grid(strips, captions, columns):
        drawn.update(strips=strips, captions=captions)
        return strips[0]

    def note_title(image, lines):
        drawn["lines"] = lines
        return image

    monkeypatch.setattr(code_views.grids, "captioned_grid", note_grid)
    monkeypatch.setattr(code_views.grids, "with_title", note_title)
    monkeypatch.setattr(code_views, "SHOWN", 3)
    code_views.view_codes(run, split, seed=0, batch_size=4)
    images = np.concatenate([batch["image"] for batch in run.data.evaluation(split)])
    tokens = np.asarray(run.tokenizer.tokenize(images))
    counts = np.bincount(tokens.ravel(), minlength=16)
    most = np.sort(counts)[::-1][:3]
    assert np.sum(counts > 0) > 3
    for caption, count in zip(drawn["captions"], most, strict=True):
        code, share = caption.split(": ")
        assert counts[int(code)] == count
        assert share == f"{count / tokens.size:.2%}"
    assert f"3 of {np.sum(counts > 0)} codes" in drawn["lines"][0]
    assert f"{tokens.size} patches of {split} images" in drawn["lines"][0]
    # The first square of a strip is the mean patch. 12 pixels are drawn as 36.
    first = int(drawn["captions"][0].split(":")[0])
    patches = to_uint8(images).reshape(-1, 4, 4, 4, 4, 3).swapaxes(2, 3).reshape(-1, 4, 4, 3)
    mean = patches[tokens.ravel() == first].mean(axis=0).round()
    gap = 3 * code_views.grids.GAP
    np.testing.assert_array_equal(
        drawn["strips"][0, gap : gap + 36, gap : gap + 36][::9, ::9], mean
    )
