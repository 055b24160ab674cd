"""Attention maps, compared with softmax(Q K^T / sqrt d) computed from the layers' weights."""

import types

import numpy as np
import pytest

from vim_tf.config.sections import (
    DataConfig,
    QuantizerConfig,
    TransformerConfig,
    VIMConfig,
    ViTVQGANConfig,
)
from vim_tf.data.images import make_image_dataset
from vim_tf.data.transforms import to_uint8
from vim_tf.drawing import attention as attention_views
from vim_tf.drawing import grids as drawing_grids
from vim_tf.drawing.attention import maps_of_encoder, maps_of_vim, query_places, shown_blocks
from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN

TRANSFORMER = TransformerConfig(blocks=2, heads=2, dim=16, mlp_dim=24, dropout=0.3)
GRID = (2, 3)
PLACES = np.array([0, 2, 5])


def randomize(model):
    random = np.random.default_rng(1)
    for weight in model.trainable_variables:
        weight.assign(random.normal(size=weight.shape) * 0.5 + ("gamma" in weight.path))
    return model


@pytest.fixture(scope="module")
def tokenizer():
    quantizer = QuantizerConfig(codes=11, code_dim=4)
    return randomize(
        ViTVQGAN(ViTVQGANConfig(4, TRANSFORMER, TRANSFORMER, quantizer=quantizer), (8, 12))
    )


@pytest.fixture(scope="module")
def vim():
    return randomize(VIM(VIMConfig(TRANSFORMER), GRID, codes=11, classes=3))


def numpy_maps(x, transformer, causal):
    """The attention weights of each block for x [N,D], mean over heads: [blocks,N,N]."""
    maps, length = [], len(x)
    for block in transformer.blocks:
        norm = block.attention_norm
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        y = y * norm.gamma.numpy() + norm.beta.numpy()
        query, key, _ = np.split(y @ block.attention.qkv.kernel.numpy(), 3, axis=1)
        heads = []
        for head in (np.s_[:, :8], np.s_[:, 8:]):
            scores = np.exp(query[head] @ key[head].T / np.sqrt(8))
            scores = np.tril(scores) if causal else scores
            heads.append(scores / scores.sum(axis=1, keepdims=True))
        assert heads[0].shape == (length, length)
        maps.append(np.mean(heads, axis=0))
        x = block(x[None].astype("float32"))[0].numpy().astype("float64")
    return np.stack(maps)


@pytest.mark.parametrize("label", [None, 1])
def test_vim_looks_at_the_label_and_the_tokens_before(vim, label):
    tokens = np.random.default_rng(0).integers(11, size=6).astype("int32")
    x = np.zeros((6, 16))
    for slot in range(6):
        before = vim.label_embedding.embeddings[3 if label is None else label].numpy()
        if slot:
            before = vim.token_embedding.embeddings[tokens[slot - 1]].numpy()
        row, column = divmod(slot, 3)
        x[slot] = (
            before + vim.row_embedding.embeddings[row] + vim.column_embedding.embeddings[column]
        )
    expected = numpy_maps(x, vim.transformer, causal=True)
    maps, shares = maps_of_vim(vim, tokens, label, PLACES)
    assert maps.shape == (2, 3, 2, 3) and shares.shape == (2, 3)
    for block in range(2):
        for i, place in enumerate(PLACES):
            weights = expected[block, place]
            assert shares[block, i] == pytest.approx(weights[0], rel=1e-3)
            flat = maps[block, i].ravel()
            # Slot j + 1 holds token j, which is drawn at position j.
            np.testing.assert_allclose(flat[:place], weights[1 : place + 1], rtol=1e-3, atol=1e-6)
            assert np.all(flat[place:] == 0)
    np.testing.assert_allclose(maps.sum(axis=(2, 3)) + shares, 1, rtol=1e-5)


