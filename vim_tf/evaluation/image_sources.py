"""Sources of the evaluated images: folders, .npz files, a run's data and a run's samples.

No source holds more than a batch of images in memory.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np
import tensorflow as tf

from vim_tf.annotations import StrPath, Tensor
from vim_tf.data import (
    decoding,
    image_headers,
    image_limits,
    jpeg_damage,
    pillow_decoding,
    progress,
    transforms,
)
from vim_tf.data.sources import folder
from vim_tf.data.transforms import to_uint8
from vim_tf.errors import UserError
from vim_tf.generation.rejection import accept
from vim_tf.messages import reason_of, shorten
from vim_tf.npz_files import open_npz

if TYPE_CHECKING:
    import hashlib

    from vim_tf.data.images import ImageData
    from vim_tf.evaluation.keras_classifier import KerasClassifier
    from vim_tf.generation.image_generator import ImageGenerator

LABEL_MODES = ("balanced", "unconditional")
MOST_PIXELS = 2**24  # of an image in an .npz; its bytes may be compressed a thousandfold


class ImageSource(Protocol):
    """The common interface of all sources.

    Attributes:
        count: number of images, known before any is decoded.
        description: the images' entry in the protocol of an evaluation.
    """

    count: int
    description: dict[str, Any]

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """Yields uint8 [B,h,w,3], in the same order at each call."""
        ...


def hash_images(digest: hashlib._Hash, images: np.ndarray) -> None:
    """Updates a hashlib digest with uint8 [B,h,w,3]: each image's height, width and pixels.

    So the same images have the same hash in a folder of PNG files, in an .npz and in a run.
    """
    size = np.array(images.shape[1:3], "<i8").tobytes()
    for image in images:
        digest.update(size + np.ascontiguousarray(image).tobytes())


def open_images(
    path: StrPath,
    argument: str,
    image_size: tuple[int, int] | None = None,
    limit: int | None = None,
) -> FolderImages | NpzImages:
    """Opens a folder of images or an .npz of them.

    Args:
        path: the folder, or the file.
        argument: name of the command's argument, for errors.
        image_size: (H, W) to resize and crop a folder's images to, see `FolderImages`; images of an
            .npz are not changed.
        limit: number of images to use, the first ones; None uses all.

    Raises:
        UserError: there is no such folder or file, or it holds something else or fewer images than
            `limit`.
    """
    if os.path.isdir(path):
        source = FolderImages(path, argument, image_size)
    else:
        source = NpzImages(path, argument)
    if limit is not None:
        if limit > source.count:
            raise UserError(
                f"n is {limit:,}, but {argument} {path} holds {source.count:,} images; "
                "give more images, or a smaller n"
            )
        source.count = limit
    return source


class FolderImages:
    """Images of a folder and its sub-folders, in the order of their paths.

    They are decoded as the images of a training: `vim_tf.data.decoding.decode_oriented`.

    Args:
        path: the folder.
        argument: name of the command's argument, for errors.
        image_size: (H, W): the shorter side is resized (antialiased) and the centre is cropped, as
            in the evaluation during a training. None does not change the images; all must have the
            same size.

    Raises:
        UserError: no folder, no images, a file that is no image, or mixed sizes without
            `image_size`.
    """

    def __init__(
        self,
        path: StrPath,
        argument: str,
        image_size: tuple[int, int] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self._root, self._argument, self._image_size = str(path), argument, image_size
        self._names = folder.find_images(self._root, argument) if names is None else names
        paths = [os.path.join(self._root, name) for name in self._names]
        self._max_pixels = image_limits.pixel_limit(image_size)
        found = image_headers.read_headers(paths, self._max_pixels, whole=image_size is None)
        headers: list[image_headers.Header] = []
        for file, header in zip(paths, found, strict=True):
            if isinstance(header, str):
                raise UserError(f"{argument}: {file} cannot be read: {header}; remove it")
            headers.append(header)
        first = headers[0]
        for name, header in zip(self._names, headers, strict=True):
            if image_size is None and header[:2] != first[:2]:
                raise UserError(
                    f"{argument} {path} has images of mixed sizes: {self._names[0]} is "
                    f"{first.height} x {first.width} and {name} is {header.height} x "
                    f"{header.width}; give image_size to resize and crop all to one"
                )
        about = image_headers.describe_profiles([header.profile for header in headers], self._names)
        if about:
            progress.say(f"{argument} {shorten(str(path))}: {about}")
        self.count = len(self._names)
        size = list(image_size or first[:2])
        crop = "none" if image_size is None else "shorter side resized, centre"
        self.description: dict[str, Any] = {
            "kind": "folder",
            "path": str(path),
            "size": size,
            "crop": crop,
        }

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """Yields uint8 [B,H,W,3]; UserError for an image that is damaged or truncated."""
        for start in range(0, self.count, batch_size):
            stop = min(start + batch_size, self.count)
            yield np.stack([self._load(place) for place in range(start, stop)])

    def _load(self, place: int) -> np.ndarray:
        path = os.path.join(self._root, self._names[place])
        try:
            image = _decode(Path(path).read_bytes(), self._max_pixels)
        except OSError as error:
            raise UserError(
                f"{self._argument}: {path} cannot be decoded ({error}); remove it"
            ) from None
        if self._image_size is None:
            return image.numpy()
        return to_uint8(transforms.transform_for_evaluation(image, self._image_size))


@functools.cache
def _decoder(max_pixels: int) -> Callable[[Tensor], Tensor]:
    """`decode_oriented` as one graph, traced once."""
    return tf.function(
        lambda data: decoding.decode_oriented(data, max_pixels),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )


def _decode(data: bytes, max_pixels: int) -> Tensor:
    """An encoded image -> uint8 [h, w, 3]; OSError says what is wrong with it."""
    damage = jpeg_damage.find_damage(data, max_pixels)
    if damage:
        raise OSError(f"damaged: {damage}")
    try:
        return _decoder(max_pixels)(tf.constant(data))
    except tf.errors.OpError as error:
        try:  # for its words
            pillow_decoding.decode_with_pillow(data, max_pixels)
        except Exception as reason:  # Pillow raises many types for damaged files
            raise OSError(str(reason)) from None
        raise OSError(reason_of(error)) from None


class NpzImages:
    """Images in the array `arr_0` of an .npz, uint8 [N,h,w,3], the format of the ADM suite.

    They are read batch by batch; the whole array is never in memory.

    Args:
        path: the file.
        argument: name of the command's argument, for errors.

    Raises:
        UserError: no such file, or one of another format.
    """

    def __init__(self, path: StrPath, argument: str) -> None:
        self._path, self._argument = str(path), argument
        if not os.path.isfile(path):
            raise UserError(
                f"{argument} is {path}, which does not exist; give a folder of images or an .npz"
            )
        with _open_array(self._path, argument) as (_, shape):
            self.count = shape[0]
        self.description: dict[str, Any] = {
            "kind": "npz",
            "path": str(path),
            "size": list(shape[1:3]),
            "crop": "none",
        }

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """Yields uint8 [B,h,w,3]; UserError for a damaged file."""
        with _open_array(self._path, self._argument) as (file, shape):
            for start in range(0, self.count, batch_size):
                rows = min(batch_size, self.count - start)
                data = file.read(rows * int(np.prod(shape[1:])))
                yield np.frombuffer(data, "uint8").reshape(rows, *shape[1:])


@contextlib.contextmanager
def _open_array(path: str, argument: str) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
    """Checks `arr_0`; yields (a file at the array's first byte, its shape)."""
    needs = "an .npz with arr_0, uint8 [N,h,w,3], is needed"
    with open_npz(path, f"{argument} {path}", needs) as archive:
        if "arr_0" not in archive.names:
            names = shorten(", ".join(sorted(archive.names)[:5]))
            raise UserError(f"{argument} {path} holds {names or 'nothing'}; {needs}")
        with archive.open("arr_0") as (file, shape, dtype):
            if dtype != np.uint8 or shape[3:] != (3,) or 0 in shape:
                shown = shorten(str(list(shape)))
                raise UserError(f"{argument} {path}: arr_0 is {dtype} {shown}; {needs}")
            if shape[1] * shape[2] > MOST_PIXELS:
                raise UserError(
                    f"{argument} {path} has images of {shape[1]:,} x {shape[2]:,} pixels; at most "
                    f"{MOST_PIXELS:,} are allowed"
                )
            yield file, shape


class RunImages:
    """A split of the data that a run was trained on, centre-cropped as in the run's evaluation.

    Args:
        data: the `vim_tf.data.images.ImageData`.
        split: "validation" or "train".
        limit: number of images to use, the first ones; None uses all.

    Attributes:
        class_names: of the labels; () if the images have none.
    """

    def __init__(
        self, data: ImageData, split: str = "validation", limit: int | None = None
    ) -> None:
        self._data, self._split = data, split
        size = data.validation_size if split == "validation" else data.train_size
        if limit is not None and limit > size:
            raise UserError(f"n is {limit:,}, but the run's {split} data hold {size:,} images")
        self.count = limit or size
        self.class_names = data.class_names
        self.description: dict[str, Any] = {
            "kind": f"the run's {split} images",
            "source": data.config.source,
            "path": data.config.path,
            "size": list(data.config.image_size),
            "crop": "shorter side resized, centre",
        }

    def float_batches(self, batch_size: int) -> Iterator[Tensor]:
        """Yields float32 [B,H,W,3] in [-1,1]."""
        return (images for images, _ in self.labelled_batches(batch_size))

    def labelled_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (float32 [B,H,W,3] in [-1,1], labels [B] int32)."""
        left = self.count
        for batch in self._data.evaluation(self._split, batch_size):
            yield batch["image"][:left], batch["label"][:left]
            left -= min(left, batch_size)
            if not left:
                return

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """Yields uint8 [B,H,W,3]."""
        return map(to_uint8, self.float_batches(batch_size))


class Samples:
    """Images that a trained VIM generates; image i depends only on (seed, i) and its label.

    Args:
        generator: the `ImageGenerator`.
        count: number of images N.
        label_mode: "balanced" cycles through the classes, so their counts differ by at most one;
            "unconditional" uses no labels. None is balanced for a model with classes.
        seed: an integer.
        settings: of `VIM.generate`: temperature, top_k, top_p, guidance_scale.
        classifier: a `KerasClassifier` that selects the best samples of each class, see
            `generation.rejection`; None keeps all samples.
        acceptance: share of the samples that is kept.

    Attributes:
        labels: [N] int32, or None.

    Raises:
        UserError: a label mode that the model does not have, or a classifier of other classes.
    """

    def __init__(
        self,
        generator: ImageGenerator,
        count: int,
        label_mode: str | None = None,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        classifier: KerasClassifier | None = None,
        acceptance: float | None = None,
    ) -> None:
        classes = len(generator.class_names)
        mode = label_mode or ("balanced" if classes else "unconditional")
        if mode not in LABEL_MODES:
            raise UserError(f"label_mode is {mode}; allowed are {', '.join(LABEL_MODES)}")
        if mode == "balanced" and not classes:
            raise UserError("label_mode is balanced, but the run was trained without labels")
        self.count, self._generator, self._settings = count, generator, settings or {}
        self.labels = np.arange(count, dtype="int32") % classes if mode == "balanced" else None
        self._seed, self._classifier, self._acceptance = seed, classifier, acceptance
        self.description: dict[str, Any] = {
            "kind": "samples",
            "size": list(generator.tokenizer.image_size),
            "crop": "none",
            "label_mode": mode,
            "seed": seed,
            **self._settings,
        }
        if classifier is not None:
            if self.labels is None:
                raise UserError(
                    "reject keeps samples by the probability of their class, and "
                    "label_mode is unconditional; leave one of them out"
                )
            classifier.check_classes(generator.class_names, "reject")
            self.description |= {"rejected_by": classifier.sha256, "acceptance": acceptance}

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """Yields uint8 [B,H,W,3]; UserError for a seed or a setting that is out of range."""
        if self._classifier is not None:
            return self._accepted_batches(batch_size)
        return self._generator.generate_batches(
            self.labels, self.count, batch_size, self._seed, **self._settings
        )

    def _accepted_batches(self, batch_size: int) -> Iterator[np.ndarray]:
        # `__init__` checked the labels; an acceptance is given with each classifier.
        assert self._classifier is not None
        assert self.labels is not None
        assert self._acceptance is not None
        accepted = accept(
            self._generator,
            self._classifier,
            self.labels,
            self._acceptance,
            self._seed,
            batch_size,
            **self._settings,
        )
        self.description["acceptance_rate"] = accepted.rate
        for start in range(0, self.count, batch_size):
            yield self._generator.decode(accepted.tokens[start : start + batch_size])
