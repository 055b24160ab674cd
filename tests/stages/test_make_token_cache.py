import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf.data.images import make_image_dataset
from vim_tf.data.token_cache import HEADER_FILE
from vim_tf.errors import UserError
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.stages.make_token_cache import open_or_make_cache


@pytest.fixture(scope="module")
def data(tiny):
    return make_image_dataset(tiny("vim").data, seed=5)


@pytest.fixture(scope="module")
def tokenizer(tiny):
    keras.utils.set_random_seed(0)
    return ViTVQGAN(tiny("vit_vqgan").model, (16, 16))


@pytest.fixture(scope="module")
def folder(tokenizer, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "tokens"
    open_or_make_cache(folder, tokenizer, data, passes=2)
    return folder


def gather(dataset, key):
    return np.concatenate([batch[key] for batch in dataset])


def test_the_cache_holds_each_pass_as_the_tokenizer_sees_it(folder, tokenizer, data, monkeypatch):
    made = (folder / HEADER_FILE).stat().st_mtime_ns
    monkeypatch.setattr(tokenizer, "tokenize", None)  # opening does not tokenize
    cache = open_or_make_cache(folder, tokenizer, data, passes=2)
    monkeypatch.undo()
    assert (folder / HEADER_FILE).stat().st_mtime_ns == made
    assert cache.tokens["train"].shape == (2, 24, 16)
    assert cache.tokens["validation"].shape == (1, 10, 16)
    assert np.any(cache.tokens["train"][0] != cache.tokens["train"][1])
    passes = {
        ("train", 0): data.augmented_pass(0),
        ("train", 1): data.augmented_pass(1),
        ("validation", 0): data.evaluation(),
    }
    tokenize = tf.function(tokenizer.tokenize)
    for (split, number), dataset in passes.items():
        tokens = np.concatenate([tokenize(batch["image"]) for batch in dataset])
        np.testing.assert_array_equal(cache.tokens[split][number], tokens)
        np.testing.assert_array_equal(cache.labels[split], gather(dataset, "label"))
    assert cache.class_names == ("blue", "red")
    assert cache.grid == (4, 4)


def test_replicas_share_the_images(folder, tokenizer, data, tmp_path, two_replicas):
    alone = open_or_make_cache(folder, tokenizer, data, passes=2)
    with two_replicas.scope():
        same = ViTVQGAN.from_config(tokenizer.get_config())
        same.set_weights(tokenizer.get_weights())
        shared = open_or_make_cache(tmp_path / "shared", same, data, passes=2)
    assert shared.header == alone.header
    for split in ("train", "validation"):
        np.testing.assert_array_equal(shared.tokens[split], alone.tokens[split])


def test_another_tokenizers_cache_is_refused(folder, tokenizer, data):
    other = ViTVQGAN.from_config(tokenizer.get_config())
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(UserError, match="has the tokens .*, and the tokenizer in use") as caught:
        open_or_make_cache(folder, other, data, passes=2)
    assert other.token_hash()[:16] in str(caught.value)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_cache_of_other_images_is_refused(folder, tokenizer, tiny):
    for override, seed, passes in (
        ("data.augmentation.flip=false", 5, 2),
        ("seed=0", 6, 2),
        ("seed=0", 5, 3),
    ):
        data = make_image_dataset(tiny("vim", override).data, seed)
        with pytest.raises(UserError, match="was made with .*, and now it is"):
            open_or_make_cache(folder, tokenizer, data, passes)


def test_the_batch_size_does_not_matter(folder, tokenizer, tiny):
    data = make_image_dataset(tiny("vim", "data.batch_size=3").data, seed=5)
    assert open_or_make_cache(folder, tokenizer, data, passes=2).train_size == 24
