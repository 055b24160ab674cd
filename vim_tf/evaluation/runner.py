"""Three evaluations, from a path to a result: reconstruction, generation, images.

All use the replicas of the `tf.distribute` strategy in scope.
"""

import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from vim_tf.annotations import StrPath
from vim_tf.config import checks
from vim_tf.errors import UserError
from vim_tf.evaluation import compute_metrics, metric_choice, protocol
from vim_tf.evaluation.features import FeatureNetwork, open_extractor
from vim_tf.evaluation.image_sources import ImageSource, RunImages, Samples, open_images
from vim_tf.evaluation.keras_classifier import open_classifier
from vim_tf.evaluation.lpips import open_lpips
from vim_tf.evaluation.real_parts import choose_part
from vim_tf.evaluation.reconstruction import Reconstructions
from vim_tf.evaluation.reference import Reference, measure_reference, open_reference
from vim_tf.generation.image_generator import ImageGenerator
from vim_tf.runs.trained_run import TrainedRun, open_run


def evaluate_reconstruction(
    run: StrPath,
    *,
    extractor: StrPath | None = None,
    extractor_hash: str | None = None,
    resize: str | None = None,
    metrics: Collection[str] | None = None,
    lpips: StrPath | None = None,
    split: str = "validation",
    n: int | None = None,
    batch_size: int = 64,
    allow_small_n: bool = False,
    overrides: Sequence[str] = (),
    other_images: bool = False,
    by_class: bool = False,
) -> protocol.EvaluationResult:
    """Measures how well a run's tokenizer reconstructs images of the run's data.

    Args:
        run: folder of a run of either stage, or its `preset_best`.
        extractor: path of a feature network, see `features.open_extractor`; None measures only
            pixels and the codebook.
        extractor_hash: the network's expected SHA-256; None skips the check.
        resize: how images are resized to the network's size, one of `resizing.MODES`; None is adm
            for the Inception graph and clean for a classifier.
        metrics: names from `metric_choice.METRICS`; None selects all that the network supports and
            that have enough images.
        lpips: path of LPIPS' weights, a .safetensors file; None skips LPIPS.
        split: "validation" or "train".
        n: number of images to use, the first ones; None uses all.
        batch_size: images at once.
        allow_small_n: allow FID and sFID with fewer than twice as many images as features, and FD64
            with fewer than 1,000.
        overrides: "data.key=value" strings, for images that have moved since the training.
        other_images: allow images that the run was not trained on.
        by_class: measure the images of each class also alone.

    Returns:
        A `protocol.EvaluationResult`.

    Raises:
        UserError: a value out of range, or a mistake in the run, the network or the images.
    """
    check_counts_and_split(n, batch_size, split)
    network = None
    if extractor is not None:
        network = open_extractor(extractor, resize, extractor_hash)
    elif metrics is not None:
        raise UserError("metrics are given, and they need a network: give extractor")
    asked = metrics is not None
    metrics = metric_choice.choose_metrics(metrics, network)
    distance = None if lpips is None else open_lpips(lpips)
    trained = open_run(run, overrides, other_images)
    images, reference = _run_reference(trained, split, n)
    if by_class and not images.class_names:
        raise UserError("by_class is set, but the run's images have no classes; leave it out")
    left_out: dict[str, str] = {}
    if network is not None:
        metrics, left_out = _fit_to_counts(
            "images", images.count, images.count, metrics, network, allow_small_n, asked, "r"
        )
    source = Reconstructions(trained.tokenizer, images, distance)
    candidate = compute_metrics.measure(source, network, metrics, batch_size, "reconstructions")
    figures, missing = source.figures()
    settings: dict[str, Any] = {} if distance is None else {"lpips": distance.description}
    if network is not None:
        measured = measure_reference(reference, network, metrics, batch_size, _say)
        more = compute_metrics.compare(candidate, measured, metrics, network, "r")
        figures, settings = figures | more[0], settings | more[2]
        missing |= left_out | more[1]
    return protocol.make_result(
        figures,
        missing,
        source.description | {"count": candidate.count, "sha256": candidate.sha256},
        None if network is None else reference.description,
        network,
        {"batch_size": batch_size, "allow_small_n": allow_small_n, **settings},
        trained.tokenizer.hashes(),
        run,
        source.figures_by_class() if by_class else None,
    )


