"""Tokens of a data set on disk, so that stage 2 does not run the tokenizer at each step.

A cache is a folder of `header.json` and TFRecord files. One file has at most 65,536 images of one
split and one pass; a record is a `tf.train.Example` with the int64 features `token` [N] and
`label` [1]. Passes are the same images in the same order, each with another augmentation.

The whole cache is read into memory, 2 bytes per token up to 65,536 codes: ImageNet in 32 x 32
tokens takes 2.6 GB per pass, the built-in images in 8 x 8 half a megabyte.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeAlias

import numpy as np
import tensorflow as tf
from etils import epath

from vim_tf import fingerprints, formats
from vim_tf.annotations import StrPath, Tensor
from vim_tf.config import checks
from vim_tf.data import hashing
from vim_tf.data.images import ImageData
from vim_tf.errors import UserError
from vim_tf.files import measure_file
from vim_tf.messages import shorten, show

HEADER_FILE = "header.json"
ADVICE = "delete the folder to make it again, or give another tokenizer.cache"
_COUNT = {"type": "integer", "minimum": 1}
_TEXT = {"type": "string"}
_FILE = {"type": "string", "pattern": r"^[a-z]+-\d+-\d{5}\.tfrecord$"}
_SHARD = formats.json_object(file=_FILE, pictures=_COUNT, bytes=_COUNT, sha256=_TEXT)
_PASS = {"type": "array", "items": _SHARD, "minItems": 1}
_PASSES = {"type": "array", "items": _PASS, "minItems": 1}
HEADER_SCHEMA = formats.json_object(
    token_hash=_TEXT,
    decoder_hash=_TEXT,
    images=fingerprints.SCHEMA,
    options={"type": "object"},
    grid={"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2},
    codes={**_COUNT, "maximum": checks.MOST_CODES},
    class_names={"type": "array", "items": _TEXT},
    shards=formats.json_object(train=_PASSES, validation=_PASSES),
)
_READ_BATCH = 4_096

_Arrays: TypeAlias = dict[str, np.ndarray]
_Json: TypeAlias = dict[str, Any]
_Pair: TypeAlias = tuple[np.ndarray, np.ndarray]  # tokens, labels


def find_problem(tokens: np.ndarray, labels: np.ndarray, header: Mapping[str, Any]) -> str | None:
    """Returns the error in tokens [B,N] or labels [B], in words, or None."""
    length = header["grid"][0] * header["grid"][1]
    if tokens.ndim != 2 or tokens.shape[1] != length or labels.shape != tokens.shape[:1]:
        return (
            f"tokens have the shape {tokens.shape} and labels {labels.shape}; "
            f"the grid {list(header['grid'])} needs [B, {length}] and [B]"
        )
    for name, values, size in (
        ("token", tokens, header["codes"]),
        ("label", labels, max(len(header["class_names"]), 1)),  # 0 means "no label"
    ):
        wrong = values[(values < 0) | (values >= size)]
        if wrong.size:
            return f"{name} {wrong.flat[0]} is out of range; it must be from 0 to {size - 1}"
    return None


class TokenCache:
    """A cache in memory; `open` reads one.

    Attributes:
        header: the dict that `token_cache_writer.write_token_cache` was given, and `shards`.
        tokens: {split: [passes, M, N]} NumPy, uint16 or int32.
        labels: {split: [M]} NumPy int32.
    """

    def __init__(self, header: dict[str, Any], tokens: _Arrays, labels: _Arrays) -> None:
        self.header = header
        self.tokens = tokens
        self.labels = labels

    @classmethod
    def open(
        cls,
        folder: StrPath,
        token_hash: str,
        options: Mapping[str, Any] | None = None,
        data: ImageData | None = None,
    ) -> Self:
        """Reads a cache and checks it.

        Args:
            folder: the one that `token_cache_writer.write_token_cache` wrote.
            token_hash: `ViTVQGAN.token_hash` of the tokenizer in use.
            options: must be equal to the header's `options`; None does not check.
            data: the `ImageData` in use; must be the header's `images`; None does not check.

        Raises:
            UserError: no cache, one of another tokenizer or other images, or a damaged file.
        """
        folder = epath.Path(folder)
        header = _read_header(folder)
        if header["token_hash"] != token_hash:
            raise UserError(
                f"{folder} has the tokens {shorten(header['token_hash'][:16])}, and the tokenizer "
                f"in use makes {token_hash[:16]}: they mean different things; "
                f"{ADVICE}"
            )
        wanted = header["options"] if options is None else json.loads(json.dumps(options))
        for key in sorted({*wanted, *header["options"]}):
            then, now = (show(some.get(key)) for some in (header["options"], wanted))
            if then != now:
                raise UserError(
                    f"{folder} was made with {shorten(key)} {then}, and now it is {now}; {ADVICE}"
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
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.header["grid"][0], self.header["grid"][1]

    @property
    def codes(self) -> int:
        """Number of codes K of the tokenizer."""
        return self.header["codes"]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label; empty without labels."""
        return tuple(self.header["class_names"])

    @property
    def train_size(self) -> int:
        """Number of training images M."""
        return len(self.labels["train"])

    def train(
        self, seed: int, batch_size: int, start: int = 0, worker: int = 0, workers: int = 1
    ) -> tf.data.Dataset:
        """Returns endless training batches, shuffled in another order each epoch.

        Position p of the endless sequence belongs to epoch p // M, which has each image once.
        The batches have B positions each, so `train(seed, B, k * B)` equals `train(seed, B)`
        without its first k batches. In `passes` epochs each image is used once from each pass,
        starting with a random pass.

        Args:
            seed: any integer.
            batch_size: images B of a batch, over all replicas.
            start: position of the first image, from 0.
            worker: index of the contiguous share of each batch's rows.
            workers: number of shares, all of the same size.

        Returns:
            tf.data.Dataset of {"token": [B/workers,N] int32, "label": [B/workers] int32}.
        """
        share = batch_size // workers
        passes, size, length = self.tokens["train"].shape
        tokens = tf.constant(self.tokens["train"].reshape(-1, length))  # [passes * M, N]
        labels = tf.constant(self.labels["train"])

        def make(batch: Tensor) -> dict[str, Tensor]:
            first_row = start + batch * batch_size + worker * share
            position = first_row + tf.range(share, dtype=tf.int64)
            epoch = position // size
            image = hashing.shuffle_index(position % size, size, seed, epoch)
            first = hashing.draw_uniform(1, seed, image)[:, 0] * passes  # where each image starts
            taken = (tf.cast(first, tf.int64) + epoch) % passes
            return {
                "token": tf.cast(tf.gather(tokens, taken * size + image), tf.int32),
                "label": tf.gather(labels, image),
            }

        return tf.data.Dataset.counter().map(make, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def evaluation(self, batch_size: int, split: str = "validation") -> tf.data.Dataset:
        """Returns every image of a split once, in stored order, from its first pass.

        Args:
            batch_size: images per batch; the last batch may be smaller.
            split: "validation" or "train".

        Returns:
            tf.data.Dataset of batches as in `train`.
        """
        images = tf.data.Dataset.from_tensor_slices((self.tokens[split][0], self.labels[split]))
        return images.batch(batch_size).map(
            lambda token, label: {"token": tf.cast(token, tf.int32), "label": label}
        )

    def statistics(self, split: str = "train") -> dict[str, Any]:
        """Returns statistics of a split, over all its passes.

        Returns:
            dict of `images`, `passes`, `tokens`, `used_codes`, `usage` (their share of K),
            `perplexity` (the exponential of the entropy of tokens, from 1 to K), and
            `images_per_label`, a list; [number of images] without labels.
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


def _read_header(folder: epath.Path) -> _Json:
    path = folder / HEADER_FILE
    try:
        header = formats.read_json(path, "token cache", ADVICE, HEADER_SCHEMA)
    except OSError:
        raise UserError(
            f"{path} cannot be read, so there is no token cache; "
            "make one with python -m vim_tf.tokenize_dataset"
        ) from None
    checks.tokens(header["grid"][0], header["grid"][1], f"{path}: grid")
    return header


def _read_pass(folder: epath.Path, shards: Sequence[_Json], header: _Json) -> _Pair:
    """Reads the shards of one pass: (tokens [M,N] uint16 or int32, labels [M] int32)."""
    parts = [_read_shard(folder / shard["file"], shard, header) for shard in shards]
    tokens, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return tokens, labels


def _read_shard(path: epath.Path, shard: _Json, header: _Json) -> _Pair:
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
            problem = find_problem(*parsed, header)
            if problem:
                raise UserError(f"{path} is damaged: {problem}; {ADVICE}")
            tokens.append(parsed[0].astype("uint16" if header["codes"] <= 65_536 else "int32"))
            labels.append(parsed[1].astype("int32"))
    except UnicodeDecodeError:  # TensorFlow's message quotes bytes of the record
        raise UserError(f"{path} is damaged: a record cannot be parsed; {ADVICE}") from None
    except tf.errors.OpError as error:
        reason = error.message.split("[[")[0].strip().splitlines()[0]
        raise UserError(f"{path} is damaged or missing: {reason}; {ADVICE}") from None
    read = sum(map(len, labels))
    if read != images:
        raise UserError(f"{path} holds {read} of its {images} images; {ADVICE}")
    return np.concatenate(tokens), np.concatenate(labels)
