"""Image data sets of tensorflow-datasets that were prepared on this machine.

`records` reads their TFRecord files in its own order, so that a run can resume from its step.
"""

import tensorflow as tf
import tensorflow_datasets as tfds

from vim_tf.annotations import Tensor
from vim_tf.config.sections import DataConfig
from vim_tf.data import image_limits, splits
from vim_tf.data.sources import records
from vim_tf.errors import UserError
from vim_tf.messages import reason_of


def make_splits(config: DataConfig) -> splits.Opened:
    """Returns (class names, training split, validation split, tables of files) of a tfds data set.

    Args:
        config: reads `name`, `path` (the data_dir), `split` and `validation_split` (names or slices
            such as "train[:90%]"), `validation_fraction`, `convert_profiles` and
            `image_size`.

    Raises:
        UserError: the data set is unknown or not prepared, or it has no such split or no feature
            "image".
    """
    builder = _open_builder(config)
    known = dict(builder.info.features.items())
    if not isinstance(known.get("image"), tfds.features.Image):
        raise UserError(
            f"data.name {config.name} has no feature image; "
            f"its features are {', '.join(sorted(known))}"
        )
    labelled = isinstance(known.get("label"), tfds.features.ClassLabel)
    names = tuple(known["label"].names) if labelled else ()
    wanted = {"image": True, "label": True} if labelled else {"image": True}
    features = tfds.decode.PartialDecoding(wanted).extract_features(builder.info.features)

    def parse(record: Tensor) -> tuple[Tensor, Tensor]:
        example = features.deserialize_example(
            record, decoders={"image": tfds.decode.SkipDecoding()}
        )
        return example["image"], tf.cast(example.get("label", 0), tf.int32)

    files = _files(builder, config.split, "data.split")
    max_pixels = image_limits.pixel_limit(config.image_size)
    if config.validation_split is not None:
        held_out = _files(builder, config.validation_split, "data.validation_split")
        train, validation = (
            records.make_whole_split(part, parse, max_pixels, config.convert_profiles)
            for part in (files, held_out)
        )
        tables = {"name": records.table_of([*files, *held_out])}
        return splits.Opened(names, train, validation, tables)
    what = f"data.name {config.name}"
    pair = records.make_split_pair(
        files, parse, max_pixels, config.validation_fraction, what, config.convert_profiles
    )
    return splits.Opened(names, *pair, {"name": records.table_of(files)})


def _open_builder(config: DataConfig) -> tfds.core.DatasetBuilder:
    place = f" --data_dir {config.path}" if config.path else ""
    try:
        builder = tfds.builder(config.name, data_dir=config.path)
    except (ValueError, AssertionError, ImportError) as error:  # tfds raises all of these
        raise UserError(
            f"data.name is {config.name}; tensorflow-datasets cannot open it: {reason_of(error)} "
            "Its names are listed at https://www.tensorflow.org/datasets/catalog"
        ) from error
    if not builder.is_prepared():
        raise UserError(
            f"data.name {config.name} is not prepared in {builder.data_dir}; "
            f"run: tfds build {config.name}{place}"
        )
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise UserError(
            f"data.name {config.name} is stored as {builder.info.file_format.value}, which is not "
            f"read; run: tfds build {config.name} --file_format tfrecord{place}"
        )
    return builder


def _files(builder: tfds.core.DatasetBuilder, split: str, key: str) -> list[records.RecordFile]:
    try:
        instructions = builder.info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{key} is {split}; the splits of {builder.name} are {', '.join(builder.info.splits)}, "
            'and slices of them such as "train[:90%]"'
        ) from error
    return [records.RecordFile(str(part.filename), part.skip, part.take) for part in instructions]