def evaluate_generation(
    run: StrPath,
    *,
    extractor: StrPath,
    extractor_hash: str | None = None,
    resize: str | None = None,
    metrics: Collection[str] | None = None,
    reference: StrPath | None = None,
    real: StrPath | None = None,
    split: str = "validation",
    n: int = 50_000,
    label_mode: str | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance_scale: float = 1.0,
    reject: StrPath | None = None,
    acceptance: float | None = None,
    batch_size: int = 64,
    allow_small_n: bool = False,
    overrides: Sequence[str] = (),
    other_images: bool = False,
    decoder: StrPath | None = None,
) -> protocol.EvaluationResult:
    """Compares a VIM's samples with other images.

    Args:
        run: folder of a run of experiment vim.
        extractor: path of a feature network, see `features.open_extractor`.
        extractor_hash: as in `evaluate_reconstruction`.
        resize: as in `evaluate_reconstruction`.
        metrics: as in `evaluate_reconstruction`.
        reference: a folder of images, or an .npz of images or of statistics; None compares with
            the images of the run's split.
        real: real images to compare with the reference too, none of them in it: a folder, an .npz,
            or "train" or "validation" for those images of the run; None takes a part of the
            reference.
        split: "validation" or "train".
        n: number of samples.
        label_mode: "balanced" (all classes equally often) or "unconditional"; None is balanced for
            a model with classes.
        seed: from -2^31 to 2^32 - 1.
        temperature: as in `VIM.generate`.
        top_k: as in `VIM.generate`.
        top_p: as in `VIM.generate`.
        guidance_scale: as in `VIM.generate`.
        reject: path of a classifier that selects the best samples of each class, see
            `generation.rejection`; None keeps all.
        acceptance: share of the samples that is kept, above 0 and at most 1.
        batch_size: images at once.
        allow_small_n: as in `evaluate_reconstruction`.
        overrides: as in `evaluate_reconstruction`.
        other_images: as in `evaluate_reconstruction`.
        decoder: folder of a run of experiment decoder for the same tokens, whose decoder makes the
            images; None takes the run's own.

    Returns:
        A `protocol.EvaluationResult`.

    Raises:
        UserError: a value out of range, or a mistake in the run, the network or the images.
    """
    check_counts_and_split(n, batch_size, split)
    checks.rejection(reject, acceptance)
    network = open_extractor(extractor, resize, extractor_hash)
    asked = metrics is not None
    metrics = metric_choice.choose_metrics(metrics, network)
    trained = open_run(run, overrides, other_images, decoder)
    source = open_samples(
        trained,
        n,
        label_mode,
        seed,
        reject,
        acceptance,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        guidance_scale=guidance_scale,
    )
    if reference is None:
        _, compared_with = _run_reference(trained, split, None)
    else:
        compared_with = open_reference(reference, "reference", network)
    others = None
    if real in ("train", "validation"):
        if reference is None and real == split:
            raise UserError(f"real and split are {real}; compare with images of the other split")
        others = RunImages(trained.data, str(real))
    elif real is not None:
        others = _open_real(real, reference)
    return _judge(
        source,
        compared_with,
        "samples",
        network,
        metrics,
        asked,
        batch_size,
        allow_small_n,
        others,
        "g",
        trained.hashes(),
        run,
    )


def open_samples(
    trained: TrainedRun,
    n: int,
    label_mode: str | None,
    seed: int,
    reject: StrPath | None,
    acceptance: float | None,
    **sampling: Any,
) -> Samples:
    """Returns the `Samples` of a `TrainedRun`; UserError for a run of stage 1.

    Args:
        trained: the `TrainedRun`.
        n: number of samples.
        label_mode: as in `evaluate_generation`.
        seed: as in `evaluate_generation`.
        reject: as in `evaluate_generation`.
        acceptance: as in `evaluate_generation`.
        **sampling: temperature and the other settings of `VIM.generate`.
    """
    if trained.vim is None:
        raise UserError(
            f"{trained.path} is a run of stage 1, which generates nothing; give a run of "
            "experiment vim, or evaluate its reconstruction"
        )
    generator = ImageGenerator(trained.vim, trained.tokenizer, trained.class_names)
    classifier = None if reject is None else open_classifier(reject, "reject")
    return Samples(generator, n, label_mode, seed, sampling, classifier, acceptance)


