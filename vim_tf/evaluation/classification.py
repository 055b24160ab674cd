"""Samples judged by classifiers: are they of their class, and can the classes be learnt from them?

The first asks a classifier that was trained on real pictures about samples. The second is the
classification accuracy score of arXiv 1905.10887: a new classifier learns from samples alone and is
asked about real pictures, which it cannot recognise where the samples lack a kind of picture.
"""

import dataclasses
import hashlib
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from vim_tf.config.checks import batch_divides
from vim_tf.data.images import ImageData
from vim_tf.data.splits import make_array_split
from vim_tf.evaluation import protocol, runner
from vim_tf.evaluation.image_sources import RunPictures, hash_images
from vim_tf.evaluation.keras_classifier import KerasClassifier, open_classifier
from vim_tf.generation.image_generator import to_uint8
from vim_tf.runs.run import Run
from vim_tf.runs.trained_run import open_run
from vim_tf.trainers.classifier_trainer import ClassifierTrainer


def evaluate_classification(arguments):
    """Judges a VIM's samples by a classifier; `arguments` are those of the command.

    Returns:
        The result of `protocol.make_result`.

    Raises:
        UserError: any mistake in the arguments, the run or the classifier.
    """
    classifier = open_classifier(arguments.classifier, "--classifier")
    run = open_run(arguments.run, arguments.set, arguments.other_images)
    samples = runner.open_samples(run, arguments, "balanced")
    classifier.check_classes(run.class_names, "--classifier")
    batch_size, classes = arguments.batch_size, classifier.classes
    real = {"validation": "held-out pictures", "train": "training pictures"}[arguments.split]

    def real_batches():
        for batch in run.data.evaluation(arguments.split, batch_size):
            yield to_uint8(batch["image"]), batch["label"].numpy()

    with tempfile.TemporaryDirectory(prefix="vim_tf_samples_") as folder:
        pictures, sha256 = _keep(samples, Path(folder) / "samples.npy", batch_size)
        sample_batches = (
            (pictures[start : start + batch_size], samples.labels[start : start + batch_size])
            for start in range(0, len(pictures), batch_size)
        )
        hits = _count_hits(classifier, sample_batches, classes)
        figures = _accuracies(*hits, f"accuracy of samples[{classifier.name}]")
        figures |= _accuracies(
            *_count_hits(classifier, real_batches(), classes),
            f"accuracy of {real}[{classifier.name}]",
        )
        settings, missing = {}, {}
        trained = Run(arguments.classifier)
        if trained.config_path.exists():
            experiment = trained.load_experiment()
            network = _train(experiment, pictures, samples.labels, run)
            settings = {"classification_accuracy_score": dataclasses.asdict(experiment)}
            student = KerasClassifier(classifier.path, network, None, run.class_names)
            hits = _count_hits(student, real_batches(), classes)
            figures |= _accuracies(*hits, f"classification accuracy score[{classifier.name}]")
        else:
            missing["classification accuracy score"] = (
                "only a run of experiment classifier says how to train one"
            )
    return protocol.make_result(
        arguments.command,
        figures,
        missing,
        samples.description | {"count": len(pictures), "sha256": sha256},
        RunPictures(run.data, arguments.split).description,
        classifier,
        {"batch_size": batch_size, **settings},
        run.hashes(),
        arguments.run,
    )


def _keep(samples, path, batch_size):
    """Draws the samples into a file; returns (uint8 [n,H,W,3] that lies in it, their SHA-256)."""
    shape = (samples.count, *samples.description["size"], 3)
    pictures = np.lib.format.open_memmap(path, "w+", "uint8", shape)
    digest, done = hashlib.sha256(), 0
    with tqdm(total=samples.count, unit="img", desc="samples", disable=None) as bar:
        for batch in samples.batches(batch_size):
            pictures[done : done + len(batch)] = batch
            hash_images(digest, batch)
            done += len(batch)
            bar.update(len(batch))
    return pictures, digest.hexdigest()


def _count_hits(classifier, batches, classes):
    """Asks about pictures uint8 [B,H,W,3] with labels [B]: (hits, pictures), each by class [K]."""
    hits, counts = np.zeros((2, classes), int)
    for images, labels in batches:
        right = np.argmax(classifier(images).probabilities, 1) == labels
        hits += np.bincount(labels[right], minlength=classes)
        counts += np.bincount(labels, minlength=classes)
    return hits, counts


def _accuracies(hits, counts, name):
    """The accuracy over pictures; and over classes, each as much as the others, if that differs."""
    there = counts > 0
    figures = {name: float(hits.sum() / counts.sum())}
    if len(set(counts)) > 1:
        figures[f"{name}, mean over classes"] = float((hits[there] / counts[there]).mean())
    return figures


def _train(experiment, pictures, labels, run):
    """Trains the classifier of `experiment` on uint8 [n,H,W,3] with labels [n]; returns the model.

    Steps, batches and augmentation are those of the experiment; the pictures have the run's size.
    """
    config = dataclasses.replace(experiment.data, image_size=run.data.config.image_size)
    experiment = dataclasses.replace(experiment, data=config)
    split = make_array_split(pictures, labels)
    data = ImageData(run.class_names, config, experiment.seed, {"train": split})
    keras.utils.set_random_seed(experiment.seed % 2**32)
    trainer = ClassifierTrainer(experiment, len(run.class_names))
    trainer.compile()
    batch_divides(experiment, tf.distribute.get_strategy().num_replicas_in_sync)
    steps = experiment.training.steps
    with tqdm(total=steps, unit="step", desc="classifier of samples", disable=None) as bar:
        count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: bar.update())
        trainer.fit(
            data.train(), steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[count]
        )
    return trainer.ema_model