def test_patches_of_the_encoder_look_everywhere(tokenizer):
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), "uint8")
    encoder = tokenizer.encoder
    x = np.zeros((6, 16))
    for place in range(6):
        top, left = 4 * (place // 3), 4 * (place % 3)
        patch = image[top : top + 4, left : left + 4].ravel() / 127.5 - 1
        x[place] = patch @ encoder.embedding.kernel.numpy() + encoder.embedding.bias.numpy()
    x += encoder.positions.table.numpy()
    expected = numpy_maps(x, encoder.transformer, causal=False)
    maps = maps_of_encoder(tokenizer, image, PLACES)
    np.testing.assert_allclose(maps, expected[:, PLACES].reshape(2, 3, 2, 3), rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(maps.sum(axis=(2, 3)), 1, rtol=1e-5)


@pytest.mark.parametrize(("grid", "count"), [((1, 1), 1), ((8, 8), 3), ((32, 16), 3)])
def test_places_lie_in_the_grid(grid, count):
    places = query_places(grid)
    assert len(places) == count
    assert np.all((places >= 0) & (places < grid[0] * grid[1]))


def test_a_place_is_a_row_and_a_column(monkeypatch):
    monkeypatch.setattr(attention_views, "QUERIES", ((0.5, 0.0), (0.0, 0.9)))
    assert query_places((4, 10)).tolist() == [9, 20]


@pytest.mark.parametrize(
    ("count", "shown"), [(1, [0]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (24, [0, 8, 15, 23])]
)
def test_blocks_are_spread_from_the_first_to_the_last(count, shown):
    assert shown_blocks(count).tolist() == shown


# The view ---------------------------------------------------------------------------------------


@pytest.fixture
def make_run(tiny_images, tokenizer, vim):
    def make_run(class_names, with_vim=True):
        config = DataConfig(
            source="folder", path=f"{tiny_images}/train", image_size=(8, 12), batch_size=8,
            validation_path=f"{tiny_images}/validation",
        )  # fmt: skip
        return types.SimpleNamespace(
            tokenizer=tokenizer, vim=vim if with_vim else None, class_names=class_names,
            data=make_image_dataset(config, seed=0),
        )  # fmt: skip

    return make_run


@pytest.mark.parametrize(("class_names", "labels"), [(("blue", "red"), {0, 1}), (("cat",), {None})])
def test_labels_are_given_only_where_the_images_have_the_models(
    make_run, monkeypatch, class_names, labels
):
    given = set()

    def note(vim, tokens, label, places):
        given.add(label)
        return maps_of_vim(vim, tokens, label, places)

    monkeypatch.setattr(attention_views, "maps_of_vim", note)
    attention_views.view_attention(make_run(class_names), "validation")
    assert given == labels


@pytest.mark.parametrize("with_vim", [False, True])
def test_images_stand_above_their_maps(make_run, monkeypatch, with_vim):
    grids = []

    def note(cells, captions, columns):
        grids.append((cells, captions, columns))
        return drawing_grids.image_grid(cells, columns)

    monkeypatch.setattr(attention_views.grids, "captioned_grid", note)
    run = make_run(("blue", "red"), with_vim)
    attention_views.view_attention(run, "train")
    assert len(grids) == 1 + with_vim
    places = query_places(GRID)
    shown = to_uint8(next(iter(run.data.evaluation("train", 24)))["image"])[[0, 6, 12, 18]]
    for cells, captions, columns in grids:
        assert columns == 4 * len(places)
        assert len(cells) == columns * 3  # the images and two blocks
        zoom = cells.shape[1] // 8
        for i, cell in enumerate(cells):
            row, column = divmod(places[i % len(places)], 3)
            side = 4 * zoom
            top, left = row * side, column * side
            framed = np.all(cell == (0, 255, 255), axis=-1)
            expected = np.zeros(framed.shape, bool)
            expected[top : top + side, left : left + side] = True
            expected[top + 2 : top + side - 2, left + 2 : left + side - 2] = False
            np.testing.assert_array_equal(framed, expected)
            if i < columns:
                image = shown[i // len(places)].repeat(zoom, 0).repeat(zoom, 1)
                np.testing.assert_array_equal(cell[~framed], image[~framed])
        assert captions[0] == f"token {places[0] + 1} of 6"
        assert captions[columns].startswith("block 1") and captions[-1].startswith("block 2")
    if with_vim:
        cells, captions, columns = grids[0]
        # A position does not see itself and later ones: there the image is drawn faint.
        zoom = cells.shape[1] // 8
        for j, place in enumerate(places):
            faint = (204 + 0.2 * shown[0]).round().astype("uint8")
            cell = cells[columns + j][zoom // 2 :: zoom, zoom // 2 :: zoom]
            for other in range(6):
                top, left = 4 * (other // 3) + 1, 4 * (other % 3) + 1
                part = np.s_[top : top + 2, left : left + 2]  # within the frame
                assert np.array_equal(cell[part], faint[part]) == (other >= place)
        assert all("label" in caption for caption in captions[columns:])
