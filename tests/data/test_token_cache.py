import json

import numpy as np
import pytest
import tensorflow as tf

from vim_tf.data import token_cache_writer
from vim_tf.data.token_cache import TokenCache
from vim_tf.data.token_cache_writer import write_token_cache
from vim_tf.errors import UserError
from vim_tf.fingerprints import fingerprint

GRID, CODES, NAMES = (2, 3), 50, ("cat", "dog", "owl")
HASH = "a" * 64


def make_header(**changes):
    header = {
        "token_hash": HASH,
        "decoder_hash": HASH,
        "images": fingerprint(NAMES, 10, 5, {}),
        "options": {"source": "emoji", "image_size": (16, 24)},
        "grid": GRID,
        "codes": CODES,
        "class_names": NAMES,
    }
    return {**header, **changes}


def make_split(images, passes, seed=0):
    random = np.random.default_rng(seed)
    tokens = random.integers(CODES, size=(passes, images, 6)).astype("int32")
    return tokens, random.integers(len(NAMES), size=images).astype("int32")


def batches(tokens, labels, size=4):
    for start in range(0, len(labels), size):
        yield tokens[start : start + size], labels[start : start + size]


def write(folder, images=10, passes=2, **header):
    tokens, labels = make_split(images, passes)
    held_out = make_split(5, 1, seed=1)
    splits = {
        "train": [batches(one, labels) for one in tokens],
        "validation": [batches(held_out[0][0], held_out[1])],
    }
    write_token_cache(folder, splits, make_header(**header))
    return tokens, labels, held_out


def take(dataset, count):
    return [{name: value.numpy() for name, value in batch.items()} for batch in dataset.take(count)]


def unroll(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in ("token", "label")}


@pytest.mark.parametrize("codes", [CODES, 65_536, 65_537])
def test_reads_what_was_written(tmp_path, codes, monkeypatch):
    monkeypatch.setattr(
        token_cache_writer, "SHARD_IMAGES", 3
    )  # batches of 4 cross the ends of shards
    tokens, labels, held_out = write(tmp_path / "cache", codes=codes)
    cache = TokenCache.open(tmp_path / "cache", HASH)
    np.testing.assert_array_equal(cache.tokens["train"], tokens)
    np.testing.assert_array_equal(cache.labels["train"], labels)
    np.testing.assert_array_equal(cache.tokens["validation"], held_out[0])
    np.testing.assert_array_equal(cache.labels["validation"], held_out[1])
    assert cache.tokens["train"].dtype == ("uint16" if codes <= 65_536 else "int32")
    assert (cache.grid, cache.codes, cache.class_names) == (GRID, codes, NAMES)
    assert cache.train_size == 10
    assert len(list((tmp_path / "cache").glob("train-01-*.tfrecord"))) == 4


def test_records_are_plain_examples(tmp_path):
    tokens, labels, _ = write(tmp_path / "cache")
    records = tf.data.TFRecordDataset(str(tmp_path / "cache" / "train-01-00000.tfrecord"))
    example = tf.train.Example.FromString(next(iter(records)).numpy())
    assert list(example.features.feature["token"].int64_list.value) == tokens[1][0].tolist()
    assert list(example.features.feature["label"].int64_list.value) == [labels[0]]


def test_evaluation_gives_each_image_once_in_order(tmp_path):
    tokens, labels, held_out = write(tmp_path / "cache")
    cache = TokenCache.open(tmp_path / "cache", HASH)
    parts = take(cache.evaluation(2), -1)
    assert [len(part["label"]) for part in parts] == [2, 2, 1]
    assert parts[0]["token"].dtype == parts[0]["label"].dtype == np.int32
    np.testing.assert_array_equal(unroll(parts)["token"], held_out[0][0])
    np.testing.assert_array_equal(unroll(parts)["label"], held_out[1])
    train = unroll(take(cache.evaluation(4, "train"), -1))
    np.testing.assert_array_equal(train["token"], tokens[0])
    np.testing.assert_array_equal(train["label"], labels)


def find(tokens, row):
    """Finds the (pass, image) of a row of tokens."""
    ((one, image),) = np.argwhere(np.all(tokens == row, axis=-1))
    return int(one), int(image)


def test_each_image_comes_once_an_epoch_and_once_a_pass(tmp_path):
    tokens, labels, _ = write(tmp_path / "cache", images=10, passes=3)
    cache = TokenCache.open(tmp_path / "cache", HASH)
    # 4 does not divide 10: batches cross the ends of epochs.
    drawn = unroll(take(cache.train(seed=5, batch_size=4), 15))
    places = [find(tokens, row) for row in drawn["token"]]
    epochs = [places[start : start + 10] for start in range(0, 60, 10)]
    for epoch in epochs:
        assert sorted(image for _, image in epoch) == list(range(10))
    for three in (epochs[:3], epochs[3:]):
        seen = [place for epoch in three for place in epoch]
        assert sorted(seen) == [(one, image) for one in range(3) for image in range(10)]
    assert len({one for one, _ in epochs[0]}) > 1  # an epoch mixes the passes
    orders = {tuple(image for _, image in epoch) for epoch in epochs}
    assert len(orders) == 6 and tuple(range(10)) not in orders
    np.testing.assert_array_equal(drawn["label"], labels[[image for _, image in places]])
    assert drawn["token"].dtype == drawn["label"].dtype == np.int32


