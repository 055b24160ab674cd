"""The entry to images: config -> batches for training, evaluation and the token cache.

Every source gives the same kind of batches. Every order and every augmentation is a function of
(seed, epoch, position), so a run resumes from its step alone.
"""

import base64
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import tensorflow as tf

from vim_tf import fingerprints
from vim_tf.annotations import Tensor
from vim_tf.config.sections import DataConfig
from vim_tf.data import hashing, splits, transforms
from vim_tf.data.class_names import clean
from vim_tf.data.left_out import LeftOut
from vim_tf.data.progress import progress_bar
from vim_tf.data.splits import IndexedSplit, Load
from vim_tf.errors import UserError
from vim_tf.fingerprints import FileTable
from vim_tf.messages import reason_of, shorten

if TYPE_CHECKING:
    from vim_tf.data.sources.records import RecordSplit

Split: TypeAlias = "IndexedSplit | RecordSplit"

# Modules with a `make_splits(config)`; only the one of `config.source` is imported.
_SOURCES = {
    "emoji": "emoji",
    "folder": "folder",
    "idx": "idx",
    "styles": "styles",
    "tfds": "tfds",
    "tfrecord": "tfrecord",
}
_UNREADABLE = "image cannot be decoded:"


def make_image_dataset(config: DataConfig, seed: int) -> "ImageData":
    """Opens `config.source`.

    Args:
        config: the section `data` of a config.
        seed: any integer; fixes the order and the augmentation, but not the split.

    Returns:
        An `ImageData`.

    Raises:
        UserError: there are no readable images; the message names the cause.
    """
    source = importlib.import_module(f"vim_tf.data.sources.{_SOURCES[config.source]}")
    with tf.device("/CPU:0"):  # images held in memory stay on the device of tf.data
        class_names, train, validation, tables, left_out = source.make_splits(config)
    for key, split in (("data.split or data.path", train), ("the validation data", validation)):
        if split.size == 0:
            raise UserError(f"{key} holds no images")
    both = {"train": train, "validation": validation}
    class_names = tuple(clean(name) for name in class_names)
    return ImageData(class_names, config, seed, both, tables, left_out or LeftOut())


def as_user_error(exception: BaseException) -> UserError | None:
    """Returns a UserError for an image that failed while batches were read; otherwise None.

    Args:
        exception: the one that iterating over a data set raised.
    """
    found = re.search(f"{_UNREADABLE} .* <([-\\w]+)>", str(exception), re.DOTALL)
    if found:
        name = base64.urlsafe_b64decode(found[1] + "==").decode(errors="replace")
        return UserError(
            f"{name} cannot be decoded: it is damaged, cut short, has more pixels than "
            "docs/data.md allows, or needs a plug-in (HEIC: pip install pillow-heif); remove it, "
            "make it smaller, or set data.on_error: skip"
        )
    if isinstance(exception, tf.errors.DataLossError):
        return UserError(f"a TFRecord file is damaged: {reason_of(exception)}")
    return None


