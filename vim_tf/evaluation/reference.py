"""The reference that images are compared with: other images, or their statistics in an .npz.

Computed statistics are saved next to the images, as `<images>.statistics-<key>.npz` with the keys
of the ADM suite (`mu`, `sigma`, `mu_s`, `sigma_s`) and with `format` and `written_by`. `mu_part`,
`sigma_part` and `count_part` are of the images that were compared with the others. Such a file can
also be used as a reference. Its key depends on the pixels, the network, the resize mode and the
format, so a changed folder is measured again.
"""

import hashlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vim_tf import formats
from vim_tf.annotations import StrPath
from vim_tf.errors import UserError
from vim_tf.evaluation.compute_metrics import Measured, measure
from vim_tf.evaluation.features import FeatureNetwork
from vim_tf.evaluation.image_sources import ImageSource, NpzImages, open_images
from vim_tf.evaluation.metric_choice import NEED_FEATURES
from vim_tf.evaluation.real_parts import RealPart
from vim_tf.files import hash_file
from vim_tf.messages import shorten
from vim_tf.metrics.fid import FeatureStatistics
from vim_tf.npz_files import open_npz

WHAT = "reference images"
STATISTICS = {"fid": "mu", "fd64": "mu", "sfid": "mu_s"}  # the array of an .npz that a metric needs
NEEDS = "an .npz of statistics, with mu and sigma, is needed"


@dataclass
class Reference:
    """A reference, not yet measured.

    Attributes:
        images: the images; None if there are only statistics.
        statistics: the statistics of an .npz; None if there are only images.
        beside: path that the names of saved statistics start with; None does not save them.
        description: the reference's entry in the protocol; by default the images' description.
    """

    images: ImageSource | None
    statistics: Measured | None = None
    beside: Path | None = None
    description: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.description:
            assert self.images is not None  # statistics come with a description
            self.description = self.images.description
        self.description = dict(self.description)

    @property
    def count(self) -> int | None:
        """Number of images of the statistics; None if their file does not contain it."""
        if self.statistics is not None:
            return self.statistics.count
        assert self.images is not None  # there are images or statistics
        return self.images.count


def open_reference(
    path: StrPath,
    argument: str,
    extractor: FeatureNetwork,
    image_size: tuple[int, int] | None = None,
    limit: int | None = None,
) -> Reference:
    """Opens a folder, an .npz of images, or an .npz of statistics, with or without images.

    Args:
        path: the folder or file.
        argument: name of the command's argument, for errors.
        extractor: the feature network, which statistics must come from.
        image_size: as in `image_sources.open_images`.
        limit: as in `image_sources.open_images`; it does not change statistics.

    Returns:
        A `Reference`.

    Raises:
        UserError: something else, or statistics of another network, another resize mode or another
            version of vim_tf.
    """
    names = _array_names(path)
    if not {"mu", "sigma"} & names:
        images = open_images(path, argument, image_size, limit)
        return Reference(images, beside=Path(path))
    _check_fit(path, argument, extractor)
    pooled = FeatureStatistics.load(path)
    statistics = Measured(count=pooled.count, pooled=pooled)
    if "mu_s" in names:
        statistics.spatial = FeatureStatistics.load(path, "_s")
    images = NpzImages(path, argument) if "arr_0" in names else None
    described = {"kind": "statistics", "path": str(path), "sha256": hash_file(path)}
    return Reference(images, statistics, description=described)


def measure_reference(
    reference: Reference,
    extractor: FeatureNetwork,
    metrics: Collection[str],
    batch_size: int,
    say: Callable[[str], object],
    part: RealPart | None = None,
) -> Measured:
    """Measures a reference. Saved statistics are used if they are sufficient.

    Args:
        reference: the `Reference`; the number and the hash of the images are added to its
            description.
        extractor: the feature network.
        metrics: of `metric_choice.METRICS`.
        batch_size: images at once.
        say: called with each line for the user.
        part: images whose statistics are also computed alone; None computes none.

    Returns:
        A `Measured`, without an Inception Score, which only the candidate needs.
    """
    metrics = tuple(metric for metric in metrics if metric != "is")
    needs_features = bool(NEED_FEATURES & set(metrics))
    images = reference.images
    if reference.statistics is not None:
        found = reference.statistics
        if needs_features and images is not None:
            found.spool = measure(images, extractor, ("kid",), batch_size, WHAT).spool
        reference.description["count"] = found.count
        return found
    assert images is not None  # there are images or statistics
    found = None
    if metrics and not needs_features:
        found = _find_kept(reference, images, extractor, metrics, batch_size, say, part)
    if found is None:
        found = measure(images, extractor, metrics, batch_size, WHAT, part)
        _keep(reference, extractor, found, say)
    reference.description |= {"count": found.count, "sha256": found.sha256}
    return found