def test_resumes_from_its_step_alone(tmp_path):
    write(tmp_path / "cache")
    whole = take(TokenCache.open(tmp_path / "cache", HASH).train(7, 4), 12)
    rest = take(TokenCache.open(tmp_path / "cache", HASH).train(7, 4, start=20), 7)
    for expected, batch in zip(whole[5:], rest, strict=True):
        np.testing.assert_array_equal(batch["token"], expected["token"])
        np.testing.assert_array_equal(batch["label"], expected["label"])


def test_order_depends_on_the_seed_and_not_on_the_batch_size(tmp_path):
    write(tmp_path / "cache")
    cache = TokenCache.open(tmp_path / "cache", HASH)
    by_4 = unroll(take(cache.train(1, 4), 5))["token"]
    by_5 = unroll(take(cache.train(1, 5), 4))["token"]
    np.testing.assert_array_equal(by_4, by_5)
    assert np.any(by_4 != unroll(take(cache.train(2, 4), 5))["token"])


def test_workers_make_contiguous_shares_of_each_batch(tmp_path):
    write(tmp_path / "cache")
    cache = TokenCache.open(tmp_path / "cache", HASH)
    whole = unroll(take(cache.train(1, 6, start=12), 5))
    shares = [take(cache.train(1, 6, 12, worker, 3), 5) for worker in range(3)]
    dealt = unroll([share[step] for step in range(5) for share in shares])
    for name, rows in whole.items():
        np.testing.assert_array_equal(dealt[name], rows)


def test_statistics_match_numpy(tmp_path):
    tokens, labels, _ = write(tmp_path / "cache")
    statistics = TokenCache.open(tmp_path / "cache", HASH).statistics()
    share = np.array([np.mean(tokens == code) for code in range(CODES)])
    used = share[share > 0]
    assert (statistics["images"], statistics["passes"]) == (10, 2)
    assert statistics["tokens"] == 120
    assert statistics["used_codes"] == len(used) < CODES
    assert statistics["usage"] == len(used) / CODES
    assert statistics["perplexity"] == pytest.approx(np.prod(used**-used))
    assert statistics["images_per_label"] == [int(np.sum(labels == i)) for i in range(3)]


def test_unlabelled_images(tmp_path):
    tokens = np.zeros((4, 6), "int32")
    passes = [[(tokens, np.zeros(4, "int32"))]]
    splits = {"train": passes, "validation": passes}
    write_token_cache(tmp_path / "cache", splits, make_header(class_names=()))
    cache = TokenCache.open(tmp_path / "cache", HASH)
    assert cache.class_names == ()
    assert cache.statistics()["images_per_label"] == [4]


# Half-written caches and bad disks --------------------------------------------------------------


def test_a_crash_leaves_no_cache(tmp_path):
    tokens, labels = make_split(10, 1)

    def crash():
        yield tokens[0], labels
        assert [path.name for path in tmp_path.iterdir()] != ["cache"]
        raise RuntimeError("the machine burns")

    with pytest.raises(RuntimeError, match="burns"):
        write_token_cache(tmp_path / "cache", {"train": [crash()], "validation": []}, make_header())
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "cache")  # and the next attempt works
    assert TokenCache.open(tmp_path / "cache", HASH).train_size == 10


def test_until_it_is_whole_nothing_stands_there(tmp_path):
    tokens, labels = make_split(10, 1)

    def look():
        for batch in batches(tokens[0], labels):
            yield batch
            with pytest.raises(UserError, match="no token cache"):
                TokenCache.open(tmp_path / "cache", HASH)

    splits = {"train": [look()], "validation": [look()]}
    write_token_cache(tmp_path / "cache", splits, make_header())
    assert TokenCache.open(tmp_path / "cache", HASH).train_size == 10


def test_overwrites_nothing(tmp_path):
    write(tmp_path / "cache")
    before = (tmp_path / "cache" / "header.json").read_bytes()
    with pytest.raises(UserError, match="exists already; delete it"):
        write(tmp_path / "cache", token_hash="b" * 64)
    assert (tmp_path / "cache" / "header.json").read_bytes() == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        write(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert json.loads((tmp_path / "empty" / "header.json").read_text())["codes"] == CODES


def test_a_place_where_no_folder_can_be_made(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"cannot be written \(Not a directory\)"):
        write(tmp_path / "file" / "cache")


def test_a_full_disk(tmp_path, monkeypatch):
    # Linux' device that is always full. Records are buffered until the file is closed.
    real = tf.io.TFRecordWriter
    monkeypatch.setattr(token_cache_writer.tf.io, "TFRecordWriter", lambda path: real("/dev/full"))
    with pytest.raises(UserError, match="cannot be written .*make room") as caught:
        write(tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
