"""The features for linear probes, of every block of a VIM: computed once and saved.

<run>/features/<split>-<key>/    the key depends on the weights and on the source of the images
    block_0.npy ...              float16 [M,D], mean over the tokens of a block's output; 0 is the
                                 embeddings
    tokenizer.npy                float16 [M,d], mean over the tokens of the tokenizer's encoder
    pixels.npy                   float16 [M,h*w*c] in [-1,1], the image itself, small
    labels.npy                   int32 [M]
    complete.json                the values that the key depends on; written last
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf

from vim_tf import fingerprints, formats
from vim_tf.annotations import Tensor
from vim_tf.config.checks import MOST_BLOCKS
from vim_tf.data.progress import progress_bar
from vim_tf.distribution.compilation import compiled
from vim_tf.distribution.workers import Workers
from vim_tf.errors import UserError
from vim_tf.files import hash_file, write_atomically
from vim_tf.stages.make_token_cache import describe_options

if TYPE_CHECKING:
    from pathlib import Path

    from vim_tf.runs.trained_run import TrainedRun

COMPLETE_FILE = "complete.json"
ADVICE = "delete its folder to compute the features again"
COMPLETE_SCHEMA = formats.json_object(
    pictures={"type": "integer", "minimum": 0},
    blocks={"type": "integer", "minimum": 0, "maximum": MOST_BLOCKS},
    pixels={"type": "string"},
    files={"type": "object", "additionalProperties": {"type": "string"}},
    models={"type": "object"},
    images=fingerprints.SCHEMA,
    options={"type": "object"},
    split={"type": "string"},
)
BATCH_SIZE = 64
PIXELS_SIDE = 32  # larger images are made smaller for the pixel baseline, to limit its weights


class ProbeFeatures(NamedTuple):
    """Features of one split; the arrays are memmaps of files.

    Attributes:
        arrays: {"block_0": float16 [M,D], ..., "tokenizer": ..., "pixels": ...}.
        labels: int32 [M].
        pixels: a description of the pixels in words.
    """

    arrays: dict[str, np.ndarray]
    labels: np.ndarray
    pixels: str


def open_features(run: TrainedRun, split: str) -> ProbeFeatures:
    """Opens the features of a split of a run's data, or computes them, one pass for all blocks.

    Images are resized and centre-cropped, as in evaluation; VIM gets the null label. The devices
    and workers of the strategy in scope share the images. Each worker must call this function.

    Args:
        run: the `TrainedRun`, of stage 2.
        split: "train" or "validation".

    Returns:
        `ProbeFeatures`.

    Raises:
        UserError: features that are too large for float16.
    """
    run.data.show_reading_contents()
    identity = {
        "models": run.feature_hashes(),
        "images": run.data.fingerprint(),
        "options": describe_options(run.experiment.data),
        "split": split,
    }
    text = json.dumps([formats.NUMBERS["features"], identity], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    folder = run.path / "features" / f"{split}-{key}"
    workers = Workers(tf.distribute.get_strategy())
    if not workers.chiefs((folder / COMPLETE_FILE).exists()):
        _write(run, split, folder, identity, workers)
    complete = _read_complete(folder, identity)
    names = ["tokenizer", "pixels", *(f"block_{i}" for i in range(complete["blocks"] + 1))]
    rows = slice(complete["pictures"])
    arrays = {name: _open_array(folder, name, complete)[rows] for name in names}
    labels = np.array(_open_array(folder, "labels", complete)[rows])
    return ProbeFeatures(arrays, labels, complete["pixels"])


def _read_complete(folder: Path, identity: dict[str, Any]) -> dict[str, Any]:
    path = folder / COMPLETE_FILE
    complete = formats.read_json(path, "features", ADVICE, COMPLETE_SCHEMA)
    for key, value in json.loads(json.dumps(identity)).items():
        if complete[key] != value:
            raise UserError(f"{path} was made with another {key}; {ADVICE}")
    return complete


def _open_array(folder: Path, name: str, complete: dict[str, Any]) -> np.ndarray:
    """Opens one of the arrays after its file's hash has been checked."""
    path = folder / f"{name}.npy"
    if not path.is_file() or hash_file(path) != complete["files"].get(path.name):
        raise UserError(f"{path} is missing or damaged; {ADVICE}")
    return np.load(path, mmap_mode="r")


def without_copied_channels(
    train: ProbeFeatures, test: ProbeFeatures
) -> tuple[ProbeFeatures, ProbeFeatures]:
    """Keeps one channel of the pixels if all images of both splits are grey.

    Args:
        train: `ProbeFeatures`.
        test: those of the other split.

    Returns:
        Both, with a third of the pixels if all are grey.
    """
    splits = (train, test)
    for split in splits:
        channels = split.arrays["pixels"].reshape(len(split.labels), -1, 3)
        if np.any(channels != channels[..., :1]):
            return splits
    train, test = (
        split._replace(
            arrays=split.arrays | {"pixels": split.arrays["pixels"][:, ::3]},
            pixels=f"{split.pixels}, grey",
        )
        for split in splits
    )
    return train, test


