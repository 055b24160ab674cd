"""Refused token caches: of other tokenizers, of other images, of strangers, and damaged ones."""

import numpy as np
import pytest
import tensorflow as tf

from vim_tf import formats
from vim_tf.data import token_cache_writer
from vim_tf.data.token_cache import TokenCache
from vim_tf.data.token_cache_writer import write_token_cache
from vim_tf.errors import UserError
from vim_tf.files import hash_file
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


def test_refuses_the_tokens_of_another_tokenizer(tmp_path):
    write(tmp_path / "cache")
    with pytest.raises(UserError, match=f"{'a' * 16}.*{'b' * 16}.*delete the folder") as caught:
        TokenCache.open(tmp_path / "cache", "b" * 64)
    assert "\n" not in str(caught.value)


def test_control_codes_of_a_header_do_not_reach_the_terminal(tmp_path):
    write(tmp_path / "cache")
    seal(tmp_path / "cache", lambda content: content.update(token_hash="\x1b[31m"))
    with pytest.raises(UserError, match=r"has the tokens \\x1b\[31m, and") as caught:
        TokenCache.open(tmp_path / "cache", HASH)
    assert str(caught.value).isprintable()
    seal(tmp_path / "cache", lambda content: content.update(token_hash=HASH))
    seal(tmp_path / "cache", lambda content: content["options"].update({"\x1b": 1}))
    with pytest.raises(UserError, match=r"was made with \\x1b 1, and now it is null") as caught:
        TokenCache.open(tmp_path / "cache", HASH, make_header()["options"])
    assert str(caught.value).isprintable()


def test_refuses_other_options(tmp_path):
    write(tmp_path / "cache")
    options = make_header()["options"]  # it contains a tuple
    TokenCache.open(tmp_path / "cache", HASH, options)
    with pytest.raises(UserError, match=r"with image_size \[16, 24\], and now it is \[32, 24\]"):
        TokenCache.open(tmp_path / "cache", HASH, {**options, "image_size": (32, 24)})
    with pytest.raises(UserError, match=r"with passes null, and now it is 2"):
        TokenCache.open(tmp_path / "cache", HASH, {**options, "passes": 2})


def test_refuses_other_images(tmp_path):
    class Data:
        difference = staticmethod(lambda then, kept: "3 classes then, 4 now" if then else None)

    write(tmp_path / "cache")
    with pytest.raises(UserError, match="cache was made from other images: 3 classes then, 4 now"):
        TokenCache.open(tmp_path / "cache", HASH, data=Data())


def test_refuses_a_folder_without_a_cache(tmp_path):
    with pytest.raises(UserError, match="no token cache; make one with python -m"):
        TokenCache.open(tmp_path, HASH)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 1}', '{"format": 2}'])
def test_refuses_a_damaged_header(tmp_path, text):
    write(tmp_path / "cache")
    (tmp_path / "cache" / "header.json").write_text(text)
    with pytest.raises(UserError, match="header.json (is damaged|has the format|has no format)"):
        TokenCache.open(tmp_path / "cache", HASH)


def test_refuses_a_folder_in_place_of_a_file(tmp_path):
    write(tmp_path / "cache")
    for name in ("train-00-00000.tfrecord", "header.json"):
        path = tmp_path / "cache" / name
        path.unlink()
        path.mkdir()
        with pytest.raises(UserError, match=f"{name} is no regular file"):
            TokenCache.open(tmp_path / "cache", HASH)


def seal(folder, change):
    """Changes the header and updates its checksum, as a stranger would."""
    content = formats.read_json(folder / "header.json", "token cache", "")
    change(content)
    (folder / "header.json").write_text(formats.to_json("token cache", content))


def seal_shard(folder, path):
    """Writes the current hash of a shard into the header."""

    def change(content):
        for passes in content["shards"].values():
            for shard in (shard for shards in passes for shard in shards):
                if shard["file"] == path.name:
                    shard["bytes"], shard["sha256"] = path.stat().st_size, hash_file(path)

    seal(folder, change)


@pytest.mark.parametrize(
    "changes",
    [
        {"grid": [10**9, 10**9]},
        {"grid": [256, 256]},
        {"grid": [2.5, 3]},
        {"grid": "23"},
        {"codes": 10**13},
        {"codes": "50"},
        {"codes": None},
        {"class_names": [1, 2, 3]},
        {"shards": {}},
        {"shards": {"train": [[{"file": "/etc/passwd"}]]}},
        {"options": 3},
        {"images": {}},
    ],
)
def test_a_header_of_a_stranger_allocates_nothing(tmp_path, changes):
    """The checksum is right, but the header has sizes or types that are never written."""
    write(tmp_path / "cache")
    seal(tmp_path / "cache", lambda content: content.update(changes))
    with pytest.raises(UserError, match="is damaged|too small|tokens") as caught:
        TokenCache.open(tmp_path / "cache", HASH)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_header_without_a_split_is_refused(tmp_path, split):
    write(tmp_path / "cache")
    seal(tmp_path / "cache", lambda content: content["shards"].pop(split))
    with pytest.raises(UserError, match=f"is damaged: .*'{split}' is a required property"):
        TokenCache.open(tmp_path / "cache", HASH)


