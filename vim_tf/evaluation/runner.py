"""The three evaluations, from a path to a result: reconstruction, generation, images."""

import sys
from pathlib import Path

from vim_tf import command_line
from vim_tf.errors import UserError
from vim_tf.evaluation import compute_metrics, protocol
from vim_tf.evaluation.features import open_extractor
from vim_tf.evaluation.image_sources import RunPictures, Samples, open_pictures
from vim_tf.evaluation.keras_classifier import open_classifier
from vim_tf.evaluation.lpips import open_lpips
from vim_tf.evaluation.reconstruction import Reconstructions
from vim_tf.evaluation.reference import Reference, measure_reference, open_reference
from vim_tf.generation.image_generator import ImageGenerator
from vim_tf.runs.trained_run import open_run


def evaluate_reconstruction(arguments):
    """Judges a tokenizer by pictures of its run's data; `arguments` are those of the command.

    Returns:
        The result of `protocol.make_result`.

    Raises:
        UserError: any mistake in the arguments, the run or the pictures.
    """
    extractor = None
    if arguments.extractor is not None:
        extractor = _open_extractor(arguments)
    elif arguments.metrics is not None:
        raise UserError("--metrics is given, and they need a network: give --extractor")
    metrics = compute_metrics.available_metrics(arguments.metrics, extractor)
    lpips = None if arguments.lpips is None else open_lpips(arguments.lpips)
    run = open_run(arguments.run, arguments.set, arguments.other_images)
    pictures, reference = _run_reference(run, arguments, arguments.n)
    if metrics:
        count = pictures.count
        compute_metrics.check_counts(
            "pictures", count, count, metrics, extractor, arguments.allow_small_n
        )
    source = Reconstructions(run.tokenizer, pictures, lpips)
    candidate = compute_metrics.measure(
        source, extractor, metrics, arguments.batch_size, "reconstructions"
    )
    found = (*source.figures(), {} if lpips is None else {"lpips": lpips.description})
    if metrics:
        more = _compare(candidate, reference, metrics, extractor, arguments, "r")
        found = [ours | theirs for ours, theirs in zip(found, more, strict=True)]
    return _finish(
        arguments,
        found,
        source.description | {"count": candidate.count, "sha256": candidate.sha256},
        reference.description if metrics else None,
        extractor,
        {"tokenizer": run.tokenizer.model_hash()},
    )


def evaluate_generation(arguments):
    """Judges a VIM's samples; see `evaluate_reconstruction`."""
    extractor = _open_extractor(arguments)
    metrics = compute_metrics.available_metrics(arguments.metrics, extractor)
    run = open_run(arguments.run, arguments.set, arguments.other_images)
    source = open_samples(run, arguments, arguments.label_mode)
    if arguments.reference is None:
        _, reference = _run_reference(run, arguments, None)
    else:
        reference = open_reference(arguments.reference, "--reference", extractor)
    return _judge(source, reference, "samples", extractor, metrics, arguments, "g", run.hashes())


def open_samples(run, arguments, label_mode):
    """Returns the `Samples` of a run that the arguments ask for; UserError for one of stage 1."""
    if run.vim is None:
        raise UserError(
            f"{arguments.run} is a run of stage 1, which generates nothing; give a run of "
            "experiment vim, or evaluate its reconstruction"
        )
    generator = ImageGenerator(run.vim, run.tokenizer, run.class_names)
    settings = command_line.sampling_settings(arguments)
    classifier = None
    if arguments.reject is not None:
        classifier = open_classifier(arguments.reject, "--reject")
    return Samples(
        generator,
        arguments.n,
        label_mode,
        arguments.seed,
        settings,
        classifier,
        arguments.acceptance,
    )


def evaluate_images(arguments):
    """Holds the pictures of --a against those, or the statistics, of --b."""
    extractor = _open_extractor(arguments)
    metrics = compute_metrics.available_metrics(arguments.metrics, extractor)
    crops = [arguments.image_size if Path(p).is_dir() else None for p in (arguments.a, arguments.b)]
    if arguments.image_size is not None and not any(crops):
        raise UserError(
            "--image-size crops the pictures of folders, and neither --a nor --b is a folder; "
            "leave it out"
        )
    source = open_pictures(arguments.a, "--a", crops[0], arguments.n)
    reference = open_reference(arguments.b, "--b", extractor, crops[1], arguments.n)
    return _judge(source, reference, "pictures", extractor, metrics, arguments)


def _judge(source, reference, what, extractor, metrics, arguments, prefix="", models=None):
    compute_metrics.check_counts(
        what, source.count, reference.count, metrics, extractor, arguments.allow_small_n
    )
    # First what may be wrong at once: settings of the sampling are checked at its first batch.
    candidate = compute_metrics.measure(source, extractor, metrics, arguments.batch_size, what)
    return _finish(
        arguments,
        _compare(candidate, reference, metrics, extractor, arguments, prefix),
        source.description | {"count": candidate.count, "sha256": candidate.sha256},
        reference.description,
        extractor,
        models,
    )


def _compare(candidate, reference, metrics, extractor, arguments, prefix):
    measured = measure_reference(reference, extractor, metrics, arguments.batch_size, _say)
    return compute_metrics.compare(candidate, measured, metrics, extractor, prefix)


def _finish(arguments, found, pictures, reference, extractor, models):
    figures, missing, settings = found
    settings = {
        "batch_size": arguments.batch_size,
        "allow_small_n": arguments.allow_small_n,
        **settings,
    }
    return protocol.make_result(
        arguments.command,
        figures,
        missing,
        pictures,
        reference,
        extractor,
        settings,
        models,
        None if models is None else arguments.run,
    )


def _open_extractor(arguments):
    return open_extractor(arguments.extractor, arguments.resize, arguments.extractor_hash)


def _run_reference(run, arguments, limit):
    """Returns the pictures of the run's split, and the `Reference` that they are."""
    pictures = RunPictures(run.data, arguments.split, limit)
    beside = run.path / "evaluation" / arguments.split
    return pictures, Reference(pictures, beside=beside)


def _say(line):
    sys.stderr.write(f"{line}\n")
