"""How well a tokenizer reconstructs images: errors of images, and the use of its codebook.

Errors compare the decoder's float output, clipped to [-1,1], with the float image, like the
evaluation during a training. Only the input of a feature network is rounded to 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from vim_tf import losses
from vim_tf.annotations import Tensor
from vim_tf.data.transforms import to_uint8
from vim_tf.distribution.replicas import over_replicas
from vim_tf.metrics.codebook import codebook_usage
from vim_tf.metrics.image_metrics import WINDOW, NeighbourDifferences, ssim

if TYPE_CHECKING:
    from vim_tf.evaluation.image_sources import RunImages
    from vim_tf.evaluation.lpips import LPIPS
    from vim_tf.models.vit_vqgan import ViTVQGAN


class Reconstructions:
    """Reconstructed images as an `image_sources.ImageSource` that also collects their errors.

    Args:
        tokenizer: the `ViTVQGAN`.
        images: the `RunImages`.
        lpips: the `lpips.LPIPS`; None skips LPIPS.
    """

    def __init__(self, tokenizer: ViTVQGAN, images: RunImages, lpips: LPIPS | None = None) -> None:
        self.count, self._tokenizer, self._images = images.count, tokenizer, images
        self._lpips = lpips
        self.description: dict[str, Any] = {**images.description, "kind": "reconstructions"}
        self._errors: dict[str, list[np.ndarray]] = {}
        self._tokens: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._neighbours: tuple[NeighbourDifferences, ...] = ()  # originals, reconstructions
        self._step = over_replicas(self._reconstruct)

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """Yields uint8 [B,H,W,3]; UserError if the images are too small for LPIPS."""
        smallest = np.uint16 if self._tokenizer.config.quantizer.codes <= 2**16 else np.int32
        self._errors, self._tokens, self._labels = {}, [], []
        patch_size = self._tokenizer.config.patch_size
        self._neighbours = NeighbourDifferences(patch_size), NeighbourDifferences(patch_size)
        for images, labels in self._images.labelled_batches(batch_size):
            reconstruction, tokens, errors = self._step(images)
            self._labels.append(np.asarray(labels))
            self._tokens.append(tokens.numpy().astype(smallest))
            for neighbours, pixels in zip(self._neighbours, (images, reconstruction), strict=True):
                neighbours.add((pixels + 1) / 2)
            if min(images.shape[1:3]) >= WINDOW:
                errors["SSIM"] = ssim((images + 1) / 2, (reconstruction + 1) / 2)
            if self._lpips is not None:
                errors[self._lpips.name] = self._lpips(images, reconstruction)
            for name, values in errors.items():
                self._errors.setdefault(name, []).append(np.asarray(values, "float64"))
            yield to_uint8(reconstruction)

    def figures(self) -> tuple[dict[str, float], dict[str, str]]:
        """Returns the figures of the last pass over `batches`, means over images.

        Returns:
            (figures {name: float}, {name: why it is missing}): PSNR in dB; SSIM; LPIPS; l1 and l2
            of pixels in [0,1]; logit-laplace in nats per pixel channel, see
            `losses.logit_laplace_loss`; seam excess, the seam ratio of reconstructions over that of
            originals; gradient energy, the energy of reconstructions over that of originals, see
            `NeighbourDifferences`; the codebook's figures, see `codebook_usage`.
        """
        figures, missing = self._image_figures()
        if "SSIM" not in figures:
            missing["SSIM"] = f"images are smaller than its window of {WINDOW} pixels"
        if self._lpips is None:
            missing["LPIPS"] = "its weights are not given; give lpips"
        if "logit-laplace" not in figures:
            missing["logit-laplace"] = "the tokenizer's output is rgb, which has no such density"
        codes = self._tokenizer.config.quantizer.codes
        usage = codebook_usage(np.concatenate(self._tokens), codes)
        names = {"usage": "codebook usage", "perplexity": "perplexity", "dead_codes": "dead codes"}
        figures |= {name: usage[key] for key, name in names.items()}
        return {name: float(value) for name, value in figures.items()}, missing

    def figures_by_class(self) -> dict[str, dict[str, float]]:
        """Returns {class name: figures} of the classes that have images, without the codebook's.

        "images" is the number of images. A figure that a class does not have is left out.
        """
        labels, found = np.concatenate(self._labels), {}
        for label, name in enumerate(self._images.class_names):
            if count := np.count_nonzero(chosen := labels == label):
                found[name] = {"images": float(count), **self._image_figures(chosen)[0]}
        return found

    def _image_figures(self, chosen=slice(None)):
        """Returns (figures, {name: why it is missing}) of images, all or those of a bool [N]."""
        figures = {
            name: float(np.mean(np.concatenate(parts)[chosen]))
            for name, parts in self._errors.items()
        }
        more, missing = _compare_neighbours(*(found.of(chosen) for found in self._neighbours))
        return figures | more, missing

    def _reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Images [B,H,W,3] -> (reconstruction, tokens [B,N], {name: [B]})."""
        tokens = self._tokenizer.tokenize(images)
        codes = self._tokenizer.quantizer.lookup(tokens)
        unclipped, mean, log_scale = self._tokenizer.decode_distribution(codes)
        reconstruction = tf.clip_by_value(unclipped, -1.0, 1.0)
        difference = (reconstruction - images) / 2
        errors = {
            "PSNR": losses.psnr(reconstruction, images),
            "l1": tf.reduce_mean(tf.abs(difference), [1, 2, 3]),
            "l2": tf.reduce_mean(tf.square(difference), [1, 2, 3]),
        }
        if mean is not None:
            errors["logit-laplace"] = losses.logit_laplace_loss(mean, log_scale, images)
        return reconstruction, tokens, errors


def _compare_neighbours(originals, reconstructions):
    """Returns (figures, {name: why it is missing}) of two `NeighbourDifferences`."""
    figures, missing = {}, {}
    if originals.energy:
        figures["gradient energy"] = reconstructions.energy / originals.energy
    else:
        missing["gradient energy"] = "neighbouring pixels of the originals never differ"
    if originals.seam_ratio and reconstructions.seam_ratio is not None:
        figures["seam excess"] = reconstructions.seam_ratio / originals.seam_ratio
    elif originals.seam_ratio == 0:
        missing["seam excess"] = "neighbouring pixels of the originals never differ across patches"
    else:
        images = "originals" if originals.seam_ratio is None else "reconstructions"
        missing["seam excess"] = f"neighbouring pixels of the {images} never differ inside a patch"
    return figures, missing