@dataclass(frozen=True)
class ImageData:
    """Images of one size, split into training and validation.

    A batch is {"image": [B, H, W, 3] float32 in [-1, 1], "label": [B] int32}. B is the global
    batch size; `train` can also return a worker's share of each batch. Images without labels have
    label 0, and `class_names` is ().

    Attributes:
        class_names: name of class i at index i, see `class_names.clean`.
        config: the `DataConfig` that it was made from.
        seed: fixes the order and the augmentation.
        splits: {"train": split, "validation": split}.
        tables: {config key: `FileTable`} of the files that the images come from; {} if they come
            from no file.
        left_out: the files and folders that are not used, with reasons.
    """

    class_names: tuple[str, ...]
    config: DataConfig
    seed: int
    splits: dict[str, Split]
    tables: dict[str, FileTable] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def train_size(self) -> int:
        """Number of training images."""
        return self.splits["train"].size

    @property
    def validation_size(self) -> int:
        """Number of validation images."""
        return self.splits["validation"].size

    def fingerprint(self) -> dict[str, Any]:
        """Returns the fingerprint of the images, see `fingerprints.fingerprint`."""
        sizes = self.train_size, self.validation_size
        return fingerprints.fingerprint(self.class_names, *sizes, self.tables)

    def read_contents(self, stopped: Callable[[], bool] | None = None) -> None:
        """Reads the contents of all files, so that the fingerprint includes them.

        Args:
            stopped: returns whether to stop early; None never stops.
        """
        for table in self.tables.values():
            table.read_contents(stopped)

    def show_reading_contents(self) -> None:
        """Does `read_contents`, and shows the progress."""
        files = sum(table.known.size for table in self.tables.values()) - self.known_contents()
        with progress_bar(files, "files", "contents of the images, for their fingerprint") as bar:

            def count() -> bool:
                bar.update(1)
                return False

            self.read_contents(count)

    def known_contents(self) -> int:
        """Returns the number of files whose contents were read."""
        return sum(int(table.known.sum()) for table in self.tables.values())

    def difference(self, then: Mapping[str, Any], kept: Mapping[str, FileTable]) -> str | None:
        """Compares these images with those that something was made from.

        Files with another time than in the kept table are read again.

        Args:
            then: the fingerprint that was kept.
            kept: {config key: `FileTable`} that were kept; {} if there are none.

        Returns:
            The differences in words, as `fingerprints.difference`; None if there are none.
        """
        found = fingerprints.difference(then, self.fingerprint())
        for key in sorted(self.tables.keys() & kept.keys()):
            changed = self.tables[key].recall(kept[key])
            if changed is not None:
                changed = shorten(changed)
                return f"{found} ({changed})" if found else f"first difference {changed}"
        return found or fingerprints.difference(then, self.fingerprint())

    def train(self, start: int = 0, worker: int = 0, workers: int = 1) -> tf.data.Dataset:
        """Returns endless augmented batches, shuffled in another order each epoch.

        The batches have B positions each of the endless sequence of epochs, so `train(k * B)`
        equals `train()` without its first k batches.

        Args:
            start: position of the first image, from 0.
            worker: index of the contiguous share of each batch's rows; only these images are
                decoded.
            workers: number of shares, all of the same size.
        """
        split, batch_size = self.splits["train"], self.config.batch_size
        load = self._substituting_load(split)

        def make(*element: Any) -> dict[str, Tensor]:
            return self._augment(load, *split.locate(self.seed, *element))

        elements = split.shuffled(self.seed, start)
        share = batch_size // workers
        if workers > 1:
            elements = (
                elements.enumerate()
                .filter(lambda row, _: row % batch_size // share == worker)
                .map(lambda _, element: element)
            )
        return self._batch(elements, make, split, share, endless=True)

    def augmented_pass(self, index: int) -> tf.data.Dataset:
        """Returns every training image once, in stored order; each `index` augments in another way.

        Batches are as in `train`; the last batch may be smaller.

        Args:
            index: number of the pass, from 0.
        """
        split = self.splits["train"]
        load = self._naming_load(split)

        def make(position: Tensor, reference: Any) -> dict[str, Tensor]:
            epoch = tf.fill(tf.shape(position), tf.constant(index, tf.int64))
            return self._augment(load, epoch, position, reference)

        return self._batch(split.in_order(), make, split, self.config.batch_size)

    def evaluation(
        self,
        split: str = "validation",
        batch_size: int | None = None,
        positions: Sequence[int] | None = None,
    ) -> tf.data.Dataset:
        """Returns every image of a split once, in stored order, resized and centre-cropped.

        Args:
            split: "validation" or "train".
            batch_size: images per batch, `config.batch_size` if None; the last batch may be
                smaller.
            positions: numbers of the images to return in stored order, from 0; the others are not
                decoded. None returns all.
        """
        images = self.splits[split]
        elements = images.in_order()
        if positions is not None:
            chosen = tf.constant(positions, tf.int64)
            elements = elements.take(max(positions) + 1)
            elements = elements.filter(lambda position, _: tf.reduce_any(position == chosen))
        load = self._naming_load(images)

        def make(_: Tensor, reference: Any) -> dict[str, Tensor]:
            pixels, labels = load(reference)
            resized = transforms.transform_for_evaluation(pixels, self.config.image_size)
            return {"image": resized, "label": labels}

        batch_size = batch_size or self.config.batch_size
        return self._batch(elements, make, images, batch_size)

    def _augment(
        self, load: Load, epoch: Tensor, position: Tensor, reference: Any
    ) -> dict[str, Tensor]:
        pixels, labels = load(reference)
        draws = hashing.draw_uniform(transforms.DRAWS, self.seed, epoch, position)
        images = transforms.transform_for_training(
            pixels, self.config.image_size, self.config.augmentation, draws
        )
        return {"image": images, "label": labels}

    def _naming_load(self, split: Split) -> Load:
        """The split's `load`, with an error that names the image; skipping drops it later."""
        describe = split.describe
        if describe is None or self.config.on_error == "skip":
            return split.load

        def refuse(reference: Any) -> tuple[Tensor, Tensor]:
            name = describe(reference)
            # Once for readers, escaped by TensorFlow, and once for `as_user_error`.
            message = tf.strings.join(
                [_UNREADABLE, name, "<" + tf.io.encode_base64(name) + ">"], " "
            )
            with tf.control_dependencies([tf.debugging.Assert(False, [message])]):
                return tf.zeros([0, 0, 3], tf.uint8), tf.zeros([], tf.int32)

        def load(reference: Any) -> tuple[Tensor, Tensor]:
            refusal = tf.data.Dataset.from_tensors((reference,)).map(refuse)
            return splits.load_or_else(split.load, reference, refusal)

        return load

    def _substituting_load(self, split: Split) -> Load:
        """As `_naming_load`; skipping loads the first readable image instead.

        A dropped image would shift all later positions, and a resumed run could not find the same
        order again.
        """
        if split.describe is None or self.config.on_error == "stop":
            return self._naming_load(split)
        readable = split.in_order().map(lambda _, reference: split.load(reference))
        spare = next(iter(readable.ignore_errors().take(1)), None)
        if spare is None:
            raise UserError(f"none of the {split.size:,} training images can be decoded")
        spare = tf.data.Dataset.from_tensors(spare)
        return lambda reference: splits.load_or_else(split.load, reference, spare)

    def _batch(
        self,
        elements: tf.data.Dataset,
        make: Callable[..., dict[str, Tensor]],
        split: Split,
        batch_size: int,
        endless: bool = False,
    ) -> tf.data.Dataset:
        # It has no Python control flow, and conversion takes longer than tracing.
        make = tf.autograph.experimental.do_not_convert(make)
        if split.vectorized:
            dataset = elements.batch(batch_size, drop_remainder=endless)
            dataset = dataset.map(make, tf.data.AUTOTUNE)
        else:
            dataset = elements.map(make, tf.data.AUTOTUNE)
            if self.config.on_error == "skip" and not endless:
                dataset = dataset.ignore_errors(log_warning=True)
            dataset = dataset.batch(batch_size, drop_remainder=endless)
        options = tf.data.Options()
        # Sharding by file, the default for files, would make the order depend on the number of
        # workers.
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.DATA
        )
        return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)