def _array_names(path: StrPath) -> set[str]:
    try:
        with open_npz(path, str(path), NEEDS) as file:
            return file.names
    except UserError:
        return set()  # `open_images` reports the problem


def _check_fit(path: StrPath, argument: str, extractor: FeatureNetwork) -> None:
    """Compares the metadata of a file with the network; reads no large array."""
    name = f"{argument} {path}"
    with open_npz(path, name, NEEDS) as file:
        if "extractor" in file.names:  # vim_tf wrote the file
            written_by = file.read_text("written_by")
            number = file.read_integer("format")
            formats.check_format(name, "statistics", number, written_by, "make it again")
        for mean, dim in (("mu", extractor.dim), ("mu_s", extractor.spatial_dim)):
            if mean not in file.names or dim is None:
                continue
            shape, _ = file.header(mean)
            if shape != (dim,):
                count = f"{shape[0]:,}" if len(shape) == 1 else shorten(str(list(shape)))
                raise UserError(
                    f"{name} has statistics of {count} features in {mean}, and {extractor.path} "
                    f"has {dim:,}; they must be of the same network"
                )
        for key, ours in (("extractor", extractor.sha256), ("resize", extractor.mode)):
            theirs = file.read_text(key)
            if theirs not in (None, ours):
                raise UserError(
                    f"{name} was made with {key} {shorten(theirs)}, and now it is {ours}; make the "
                    "statistics again, or give the same network and resize"
                )


# Kept statistics ----------------------------------------------------------------------------------


def _kept_path(beside: Path, extractor: FeatureNetwork, images_hash: str | None) -> Path:
    number = formats.NUMBERS["statistics"]
    identity = f"{number} {images_hash} {extractor.sha256} {extractor.mode}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return beside.with_name(f"{beside.name}.statistics-{key}.npz")


def _find_kept(
    reference: Reference,
    images: ImageSource,
    extractor: FeatureNetwork,
    metrics: Collection[str],
    batch_size: int,
    say: Callable[[str], object],
    part: RealPart | None,
) -> Measured | None:
    if reference.beside is None or not any(
        reference.beside.parent.glob(f"{reference.beside.name}.statistics-*.npz")
    ):
        return None  # without reading the images
    images_hash = measure(images, None, (), batch_size, f"{WHAT}, hash").sha256
    path = _kept_path(reference.beside, extractor, images_hash)
    kept = _array_names(path)
    if not {STATISTICS[metric] for metric in metrics} <= kept:
        return None
    try:
        _check_fit(path, "statistics", extractor)
        pooled = FeatureStatistics.load(path)
        found = Measured(count=pooled.count, sha256=images_hash, pooled=pooled)
        if "mu_s" in kept:
            found.spatial = FeatureStatistics.load(path, "_s")
        if "mu_part" in kept:
            found.part = FeatureStatistics.load(path, "_part")
    except UserError as error:
        say(f"kept statistics cannot be used and are made again: {error}")
        return None
    if part is not None and (
        found.part is None or (found.count, found.part.count) != (len(part.inside), part.count)
    ):
        return None  # kept for another number of judged images
    say(f"statistics of the reference: {path}")
    return found


def _keep(
    reference: Reference,
    extractor: FeatureNetwork,
    found: Measured,
    say: Callable[[str], object],
) -> None:
    if reference.beside is None or found.pooled is None:
        return
    path = _kept_path(reference.beside, extractor, found.sha256)
    about = {
        "pictures": found.sha256,
        "extractor": extractor.sha256,
        "resize": extractor.mode,
        "format": formats.NUMBERS["statistics"],
        "written_by": formats.WRITTEN_BY,
    }
    try:
        os.makedirs(path.parent, exist_ok=True)
        found.pooled.save(path, found.spatial, found.part, **about)
    except OSError as error:  # a read-only data set: the next evaluation only takes longer
        say(f"statistics of the reference are not kept in {path.parent}: {error.strerror}")
