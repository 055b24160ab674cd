"""What images are compared with: other images, or their statistics in an .npz.

Statistics that were worked out once are kept beside the images, as
`<images>.statistics-<key>.npz` with the keys of the ADM suite (`mu`, `sigma`, `mu_s`, `sigma_s`),
so that they can also be given as a reference themselves. Beside these they have `format` and
`written_by`. The key depends on the pixels, the network, the resize mode and the format: a changed
folder is measured again.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vim_tf import formats
from vim_tf.errors import UserError
from vim_tf.evaluation.compute_metrics import NEED_FEATURES, Measured, measure
from vim_tf.evaluation.image_sources import NpzImages, open_images
from vim_tf.files import hash_file
from vim_tf.messages import shorten
from vim_tf.metrics.fid import FeatureStatistics
from vim_tf.npz_files import open_npz

WHAT = "reference images"
STATISTICS = {"fid": "mu", "sfid": "mu_s"}  # what a metric needs of an .npz
NEEDS = "an .npz of statistics, with mu and sigma, is needed"


@dataclass
class Reference:
    """A reference, not yet measured.

    Attributes:
        images: a source of `image_sources`; None for statistics alone.
        statistics: a `Measured` of what an .npz says; None for images alone.
        beside: path that the statistics' file names start with; None keeps none.
        description: dict for the protocol.
    """

    images: Any
    statistics: Any = None
    beside: Any = None
    description: Any = None

    def __post_init__(self):
        self.description = dict(self.description or self.images.description)

    @property
    def count(self):
        """Number of images that the statistics are of; None if a file does not say."""
        return self.statistics.count if self.statistics else self.images.count


def open_reference(path, argument, extractor, image_size=None, limit=None):
    """Opens a folder, an .npz of images, or an .npz of statistics, with or without images.

    Args:
        path: the folder or file.
        argument: the command's argument that gave it, for errors.
        extractor: the feature network that it must fit.
        image_size: as in `image_sources.open_images`.
        limit: as there; statistics are taken as they are.

    Returns:
        A `Reference`.

    Raises:
        UserError: something else, statistics of another network or resize mode, or of another
            version of vim_tf.
    """
    names = _array_names(path)
    if not {"mu", "sigma"} & names:
        images = open_images(path, argument, image_size, limit)
        return Reference(images, beside=Path(path))
    _check_fit(path, argument, extractor)
    statistics = Measured(pooled=FeatureStatistics.load(path))
    statistics.count = statistics.pooled.count
    if "mu_s" in names:
        statistics.spatial = FeatureStatistics.load(path, spatial=True)
    images = NpzImages(path, argument) if "arr_0" in names else None
    described = {"kind": "statistics", "path": str(path), "sha256": hash_file(path)}
    return Reference(images, statistics, description=described)


def measure_reference(reference, extractor, metrics, batch_size, say):
    """Measures a reference, from the statistics that are kept where they are enough.

    Args:
        reference: the `Reference`; its description gets the number and the hash of the images.
        extractor: the feature network.
        metrics: of `compute_metrics.METRICS`.
        batch_size: images at once.
        say: function of a line for the user.

    Returns:
        A `Measured`, without an Inception Score: that is the candidate's.
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
    found = None
    if metrics and not needs_features:
        found = _find_kept(reference, extractor, metrics, batch_size, say)
    if found is None:
        found = measure(images, extractor, metrics, batch_size, WHAT)
        _keep(reference, extractor, found, say)
    reference.description |= {"count": found.count, "sha256": found.sha256}
    return found


def _array_names(path):
    try:
        with open_npz(path, path, NEEDS) as file:
            return file.names
    except UserError:
        return set()  # `open_images` says what is wrong


def _check_fit(path, argument, extractor):
    """Compares what a file says of itself with the network; nothing large is read for it."""
    name = f"{argument} {path}"
    with open_npz(path, name, NEEDS) as file:
        if "extractor" in file.names:  # vim_tf made it
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


def _kept_path(reference, extractor, images_hash):
    number = formats.NUMBERS["statistics"]
    identity = f"{number} {images_hash} {extractor.sha256} {extractor.mode}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return reference.beside.with_name(f"{reference.beside.name}.statistics-{key}.npz")


def _find_kept(reference, extractor, metrics, batch_size, say):
    if reference.beside is None or not any(
        reference.beside.parent.glob(f"{reference.beside.name}.statistics-*.npz")
    ):
        return None  # without a look at the images
    images_hash = measure(reference.images, None, (), batch_size, f"{WHAT}, hash").sha256
    path = _kept_path(reference, extractor, images_hash)
    kept = _array_names(path)
    if not {STATISTICS[metric] for metric in metrics} <= kept:
        return None
    try:
        _check_fit(path, "statistics", extractor)
        found = Measured(pooled=FeatureStatistics.load(path), sha256=images_hash)
        if "mu_s" in kept:
            found.spatial = FeatureStatistics.load(path, spatial=True)
    except UserError as error:
        say(f"kept statistics cannot be used and are made again: {error}")
        return None
    found.count = found.pooled.count
    say(f"statistics of the reference: {path}")
    return found


def _keep(reference, extractor, found, say):
    if reference.beside is None or found.pooled is None:
        return
    path = _kept_path(reference, extractor, found.sha256)
    about = {
        "pictures": found.sha256,
        "extractor": extractor.sha256,
        "resize": extractor.mode,
        "format": formats.NUMBERS["statistics"],
        "written_by": formats.WRITTEN_BY,
    }
    try:
        os.makedirs(path.parent, exist_ok=True)
        found.pooled.save(path, found.spatial, **about)
    except OSError as error:  # a read-only data set: nothing is lost but time
        say(f"statistics of the reference are not kept in {path.parent}: {error.strerror}")
