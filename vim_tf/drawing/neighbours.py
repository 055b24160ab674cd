"""The training images nearest to samples, to see whether a model has memorized images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vim_tf.data.progress import progress_bar
from vim_tf.drawing import grids
from vim_tf.drawing.spread_images import spread_images
from vim_tf.evaluation.image_sources import RunImages, Samples
from vim_tf.generation.image_generator import ImageGenerator

if TYPE_CHECKING:
    from vim_tf.runs.trained_run import TrainedRun

NEIGHBOURS = 3
SHOWN = 40  # samples in the image
BATCH = 256  # training images compared at once


def nearest_images(
    images: np.ndarray, batches: Iterable[np.ndarray], count: int = NEIGHBOURS
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the nearest images of a stream to each of `images` by pixels, mirrored ones too.

    An image and its mirror image count as two images. Distances are exact, because they are sums of
    squared integers in float64. Of equally near images, the first one is used.

    Args:
        images: uint8 [M,H,W,3].
        batches: yields uint8 [B,H,W,3]. One batch is held at a time, and `count` images for each of
            `images`.
        count: neighbours of each.

    Returns:
        (uint8 [M,count,H,W,3], float64 [M,count]), the nearest first: images and their root mean
        square distances per pixel value, from 0 to 255. They are fewer than `count` if the stream
        has fewer, including mirrored ones.
    """
    flat = images.reshape(len(images), -1).astype("float64")  # [M,D]
    own = np.einsum("md,md->m", flat, flat)
    squared = np.empty((len(images), 0))
    found = np.empty((len(images), 0, *images.shape[1:]), "uint8")
    for batch in batches:
        batch = np.concatenate([batch, batch[:, :, ::-1]])
        rows = batch.reshape(len(batch), -1).astype("float64")  # [2B,D]
        new = own[:, None] + np.einsum("bd,bd->b", rows, rows) - 2 * (flat @ rows.T)  # [M,2B]
        known = squared.shape[1]
        candidates = np.concatenate([squared, new], axis=1)
        order = np.argsort(candidates, axis=1, kind="stable")[:, :count]
        squared = np.take_along_axis(candidates, order, axis=1)
        better = np.empty((*order.shape, *images.shape[1:]), "uint8")
        old, fresh = np.nonzero(order < known), np.nonzero(order >= known)
        better[old] = found[old[0], order[old]]
        better[fresh] = batch[order[fresh] - known]
        found = better
    return found, np.sqrt(squared / flat.shape[1])


def compare_distances(samples: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
    """Compares the distances of samples and held-out images to the nearest training image.

    Args:
        samples: [M].
        held_out: [V].

    Returns:
        dict: `median` of `samples` and of `held_out`; `samples_nearer_than_any_held_out`, a number.
    """
    return {
        "median": {"samples": float(np.median(samples)), "held_out": float(np.median(held_out))},
        "samples_nearer_than_any_held_out": int(np.sum(samples < np.min(held_out))),
    }


def view_neighbours(
    run: TrainedRun,
    count: int,
    seed: int,
    batch_size: int,
    settings: Mapping[str, Any],
) -> tuple[np.ndarray, dict[str, Any]]:
    """Draws samples with their nearest training images, the most suspicious first.

    Args:
        run: a `TrainedRun` of stage 2.
        count: number of samples, which cycle through the classes. As many held-out images are used,
            or all if there are fewer.
        seed: of the samples.
        batch_size: samples drawn at once.
        settings: of `VIM.generate`.

    Returns:
        (uint8 [h,w,3], report); the report is a dict for JSON.

    Raises:
        UserError: a seed or a setting that is out of range.
    """
    generator = ImageGenerator(
        run.vim,  # pyright: ignore[reportArgumentType]  # a run of stage 2 has a VIM
        run.tokenizer,
        run.class_names,
    )
    source = Samples(generator, count, None, seed, settings)
    samples = np.concatenate(list(_shown(source.batches(batch_size), count, "samples")))
    held_out, _ = spread_images(run.data, "validation", count)
    training = RunImages(run.data, "train")
    batches = _shown(training.batches(BATCH), training.count, "training images compared")
    found, distances = nearest_images(np.concatenate([samples, held_out]), batches)
    nearest = {"samples": distances[:count, 0], "held_out": distances[count:, 0]}
    report = {
        "run": str(run.path),
        "preset": run.weights,
        "models": run.hashes(),
        "samples": source.description | {"count": count},
        "training_images": training.count,
        "held_out_images": len(held_out),
        **compare_distances(**nearest),
        "distances": {name: np.round(values, 3).tolist() for name, values in nearest.items()},
    }
    return _draw(samples, found[:count], distances[:count], report), report


def _shown(batches: Iterable[np.ndarray], count: int, what: str) -> Iterator[np.ndarray]:
    """Passes batches of `count` images on, and shows the progress."""
    with progress_bar(count, "images", what) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))


def _draw(
    samples: np.ndarray, found: np.ndarray, distances: np.ndarray, report: Mapping[str, Any]
) -> np.ndarray:
    first = np.argsort(distances[:, 0], kind="stable")[:SHOWN]
    zoom = grids.zoom_to(64, samples.shape[1:3])
    sheet = np.concatenate([samples[first][:, None], found[first]], axis=1)  # [n,1+count,H,W,3]
    strips = [grids.image_grid(row, len(row), zoom) for row in sheet]
    texts = [f"distance {distances[i, 0]:.1f}" for i in first]
    image = grids.captioned_grid(np.stack(strips), texts, columns=4)
    median, near = report["median"], report["samples_nearer_than_any_held_out"]
    return grids.with_title(
        image,
        [
            f"{len(first)} of {len(samples)} samples, the nearest to training first, each followed "
            f"by its {found.shape[1]} nearest of {report['training_images']:,} training images "
            "(mirrored ones too).",
            f"Median distance in grey levels: samples {median['samples']:.1f}, held-out images "
            f"{median['held_out']:.1f}. Nearer than any held-out image: {near} samples.",
        ],
    )
