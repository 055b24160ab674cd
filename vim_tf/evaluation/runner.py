"""Three evaluations, from a path to a result: reconstruction, generation, images.

All compute on the replicas of the `tf.distribute` strategy in scope.
"""

import sys
from pathlib import Path

from vim_tf.config import checks
from vim_tf.errors import UserError
from vim_tf.evaluation import compute_metrics, protocol
from vim_tf.evaluation.features import open_extractor
from vim_tf.evaluation.image_sources import RunImages, Samples, open_images
from vim_tf.evaluation.keras_classifier import open_classifier
from vim_tf.evaluation.lpips import open_lpips
from vim_tf.evaluation.reconstruction import Reconstructions
from vim_tf.evaluation.reference import Reference, measure_reference, open_reference
from vim_tf.generation.image_generator import ImageGenerator
from vim_tf.runs.trained_run import open_run


def evaluate_reconstruction(
    run,
    *,
    extractor=None,
    extractor_hash=None,
    resize=None,
    metrics=None,
    lpips=None,
    split="validation",
    n=None,
    batch_size=64,
    allow_small_n=False,
    overrides=(),
    other_images=False,
):
    """Measures how well a run's tokenizer reconstructs images of the run's data.

    Args:
        run: folder of a run of either stage.
        extractor: path of a feature network, see `features.open_extractor`; None measures pixels
            and the codebook alone.
        extractor_hash: SHA-256 that the network must have; None checks nothing.
        resize: how images come to the network's size, of `resizing.MODES`; None is adm for the
            Inception graph and clean for a classifier.
        metrics: names out of `compute_metrics.METRICS`; None takes all that the network gives.
        lpips: path of LPIPS' weights, a .safetensors file; None leaves LPIPS out.
        split: "validation" or "train".
        n: take the first n images; None takes all.
        batch_size: images at once.
        allow_small_n: compute FID of fewer images than twice the features.
        overrides: "data.key=value" strings, for images that have moved since the training.
        other_images: take images that the run was not trained on.

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
    metrics = compute_metrics.choose_metrics(metrics, network)
    distance = None if lpips is None else open_lpips(lpips)
    trained = open_run(run, overrides, other_images)
    images, reference = _run_reference(trained, split, n)
    if metrics:
        compute_metrics.check_counts(
            "images", images.count, images.count, metrics, network, allow_small_n
        )
    source = Reconstructions(trained.tokenizer, images, distance)
    candidate = compute_metrics.measure(source, network, metrics, batch_size, "reconstructions")
    found = (*source.figures(), {} if distance is None else {"lpips": distance.description})
    if metrics:
        measured = measure_reference(reference, network, metrics, batch_size, _say)
        more = compute_metrics.compare(candidate, measured, metrics, network, "r")
        found = [ours | theirs for ours, theirs in zip(found, more, strict=True)]
    figures, missing, settings = found
    return protocol.make_result(
        figures,
        missing,
        source.description | {"count": candidate.count, "sha256": candidate.sha256},
        reference.description if metrics else None,
        network,
        {"batch_size": batch_size, "allow_small_n": allow_small_n, **settings},
        {"tokenizer": trained.tokenizer.model_hash()},
        run,
    )


def evaluate_generation(
    run,
    *,
    extractor,
    extractor_hash=None,
    resize=None,
    metrics=None,
    reference=None,
    split="validation",
    n=50_000,
    label_mode=None,
    seed=0,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    guidance_scale=1.0,
    reject=None,
    acceptance=None,
    batch_size=64,
    allow_small_n=False,
    overrides=(),
    other_images=False,
):
    """Compares a VIM's samples with other images.

    Args:
        run: folder of a run of experiment vim.
        extractor: path of a feature network, see `features.open_extractor`.
        extractor_hash: as in `evaluate_reconstruction`.
        resize: as there.
        metrics: as there.
        reference: a folder of images, or an .npz of images or of statistics; None compares with
            the images of the run's split.
        split: "validation" or "train".
        n: number of samples.
        label_mode: "balanced", every class as often as the others, or "unconditional"; None is
            balanced for a model with classes.
        seed: from -2^31 to 2^32 - 1.
        temperature: as in `VIM.generate`, and so are top_k, top_p and guidance_scale.
        top_k: as there.
        top_p: as there.
        guidance_scale: as there.
        reject: path of a classifier that keeps the best samples of each class, see
            `generation.rejection`; None keeps all.
        acceptance: share that it keeps, above 0 and at most 1.
        batch_size: images at once.
        allow_small_n: as in `evaluate_reconstruction`.
        overrides: as there.
        other_images: as there.

    Returns:
        A `protocol.EvaluationResult`.

    Raises:
        UserError: a value out of range, or a mistake in the run, the network or the images.
    """
    check_counts_and_split(n, batch_size, split)
    checks.rejection(reject, acceptance)
    network = open_extractor(extractor, resize, extractor_hash)
    metrics = compute_metrics.choose_metrics(metrics, network)
    trained = open_run(run, overrides, other_images)
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
    return _judge(
        source,
        compared_with,
        "samples",
        network,
        metrics,
        batch_size,
        allow_small_n,
        "g",
        trained.hashes(),
        run,
    )


def open_samples(trained, n, label_mode, seed, reject, acceptance, **sampling):
    """Returns the `Samples` of a `TrainedRun`; UserError for one of stage 1.

    Args:
        trained: the `TrainedRun`.
        n: number of samples.
        label_mode: as in `evaluate_generation`.
        seed: as there.
        reject: as there.
        acceptance: as there.
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
    images,
    reference,
    *,
    extractor,
    extractor_hash=None,
    resize=None,
    metrics=None,
    n=None,
    image_size=None,
    batch_size=64,
    allow_small_n=False,
):
    """Compares one set of images with another.

    Args:
        images: a folder, or an .npz of images: what is judged.
        reference: a folder, or an .npz of images or of statistics.
        extractor: path of a feature network, see `features.open_extractor`.
        extractor_hash: as in `evaluate_reconstruction`.
        resize: as there.
        metrics: as there.
        n: take the first n images of each; None takes all.
        image_size: (H, W) to resize and crop the images of folders to; None takes them as they
            are.
        batch_size: images at once.
        allow_small_n: as in `evaluate_reconstruction`.

    Returns:
        A `protocol.EvaluationResult`.

    Raises:
        UserError: a value out of range, or a mistake in the network or the images.
    """
    check_counts_and_split(n, batch_size)
    network = open_extractor(extractor, resize, extractor_hash)
    metrics = compute_metrics.choose_metrics(metrics, network)
    crops = [image_size if Path(path).is_dir() else None for path in (images, reference)]
    if image_size is not None and not any(crops):
        raise UserError(
            "image_size crops the images of folders, and neither images nor reference is a "
            "folder; leave it out"
        )
    source = open_images(images, "images", crops[0], n)
    compared_with = open_reference(reference, "reference", network, crops[1], n)
    return _judge(source, compared_with, "images", network, metrics, batch_size, allow_small_n)


def check_counts_and_split(n, batch_size, split="validation"):
    """Raises UserError unless n and batch_size are 1 or more and the split is one of a run's."""
    checks.at_least_one(n=n, batch_size=batch_size)
    checks.one_of("split", split, ("validation", "train"))


def _judge(
    source,
    reference,
    what,
    network,
    metrics,
    batch_size,
    allow_small_n,
    prefix="",
    models=None,
    run=None,
):
    compute_metrics.check_counts(
        what, source.count, reference.count, metrics, network, allow_small_n
    )
    # The candidate first: settings of the sampling are checked at its first batch.
    candidate = compute_metrics.measure(source, network, metrics, batch_size, what)
    measured = measure_reference(reference, network, metrics, batch_size, _say)
    figures, missing, settings = compute_metrics.compare(
        candidate, measured, metrics, network, prefix
    )
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


def _run_reference(trained, split, limit):
    """Returns the images of the run's split, and the `Reference` that they are."""
    images = RunImages(trained.data, split, limit)
    beside = trained.path / "evaluation" / split
    return images, Reference(images, beside=beside)


def _say(line):
    sys.stderr.write(f"{line}\n")