def _write(
    run: TrainedRun, split: str, folder: Path, identity: dict[str, Any], workers: Workers
) -> None:
    tokenizer, vim = run.tokenizer, run.vim
    assert vim is not None  # a run of stage 2
    blocks = len(vim.transformer.blocks)
    words, small = _smaller(run.data.config.image_size)

    def features_of(images: Tensor) -> dict[str, Tensor]:
        features = tokenizer.encoder(images, training=False)  # [B,N,d]
        tokens = tokenizer.quantizer(features).tokens
        return {
            "tokenizer": tf.reduce_mean(features, 1),
            "blocks": vim.block_features(tokens),  # [B,blocks+1,D]
        }

    variables = [*tokenizer.variables, *vim.variables]
    compute = compiled(features_of, variables, rows=True, xla=True)

    def work_out(batch: dict[str, Tensor]) -> dict[str, np.ndarray]:
        found = {name: value.numpy() for name, value in compute(batch["image"]).items()}
        stacked = found.pop("blocks")
        found |= {f"block_{i}": stacked[:, i] for i in range(blocks + 1)}
        found["pixels"] = small(batch["image"])
        narrow = {name: _narrow(values, name) for name, values in found.items()}
        return narrow | {"labels": batch["label"].numpy()}

    size = run.data.train_size if split == "train" else run.data.validation_size
    rows = _rows_of_workers(size, workers.count)
    if workers.is_chief:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    workers.wait()
    part = folder / f"part_{workers.index}" if workers.count > 1 else folder
    batches = run.data.evaluation(split, BATCH_SIZE).shard(workers.count, workers.index)
    done = _fill(part, map(work_out, batches), len(rows[workers.index]), split)
    done = int(workers.sum(done))
    if workers.is_chief:
        if workers.count > 1:
            _merge(folder, size, rows)
        files = {path.name: hash_file(path) for path in sorted(folder.glob("*.npy"))}
        complete = {"pictures": done, "blocks": blocks, "pixels": words, "files": files, **identity}
        write_atomically(folder / COMPLETE_FILE, formats.to_json("features", complete))
    workers.wait()


def _rows_of_workers(size: int, count: int) -> list[np.ndarray]:
    """Returns the image indices [m] of each worker; the workers take whole batches in turn."""
    rows = np.arange(size)
    return [rows[rows // BATCH_SIZE % count == worker] for worker in range(count)]


def _fill(folder: Path, batches: Iterable[dict[str, np.ndarray]], size: int, split: str) -> int:
    """Writes {name: [B,...]} of each batch, one after the other; returns the number of rows."""
    folder.mkdir(exist_ok=True)
    arrays: dict[str, np.memmap] = {}
    done = 0
    with progress_bar(size, "images", f"features, {split}") as bar:
        for batch in batches:
            rows = slice(done, done + len(batch["labels"]))
            for name, values in batch.items():
                if name not in arrays:
                    arrays[name] = _create(folder, name, (size, *values.shape[1:]), values.dtype)
                arrays[name][rows] = values
            bar.update(rows.stop - done)
            done = rows.stop
    for array in arrays.values():
        array.flush()
    return done


def _create(folder: Path, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.memmap:
    return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)


def _merge(folder: Path, size: int, rows_of_workers: Sequence[np.ndarray]) -> None:
    """Merges the workers' files into one file per name, in image order if none was skipped."""
    parts = [folder / f"part_{worker}" for worker in range(len(rows_of_workers))]
    for path in sorted(parts[0].glob("*.npy")):
        first = np.load(path, mmap_mode="r")
        whole = _create(folder, path.stem, (size, *first.shape[1:]), first.dtype)
        for part, rows in zip(parts, rows_of_workers, strict=True):
            if (part / path.name).exists():  # a worker without a batch writes no file
                whole[rows] = np.load(part / path.name, mmap_mode="r")
        whole.flush()
    for part in parts:
        shutil.rmtree(part)


def _narrow(values: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        narrow = values.astype("float16")
    if not np.isfinite(narrow).all():
        raise UserError(
            f"{name} has features up to {np.abs(values).max():.3g}, which float16 cannot hold; its "
            "weights are damaged, or were trained too hard"
        )
    return narrow


def _smaller(image_size: tuple[int, int]) -> tuple[str, Callable[[Tensor], np.ndarray]]:
    """Returns (a description of the pixels, the function images [B,H,W,3] -> pixels [B,P])."""
    scale = min(1, PIXELS_SIDE / max(image_size))
    size = tuple(max(1, round(side * scale)) for side in image_size)

    def flatten(images: Tensor) -> np.ndarray:
        if scale < 1:
            images = tf.image.resize(images, size, "area")
        return images.numpy().reshape(len(images), -1)

    words = f"pixels, {size[0]} x {size[1]}" + (" (made smaller)" if scale < 1 else "")
    return words, flatten