def test_passes_of_different_sizes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache_writer, "SHARD_IMAGES", 3)
    write(tmp_path / "cache")
    seal(tmp_path / "cache", lambda content: content["shards"]["train"][1].pop())
    with pytest.raises(UserError, match="the passes of train differ in their labels"):
        TokenCache.open(tmp_path / "cache", HASH)


def cut_in_a_record(path, _):
    path.write_bytes(path.read_bytes()[:-5])


def cut_between_records(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records[:-1]:
            writer.write(record)


def flip_a_bit(path, _):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def replace_by_text(path, _):
    path.write_text("no records here, but more than a few bytes of something else")


def rewrite(path, records, feature, values):
    example = tf.train.Example.FromString(records[0])
    del example.features.feature[feature].int64_list.value[:]
    example.features.feature[feature].int64_list.value.extend(values)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in [example.SerializeToString(), *records[1:]]:
            writer.write(record)


def put_a_code_that_is_none(path, records):
    rewrite(path, records, "token", [0, 1, 2, 3, 4, CODES])


def put_a_label_that_is_none(path, records):
    rewrite(path, records, "label", [3])


def put_too_few_tokens(path, records):
    rewrite(path, records, "token", [1, 2, 3])


def put_bytes_that_are_no_example(path, records):
    """TensorFlow's message quotes them, and they are no text."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in [b"\x0a\xff\xb8" * 20, *records[1:]]:
            writer.write(record)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut_in_a_record, "truncated"),
        (cut_between_records, "holds 9 of its 10 images"),
        (flip_a_bit, "corrupted"),
        (replace_by_text, "corrupted"),
        (put_a_code_that_is_none, "token 50 is out of range"),
        (put_a_label_that_is_none, "label 3 is out of range"),
        (put_too_few_tokens, "token"),
        (put_bytes_that_are_no_example, "a record cannot be parsed"),
    ],
)
def test_names_a_damaged_shard(tmp_path, damage, reason):
    write(tmp_path / "cache")
    path = tmp_path / "cache" / "train-01-00000.tfrecord"
    damage(path, [record.numpy() for record in tf.data.TFRecordDataset(str(path))])
    with pytest.raises(UserError, match=f"{path.name} is damaged: .* hash in header.json; delete"):
        TokenCache.open(tmp_path / "cache", HASH)
    seal_shard(tmp_path / "cache", path)  # as a stranger would
    with pytest.raises(UserError, match=f"{path.name}.*{reason}.*delete") as caught:
        TokenCache.open(tmp_path / "cache", HASH)
    assert "\n" not in str(caught.value)


def test_names_a_missing_shard(tmp_path):
    write(tmp_path / "cache")
    (tmp_path / "cache" / "train-01-00000.tfrecord").unlink()
    with pytest.raises(UserError, match="train-01-00000.tfrecord is missing; delete"):
        TokenCache.open(tmp_path / "cache", HASH)


def test_refuses_passes_of_different_images(tmp_path):
    write(tmp_path / "cache")
    folder = tmp_path / "cache"
    path = folder / "train-01-00000.tfrecord"
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    label = tf.train.Example.FromString(records[0]).features.feature["label"].int64_list.value[0]
    rewrite(path, records, "label", [(label + 1) % 3])
    seal_shard(folder, path)
    with pytest.raises(UserError, match="differ in their labels"):
        TokenCache.open(folder, HASH)


@pytest.mark.parametrize(
    ("train", "error", "message"),
    [
        ([[(np.full((2, 6), CODES), np.zeros(2, int))]], ValueError, "token 50 is out"),
        ([[(np.full((2, 6), -1), np.zeros(2, int))]], ValueError, "token -1 is out"),
        ([[(np.zeros((2, 6), int), np.full(2, 3))]], ValueError, "label 3 is out"),
        ([[(np.zeros((2, 5), int), np.zeros(2, int))]], ValueError, r"needs \[B, 6\]"),
        ([[(np.zeros((2, 6), int), np.zeros(3, int))]], ValueError, r"labels \(3,\)"),
        ([[]], UserError, "train split has no images"),
        (
            [[(np.zeros((size, 6), int), np.zeros(size, int))] for size in (2, 3)],
            ValueError,
            r"train have \[2, 3\] images",
        ),
    ],
)
def test_writes_nothing_that_cannot_be_right(tmp_path, train, error, message):
    with pytest.raises(error, match=message):
        write_token_cache(tmp_path / "cache", {"train": train, "validation": []}, make_header())
    assert list(tmp_path.iterdir()) == []


def test_header_must_be_complete(tmp_path):
    header = make_header()
    del header["grid"]
    with pytest.raises(ValueError, match="header has the keys"):
        write_token_cache(tmp_path / "cache", {}, header)
    with pytest.raises(ValueError, match="splits has the keys"):
        write_token_cache(tmp_path / "cache", {"train": []}, make_header())