def evaluate_images(
    images: StrPath,
    reference: StrPath,
    *,
    extractor: StrPath,
    extractor_hash: str | None = None,
    resize: str | None = None,
    metrics: Collection[str] | None = None,
    real: StrPath | None = None,
    n: int | None = None,
    image_size: tuple[int, int] | None = None,
    batch_size: int = 64,
    allow_small_n: bool = False,
) -> protocol.EvaluationResult:
    """Compares one set of images with another.

    Args:
        images: the images to judge, a folder or an .npz.
        reference: a folder, or an .npz of images or of statistics.
        extractor: path of a feature network, see `features.open_extractor`.
        extractor_hash: as in `evaluate_reconstruction`.
        resize: as in `evaluate_reconstruction`.
        metrics: as in `evaluate_reconstruction`.
        real: real images to compare with the reference too, none of them in it: a folder or an
            .npz; None takes a part of the reference.
        n: number of images to use of each set, the first ones; None uses all.
        image_size: (H, W) to resize and crop the images of folders to; None does not change them.
        batch_size: images at once.
        allow_small_n: as in `evaluate_reconstruction`.

    Returns:
        A `protocol.EvaluationResult`.

    Raises:
        UserError: a value out of range, or a mistake in the network or the images.
    """
    check_counts_and_split(n, batch_size)
    network = open_extractor(extractor, resize, extractor_hash)
    asked = metrics is not None
    metrics = metric_choice.choose_metrics(metrics, network)
    crops = [image_size if Path(path).is_dir() else None for path in (images, reference)]
    if image_size is not None and not any(crops):
        raise UserError(
            "image_size crops the images of folders, and neither images nor reference is a "
            "folder; leave it out"
        )
    source = open_images(images, "images", crops[0], n)
    compared_with = open_reference(reference, "reference", network, crops[1], n)
    others = None if real is None else _open_real(real, reference, image_size)
    return _judge(
        source, compared_with, "images", network, metrics, asked, batch_size, allow_small_n, others
    )


def check_counts_and_split(n: int | None, batch_size: int, split: str = "validation") -> None:
    """Raises UserError unless n and batch_size are 1 or more and a run has such a split."""
    checks.at_least_one(n=n, batch_size=batch_size)
    checks.one_of("split", split, ("validation", "train"))


def _judge(
    source: ImageSource,
    reference: Reference,
    what: str,
    network: FeatureNetwork,
    metrics: Collection[str],
    asked: bool,
    batch_size: int,
    allow_small_n: bool,
    real: ImageSource | None,
    prefix: str = "",
    models: dict[str, str] | None = None,
    run: StrPath | None = None,
) -> protocol.EvaluationResult:
    metrics, left_out = _fit_to_counts(
        what, source.count, reference.count, metrics, network, allow_small_n, asked, prefix
    )
    in_images = None if reference.statistics is not None else reference.count
    part, real_metrics, unreal = choose_part(
        source.count, in_images, metrics, network, allow_small_n, real
    )
    # The candidate is measured first: its first batch checks the settings of the sampling.
    candidate = compute_metrics.measure(source, network, metrics, batch_size, what)
    of_reference = part if real is None else None
    measured = measure_reference(reference, network, metrics, batch_size, _say, of_reference)
    others = None
    if part is not None and part.source is not None:
        others = compute_metrics.measure(
            part.source, network, real_metrics, batch_size, "real images"
        )
    figures, missing, settings = compute_metrics.compare(
        candidate, measured, metrics, network, prefix, part, real_metrics, others
    )
    missing = left_out | missing | unreal
    return protocol.make_result(
        figures,
        missing,
        source.description | {"count": candidate.count, "sha256": candidate.sha256},
        reference.description,
        network,
        {"batch_size": batch_size, "allow_small_n": allow_small_n, **settings},
        models,
        run,
    )


def _open_real(
    real: StrPath, reference: StrPath | None, image_size: tuple[int, int] | None = None
) -> ImageSource:
    if reference is not None and os.path.realpath(real) == os.path.realpath(reference):
        raise UserError(f"real and reference are both {real}; give other real images")
    return open_images(real, "real", image_size if Path(real).is_dir() else None)


def _fit_to_counts(
    what: str, count: int, reference_count: int | None, metrics: Collection[str], *others: Any
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Is `metric_choice.fit_to_counts`, and tells the user of it before anything is computed."""
    kept, left_out = metric_choice.fit_to_counts(what, count, reference_count, metrics, *others)
    for reason in dict.fromkeys(left_out.values()):
        _say(f"left out: {reason}")
    smallest = min(count, reference_count or count)
    if "kid" in kept and smallest < metric_choice.FEWEST:
        _say(
            f"KID is of {smallest:,} images: below {metric_choice.FEWEST:,} it is uncertain; read "
            "it with its standard error"
        )
    return kept, left_out


def _run_reference(
    trained: TrainedRun, split: str, limit: int | None
) -> tuple[RunImages, Reference]:
    """Returns the images of the run's split, and the `Reference` made of them."""
    images = RunImages(trained.data, split, limit)
    beside = trained.path / "evaluation" / split
    return images, Reference(images, beside=beside)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
