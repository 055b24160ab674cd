"""Tokens of a data set, kept on disk so that stage 2 need not run the tokenizer at each step.

A cache is a folder of `header.json` and TFRecord files. One file holds images of one split and
one pass, at most `SHARD_IMAGES`; a record is a `tf.train.Example` with the int64 features `token`
[N] and `label` [1]. Passes are the same images in the same order, each with another augmentation.

The whole cache is read into memory, 2 bytes a token up to 65,536 codes: ImageNet in 32 x 32 tokens
takes 2.6 GB a pass, the built-in images in 8 x 8 half a megabyte.
"""

import contextlib
import json
import os

import numpy as np
import tensorflow as tf
from etils import epath

from vim_tf import fingerprints, formats
from vim_tf.config import checks
from vim_tf.data import hashing
from vim_tf.errors import UserError
from vim_tf.files import is_in_bucket, measure_file
from vim_tf.messages import show

HEADER_FILE = "header.json"
ADVICE = "delete the folder to make it again, or give another tokenizer.cache"
SHARD_IMAGES = 65_536
# What the maker says: of which tokenizer, images and options.
_GIVEN = {"tokenizer_hash", "images", "options", "grid", "codes", "class_names"}
_SPLITS = {"train", "validation"}
_COUNT = {"type": "integer", "minimum": 1}
_TEXT = {"type": "string"}
_SHARD = formats.json_object(
    file={"type": "string", "pattern": r"^[a-z]+-\d+-\d{5}\.tfrecord$"},
    pictures=_COUNT,
    bytes=_COUNT,
    sha256=_TEXT,
)
_PASSES = {
    "type": "array",
    "items": {"type": "array", "items": _SHARD, "minItems": 1},
    "minItems": 1,
}
HEADER_SCHEMA = formats.json_object(
    tokenizer_hash=_TEXT,
    images=fingerprints.SCHEMA,
    options={"type": "object"},
    grid={"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2},
    codes={**_COUNT, "maximum": checks.MOST_CODES},
    class_names={"type": "array", "items": _TEXT},
    shards=formats.json_object(train=_PASSES, validation=_PASSES),
)
_READ_BATCH = 4_096


# Writing ----------------------------------------------------------------------------------------


def write_token_cache(folder, splits, header, tables=None):
    """Writes a cache; until the last file is whole, nothing stands at `folder`.

    Args:
        folder: must not exist, or be empty.
        splits: {"train": passes, "validation": passes}. Passes are a list of iterables, one a pass,
            of (tokens [B,N] int, labels [B] int); B may change from batch to batch. All passes of a
            split hold the same images in the same order; validation usually has one pass.
        header: dict that JSON can hold: `tokenizer_hash`, `images` (the fingerprint of the images),
            `options` (of what else the tokens depend on), `grid` (rows, columns), `codes`, and
            `class_names`, empty without labels.
        tables: {config key: `FileTable`} of the images' files, kept beside; None for no files.

    Raises:
        UserError: the folder is taken or cannot be written, or a split has no images.
        ValueError: tokens, labels, passes or header that do not fit together.
    """
    if set(header) != _GIVEN:
        raise ValueError(f"header has the keys {sorted(header)}; it needs {sorted(_GIVEN)}")
    if set(splits) != _SPLITS:
        raise ValueError(f"splits has the keys {sorted(splits)}; it needs {sorted(_SPLITS)}")
    folder = epath.Path(folder)
    if _is_taken(folder):
        raise UserError(f"{folder} exists already; delete it, or choose another tokenizer.cache")
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    if is_in_bucket(folder):  # no folder can be renamed there; the header, written last, decides
        partial = folder
    with _writing(folder):
        partial.rmtree(missing_ok=True)
        partial.mkdir(parents=True)
    try:
        shards = {
            split: [
                _write_pass(partial, f"{split}-{number:02d}", batches, header)
                for number, batches in enumerate(passes)
            ]
            for split, passes in splits.items()
        }
        for split, passes in shards.items():
            counts = [sum(shard["pictures"] for shard in one) for one in passes]
            if not counts or counts[0] == 0:
                raise UserError(f"the {split} split has no images; nothing to put into {folder}")
            if len(set(counts)) > 1:
                raise ValueError(f"the passes of {split} have {counts} images; all need the same")
        with _writing(folder):
            fingerprints.save(partial, tables or {})
            text = formats.to_json("token cache", {**header, "shards": shards})
            (partial / HEADER_FILE).write_text(text)
            if partial != folder:
                os.rename(partial, folder)
    except BaseException:
        partial.rmtree(missing_ok=True)
        raise


def _is_taken(folder):
    if is_in_bucket(folder):
        return (folder / HEADER_FILE).exists()
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


@contextlib.contextmanager
def _writing(path):
    """Turns a full or read-only disk into a UserError."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "message", None) or error
        raise UserError(
            f"the token cache {path} cannot be written ({reason}); "
            "make room there, or choose another tokenizer.cache"
        ) from None


def _write_pass(folder, stem, batches, header):
    """Writes one pass as shards; returns [{"file": name, "images": count}]."""
    shards = []
    with contextlib.ExitStack() as writers:
        for tokens, labels in batches:
            tokens, labels = np.asarray(tokens), np.asarray(labels)
            problem = _find_problem(tokens, labels, header)
            if problem:
                raise ValueError(f"batch for {stem}: {problem}")
            for row, label in zip(tokens, labels, strict=True):
                if not shards or shards[-1]["pictures"] == SHARD_IMAGES:
                    shards.append({"file": f"{stem}-{len(shards):05d}.tfrecord", "pictures": 0})
                    path = folder / shards[-1]["file"]
                    with _writing(path):
                        writers.close()  # the shard before
                        writer = writers.enter_context(tf.io.TFRecordWriter(str(path)))
                with _writing(path):
                    writer.write(_encode(row, label))
                shards[-1]["pictures"] += 1
        with _writing(folder):
            writers.close()
    for shard in shards:
        shard["bytes"], shard["sha256"] = measure_file(folder / shard["file"])
    return shards


def _encode(tokens, label):
    features = {"token": tokens, "label": [label]}
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                name: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
                for name, values in features.items()
            }
        )
    ).SerializeToString(deterministic=True)  # the same hash each time


def _find_problem(tokens, labels, header):
    """Returns what is wrong with tokens [B,N] and labels [B], or None."""
    length = header["grid"][0] * header["grid"][1]
    if tokens.ndim != 2 or tokens.shape[1] != length or labels.shape != tokens.shape[:1]:
        return (
            f"tokens have the shape {tokens.shape} and labels {labels.shape}; "
            f"the grid {list(header['grid'])} needs [B, {length}] and [B]"
        )
    for name, values, size in (
        ("token", tokens, header["codes"]),
        ("label", labels, max(len(header["class_names"]), 1)),  # 0 stands for "no label"
    ):
        wrong = values[(values < 0) | (values >= size)]
        if wrong.size:
            return f"{name} {wrong.flat[0]} is out of range; it must be from 0 to {size - 1}"
    return None


# Reading ----------------------------------------------------------------------------------------


class TokenCache:
    """A cache in memory; `open` makes one.

    Attributes:
        header: the dict that `write_token_cache` was given, `format` and `shards` beside it.
        tokens: {split: [passes, M, N]} NumPy, uint16 or int32.
        labels: {split: [M]} NumPy int32.
    """

    def __init__(self, header, tokens, labels):
        self.header = header
        self.tokens = tokens
        self.labels = labels

    @classmethod
    def open(cls, folder, tokenizer_hash, options=None, data=None):
        """Reads a cache and checks it.

        Args:
            folder: where `write_token_cache` put it.
            tokenizer_hash: the hash of the tokenizer in use.
            options: what the header's `options` must be; None does not check.
            data: the `ImageData` in use, which must be the header's `images`; None does not check.

        Raises:
            UserError: no cache there, another tokenizer's or other images', or a damaged file.
        """
        folder = epath.Path(folder)
        header = _read_header(folder)
        if header["tokenizer_hash"] != tokenizer_hash:
            raise UserError(
                f"{folder} was made by the tokenizer {header['tokenizer_hash'][:16]}, but the one "
                f"in use is {tokenizer_hash[:16]}: their tokens mean different things; {ADVICE}"
            )
        options = header["options"] if options is None else json.loads(json.dumps(options))
        for key in sorted({*options, *header["options"]}):
            then, now = (show(some.get(key)) for some in (header["options"], options))
            if then != now:
                raise UserError(
                    f"{folder} was made with {key} {then}, and now it is {now}; {ADVICE}"
                )
        if data is not None:
            found = data.difference(header["images"], fingerprints.load(folder))
            if found is not None:
                raise fingerprints.made_from_other_images(folder, found, ADVICE)
        tokens, labels = {}, {}
        for split, passes in header["shards"].items():
            parts = [_read_pass(folder, shards, header) for shards in passes]
            labels[split] = parts[0][1]
            if not all(np.array_equal(part[1], labels[split]) for part in parts):
                raise UserError(f"{folder}: the passes of {split} differ in their labels; {ADVICE}")
            tokens[split] = np.stack([part[0] for part in parts])  # [passes,M,N]
        return cls(header, tokens, labels)

    @property
    def grid(self):
        """Rows and columns of tokens."""
        return tuple(self.header["grid"])

    @property
    def codes(self):
        """Number of codes K of the tokenizer."""
        return self.header["codes"]

    @property
    def class_names(self):
        """Name of each label; empty without labels."""
        return tuple(self.header["class_names"])

    @property
    def train_size(self):
        """Number of training images M."""
        return len(self.labels["train"])

    def train(self, seed, batch_size, start_step=0, worker=0, workers=1):
        """Returns endless training batches, shuffled in another order each epoch.

        Position p of the endless sequence belongs to epoch p // M, in which each image comes
        once; batch `step` holds the positions from step * B on, so `train(seed, B, k)` equals
        `train(seed, B)` without its first k batches. In `passes` epochs each image comes once
        from each pass, beginning with any.

        Args:
            seed: any integer.
            batch_size: images B of a batch, over all replicas.
            start_step: the step whose batch comes first.
            worker: which contiguous share of each batch's rows.
            workers: number of shares, all of one size.

        Returns:
            tf.data.Dataset of {"token": [B/workers,N] int32, "label": [B/workers] int32}.
        """
        share = batch_size // workers
        passes, size, length = self.tokens["train"].shape
        tokens = tf.constant(self.tokens["train"].reshape(-1, length))  # [passes * M, N]
        labels = tf.constant(self.labels["train"])

        def make(step):
            first_row = step * batch_size + worker * share
            position = first_row + tf.range(share, dtype=tf.int64)
            epoch = position // size
            image = hashing.shuffle_index(position % size, size, seed, epoch)
            first = hashing.draw_uniform(1, seed, image)[:, 0] * passes  # each image's own
            taken = (tf.cast(first, tf.int64) + epoch) % passes
            return {
                "token": tf.cast(tf.gather(tokens, taken * size + image), tf.int32),
                "label": tf.gather(labels, image),
            }

        steps = tf.data.Dataset.counter(start_step)
        return steps.map(make, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def evaluation(self, batch_size, split="validation"):
        """Returns every image of a split once, in stored order, from its first pass.

        Args:
            batch_size: images a batch; the last batch may be smaller.
            split: "validation" or "train".

        Returns:
            tf.data.Dataset of batches as in `train`.
        """
        images = tf.data.Dataset.from_tensor_slices((self.tokens[split][0], self.labels[split]))
        return images.batch(batch_size).map(
            lambda token, label: {"token": tf.cast(token, tf.int32), "label": label}
        )

    def statistics(self, split="train"):
        """Counts what is in a split, over all its passes.

        Returns:
            dict of `images`, `passes`, `tokens`, `used_codes`, `usage` (their share of K),
            `perplexity` (the exponential of the entropy of tokens, from 1 to K), and
            `images_per_label`, a list; [images] without labels.
        """
        tokens = self.tokens[split]
        counts = np.bincount(tokens.ravel(), minlength=self.codes)
        share = counts[counts > 0] / tokens.size
        labels = np.bincount(self.labels[split], minlength=len(self.class_names))
        return {
            "images": tokens.shape[1],
            "passes": tokens.shape[0],
            "tokens": tokens.size,
            "used_codes": len(share),
            "usage": len(share) / self.codes,
            "perplexity": float(np.exp(-np.sum(share * np.log(share)))),
            "images_per_label": labels.tolist(),
        }


def _read_header(folder):
    path = folder / HEADER_FILE
    try:
        header = formats.read_json(path, "token cache", ADVICE, HEADER_SCHEMA)
    except OSError:
        raise UserError(
            f"{path} cannot be read, so there is no token cache; "
            "make one with python -m vim_tf.tokenize_dataset"
        ) from None
    checks.tokens(*header["grid"], f"{path}: grid")
    return header


def _read_pass(folder, shards, header):
    """Reads the shards of one pass: (tokens [M,N] uint16 or int32, labels [M] int32)."""
    parts = [_read_shard(folder / shard["file"], shard, header) for shard in shards]
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def _read_shard(path, shard, header):
    length, images = header["grid"][0] * header["grid"][1], shard["pictures"]
    if not path.exists():
        raise UserError(f"{path} is missing; {ADVICE}")
    if measure_file(path) != (shard["bytes"], shard["sha256"]):
        raise UserError(f"{path} is damaged: it does not have the hash in {HEADER_FILE}; {ADVICE}")
    if length * images > shard["bytes"]:  # a token takes a byte or more
        raise UserError(f"{path} is too small for its {images:,} images; {ADVICE}")
    features = {
        "token": tf.io.FixedLenFeature([length], tf.int64),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    records = tf.data.TFRecordDataset(str(path)).batch(_READ_BATCH)
    tokens, labels = [], []
    try:
        for batch in records.map(lambda record: tf.io.parse_example(record, features)):
            parsed = batch["token"].numpy(), batch["label"].numpy()
            problem = _find_problem(*parsed, header)
            if problem:
                raise UserError(f"{path} is damaged: {problem}; {ADVICE}")
            tokens.append(parsed[0].astype("uint16" if header["codes"] <= 65_536 else "int32"))
            labels.append(parsed[1].astype("int32"))
    except tf.errors.OpError as error:
        reason = error.message.split("[[")[0].strip().splitlines()[0]
        raise UserError(f"{path} is damaged or missing: {reason}; {ADVICE}") from None
    read = sum(map(len, labels))
    if read != images:
        raise UserError(f"{path} holds {read} of its {images} images; {ADVICE}")
    return np.concatenate(tokens), np.concatenate(labels)
