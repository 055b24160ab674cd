"""Writes a token cache: one process at a time, and after a stop on from the finished shards.

<parent>/.<name>.partial/     becomes <parent>/<name> when the last file is complete
    lock                      of the process that writes it
    progress.json             what is made (the header without shards), and the finished shards
    train-00-00000.tfrecord   the first shard of the first pass, ...
"""

import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import tensorflow as tf
from etils import epath

from vim_tf import fingerprints, formats
from vim_tf.annotations import StrPath, Tensor
from vim_tf.data.token_cache import HEADER_FILE, find_problem
from vim_tf.errors import UserError
from vim_tf.failpoints import failpoint
from vim_tf.files import is_in_bucket, measure_file, write_atomically
from vim_tf.fingerprints import FileTable
from vim_tf.locks import Held, locked

SHARD_IMAGES = 65_536
LOCK_FILE, PROGRESS_FILE = "lock", "progress.json"
WAIT = 1.0  # seconds between two looks at a cache that another process makes
# The keys that the caller gives: which tokenizer, images and options.
_GIVEN = {"token_hash", "decoder_hash", "images", "options", "grid", "codes", "class_names"}
_SPLITS = {"train", "validation"}
_COUNT = {"type": "integer", "minimum": 0}
_SHARD = formats.json_object(
    file={"type": "string", "pattern": r"^[a-z]+-\d+-\d{5}\.tfrecord$"},
    pictures=_COUNT,
    bytes=_COUNT,
    sha256={"type": "string"},
    next={"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2},
)
PROGRESS_SCHEMA = formats.json_object(
    header={"type": "object"},
    shards={"type": "object", "additionalProperties": {"type": "array", "items": _SHARD}},
    finished={"type": "array", "items": {"type": "string"}},
)

Batches: TypeAlias = Iterable[tuple[Tensor, Tensor]]  # tokens [B,N] int, labels [B] int
Say: TypeAlias = Callable[[str], object]
_Json: TypeAlias = dict[str, Any]


@runtime_checkable
class Pass(Protocol):
    """Batches that can begin later, without computing those before."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields all batches."""
        ...

    def after(self, batches: int) -> Batches:
        """Returns the batches after the first ones."""
        ...


def write_token_cache(
    folder: StrPath,
    splits: Mapping[str, Batches | Iterable[Batches]],
    header: dict[str, Any],
    tables: Mapping[str, FileTable] | None = None,
    say: Say | None = None,
) -> None:
    """Writes a cache; `folder` appears when the last file is complete.

    After a stop or a kill, the same call goes on from the finished shards. The files are then the
    same, byte for byte.

    Args:
        folder: must not exist, or must be empty.
        splits: {"train": passes, "validation": passes}. A pass is `Batches`, best a `Pass`; B may
            change from batch to batch. All passes of a split have the same images in the same
            order; validation usually has one pass.
        header: dict that JSON can hold: `token_hash` and `decoder_hash` of the tokenizer, `images`
            (the fingerprint of the images), `options` (everything else that the tokens depend on),
            `grid` (rows, columns), `codes`, and `class_names`, empty without labels.
        tables: {config key: `FileTable`} of the images' files, saved too; None for no files.
        say: called with each line for the user; None writes it to stderr.

    Raises:
        UserError: the folder is not empty or cannot be written, or a split has no images.
        ValueError: tokens, labels, passes and header do not fit together.
    """
    _check(splits, header)
    with making(folder, say) as is_ours:
        if not is_ours:
            raise _exists(epath.Path(folder))
        write_in_lock(folder, splits, header, tables, say)


@contextlib.contextmanager
def making(folder: StrPath, say: Say | None = None) -> Iterator[bool]:
    """Holds the lock of a cache that is to be made; waits for a process that makes it.

    Args:
        folder: of the cache.
        say: as in `write_token_cache`.

    Yields:
        Whether the cache is still to be made.
    """
    say, target = say or _write_line, epath.Path(folder)
    if is_in_bucket(target):
        yield not _is_whole(target)
        return
    partial, waits = _partial(target), False
    with contextlib.ExitStack() as held:
        while not _is_whole(target):
            with _writing(target):
                partial.mkdir(parents=True, exist_ok=True)
            try:
                with _writing(target, leave=FileNotFoundError):
                    held.enter_context(locked(partial / LOCK_FILE, say))
            except Held as found:
                if not waits:
                    say(f"{target} is being made by {found.holder}; waiting for it")
                waits = True
                time.sleep(WAIT)
                continue
            except FileNotFoundError:  # the other process has just renamed the folder
                continue
            if not _is_whole(target):
                yield True
                return
            # It was made between the two looks, so this is a new folder with only a lock.
            partial.rmtree(missing_ok=True)
            break
        yield False


def write_in_lock(
    folder: StrPath,
    splits: Mapping[str, Batches | Iterable[Batches]],
    header: dict[str, Any],
    tables: Mapping[str, FileTable] | None = None,
    say: Say | None = None,
) -> None:
    """As `write_token_cache`, inside `making` of the same folder."""
    _check(splits, header)
    target = epath.Path(folder)
    partial = target if is_in_bucket(target) else _partial(target)
    if _is_taken(target):
        if partial != target and not (partial / PROGRESS_FILE).exists():
            partial.rmtree(missing_ok=True)
        raise _exists(target)
    progress = None
    try:
        with _writing(target):
            progress = _Progress(partial, header, say or _write_line)
        shards = {
            split: [
                progress.write_pass(f"{split}-{number:02d}", batches)
                for number, batches in enumerate(passes)
            ]
            for split, passes in splits.items()
        }
        for split, passes in shards.items():
            counts = [sum(shard["pictures"] for shard in one) for one in passes]
            if not counts or counts[0] == 0:
                raise UserError(f"the {split} split has no images; nothing to put into {target}")
            if len(set(counts)) > 1:
                raise ValueError(f"the passes of {split} have {counts} images; all need the same")
        with _writing(target):
            fingerprints.save(partial, tables or {})
            text = formats.to_json("token cache", {**header, "shards": shards})
            (partial / HEADER_FILE).write_text(text)
            failpoint("before_cache")
            if partial != target:
                (partial / PROGRESS_FILE).unlink()
                os.rename(partial, target)
                (target / LOCK_FILE).unlink(missing_ok=True)
    except BaseException as error:
        # What is finished stays for the next attempt, unless it is wrong.
        is_wrong = isinstance(error, ValueError) and not isinstance(error, _Unwritable)
        if is_wrong or progress is None or not any(progress.shards.values()):
            partial.rmtree(missing_ok=True)
        raise


def _check(splits: Mapping[str, Any], header: _Json) -> None:
    if set(header) != _GIVEN:
        raise ValueError(f"header has the keys {sorted(header)}; it needs {sorted(_GIVEN)}")
    if set(splits) != _SPLITS:
        raise ValueError(f"splits has the keys {sorted(splits)}; it needs {sorted(_SPLITS)}")


class _Progress:
    """The finished shards of a cache, in the folder where it grows.

    Attributes:
        shards: {stem: [dicts as `_SHARD` describes them]}; `next` is the batch of the pass, and the
            row in it, with which the next shard begins.
    """

    def __init__(self, folder: epath.Path, header: _Json, say: Say) -> None:
        self._folder, self._header = folder, json.loads(json.dumps(header))
        self.shards: dict[str, list[_Json]] = {}
        self._finished: list[str] = []
        if not is_in_bucket(folder):
            self._read(say)
        kept = {shard["file"] for shards in self.shards.values() for shard in shards}
        if folder.exists():
            for path in folder.iterdir():
                if path.name not in (*kept, LOCK_FILE, PROGRESS_FILE):
                    path.rmtree() if path.is_dir() else path.unlink()
        folder.mkdir(parents=True, exist_ok=True)

    def _read(self, say: Say) -> None:
        path = self._folder / PROGRESS_FILE
        try:
            found = formats.read_json(path, "token cache", "it is made again", PROGRESS_SCHEMA)
        except FileNotFoundError:
            return
        except (OSError, UserError) as error:
            say(f"the unfinished token cache begins again: {error}")
            return
        for key, value in self._header.items():
            if found["header"].get(key) != value:
                say(f"the unfinished token cache begins again: it was of another {key}")
                return
        for stem, shards in found["shards"].items():
            whole = itertools.takewhile(self._is_whole, shards)
            self.shards[stem] = list(whole)
            if stem in found["finished"] and len(self.shards[stem]) == len(shards):
                self._finished.append(stem)
        count = sum(shard["pictures"] for shards in self.shards.values() for shard in shards)
        if count:
            say(f"the token cache goes on: {count:,} images are tokenized already")

    def _is_whole(self, shard: _Json) -> bool:
        path = self._folder / shard["file"]
        return path.is_file() and measure_file(path) == (shard["bytes"], shard["sha256"])

    def _save(self) -> None:
        progress = {"header": self._header, "shards": self.shards, "finished": self._finished}
        if not is_in_bucket(self._folder):
            with _writing(self._folder):
                text = formats.to_json("token cache", progress)
                write_atomically(self._folder / PROGRESS_FILE, text)
            failpoint("after_shard")

    def write_pass(self, stem: str, batches: Batches) -> list[_Json]:
        """Writes the rest of a pass; returns the shards of the whole pass for the header."""
        shards = self.shards.setdefault(stem, [])
        if stem not in self._finished:
            with contextlib.ExitStack() as writers:
                self._write_rest(stem, shards, batches, writers)
            self._finished.append(stem)
            self._save()
        return [{key: shard[key] for key in shard if key != "next"} for shard in shards]

    def _write_rest(
        self, stem: str, shards: list[_Json], batches: Batches, writers: contextlib.ExitStack
    ) -> None:
        number, first_row = shards[-1]["next"] if shards else (0, 0)
        path, writer, count = self._folder, None, 0

        def close(following: tuple[int, int]) -> None:
            with _writing(path):
                writers.close()
            size, sha256 = measure_file(path)
            shard = {"file": path.name, "pictures": count, "bytes": size, "sha256": sha256}
            shards.append({**shard, "next": list(following)})

        for tokens, labels in _after(batches, number):
            tokens, labels = np.asarray(tokens), np.asarray(labels)
            problem = find_problem(tokens, labels, self._header)
            if problem:
                raise ValueError(f"batch for {stem}: {problem}")
            for row in range(first_row, len(labels)):
                if writer is None:
                    path = self._folder / f"{stem}-{len(shards):05d}.tfrecord"
                    with _writing(path):
                        writer = writers.enter_context(tf.io.TFRecordWriter(str(path)))
                with _writing(path):
                    writer.write(_encode(tokens[row], labels[row]))
                count += 1
                if count == SHARD_IMAGES:
                    is_last = row + 1 == len(labels)
                    close((number + 1, 0) if is_last else (number, row + 1))
                    self._save()
                    writer, count = None, 0
            number, first_row = number + 1, 0
        if writer is not None:
            close((number, 0))


def _after(batches: Batches, count: int) -> Batches:
    if count and isinstance(batches, Pass):
        return batches.after(count)
    return itertools.islice(batches, count, None)


def _encode(tokens: np.ndarray, label: np.integer) -> bytes:
    features = {
        name: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        for name, values in (("token", tokens), ("label", [label]))
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)  # the same hash each time


def _partial(target: epath.Path) -> epath.Path:
    return target.with_name(f".{target.name}.partial")


def _is_whole(target: epath.Path) -> bool:
    return (target / HEADER_FILE).exists()


def _is_taken(folder: epath.Path) -> bool:
    if is_in_bucket(folder):
        return _is_whole(folder)
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _exists(target: epath.Path) -> UserError:
    return UserError(f"{target} exists already; delete it, or choose another tokenizer.cache")


class _Unwritable(UserError):
    """The disk takes no more."""


@contextlib.contextmanager
def _writing(path: epath.Path, leave: type[OSError] | tuple[()] = ()) -> Iterator[None]:
    """Turns a full or read-only disk into a UserError, but leaves one kind of error as it is."""
    try:
        yield
    except leave:
        raise
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "message", None) or error
        raise _Unwritable(
            f"the token cache {path} cannot be written ({reason}); "
            "make room there, or choose another tokenizer.cache"
        ) from None


def _write_line(line: str) -> None:
    sys.stderr.write(f"{line}\n")
