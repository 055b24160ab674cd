"""Judges samples with classifiers: are they of their class, and can a classifier learn from them?

For the first question, a classifier that was trained on real images classifies samples. The second
is answered by the classification accuracy score of arXiv 1905.10887: a new classifier is trained on
samples only and classifies real images. It fails on kinds of images that the samples lack.
"""

import dataclasses
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from vim_tf.annotations import StrPath
from vim_tf.config import checks
from vim_tf.config.experiments import ClassifierExperiment
from vim_tf.data.images import ImageData
from vim_tf.data.progress import progress_bar
from vim_tf.data.splits import make_array_split
from vim_tf.data.transforms import to_uint8
from vim_tf.errors import UserError
from vim_tf.evaluation import protocol, runner
from vim_tf.evaluation.image_sources import RunImages, Samples, hash_images
from vim_tf.evaluation.keras_classifier import KerasClassifier, open_classifier
from vim_tf.runs.run import PRESETS, Run
from vim_tf.runs.trained_run import TrainedRun, open_run
from vim_tf.trainers.classifier_trainer import ClassifierTrainer


def evaluate_classification(
    run: StrPath,
    classifier: StrPath,
    *,
    split: str = "validation",
    n: int = 10_000,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance_scale: float = 1.0,
    reject: StrPath | None = None,
    acceptance: float | None = None,
    batch_size: int = 64,
    overrides: Sequence[str] = (),
    other_images: bool = False,
    decoder: StrPath | None = None,
) -> protocol.EvaluationResult:
    """Judges a VIM's samples with a classifier.

    Args:
        run: folder of a run of experiment vim, of a model with classes; or its `preset_best`.
        classifier: folder of a run of experiment classifier, or a .keras file.
        split: "validation" or "train": the real images that are classified.
        n: number of samples.
        seed: as in `runner.evaluate_generation`, like all arguments below.
        temperature: as there.
        top_k: as there.
        top_p: as there.
        guidance_scale: as there.
        reject: as there.
        acceptance: as there.
        batch_size: as there.
        overrides: as there.
        other_images: as there.
        decoder: as there.

    Returns:
        A `protocol.EvaluationResult`.

    Raises:
        UserError: a value out of range, or a mistake in the run or the classifier.
    """
    runner.check_counts_and_split(n, batch_size, split)
    checks.rejection(reject, acceptance)
    judge = open_classifier(classifier, "classifier")
    experiment = _find_config(classifier)
    opened = open_run(run, overrides, other_images, decoder)
    samples = runner.open_samples(
        opened,
        n,
        "balanced",
        seed,
        reject,
        acceptance,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        guidance_scale=guidance_scale,
    )
    judge.check_classes(opened.class_names, "classifier")
    classes, labels = judge.classes, samples.labels
    assert labels is not None  # label_mode is balanced
    real = {"validation": "held-out images", "train": "training images"}[split]

    def real_batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for batch in opened.data.evaluation(split, batch_size):
            yield to_uint8(batch["image"]), batch["label"].numpy()

    with tempfile.TemporaryDirectory(prefix="vim_tf_samples_") as folder:
        images, sha256 = _keep(samples, Path(folder) / "samples.npy", batch_size)
        sample_batches = (
            (images[start : start + batch_size], labels[start : start + batch_size])
            for start in range(0, len(images), batch_size)
        )
        hits = _count_hits(judge, sample_batches, classes)
        figures = _accuracies(*hits, f"accuracy of samples[{judge.name}]")
        figures |= _accuracies(
            *_count_hits(judge, real_batches(), classes),
            f"accuracy of {real}[{judge.name}]",
        )
        settings, missing = {}, {}
        if experiment is not None:
            network = _train(experiment, images, labels, opened)
            settings = {"classification_accuracy_score": dataclasses.asdict(experiment)}
            student = KerasClassifier(judge.path, network, None, opened.class_names)
            hits = _count_hits(student, real_batches(), classes)
            figures |= _accuracies(*hits, f"classification accuracy score[{judge.name}]")
        else:
            missing["classification accuracy score"] = (
                "only a run of experiment classifier has the config to train one"
            )
    return protocol.make_result(
        figures,
        missing,
        samples.description | {"count": len(images), "sha256": sha256},
        RunImages(opened.data, split).description,
        judge,
        {"batch_size": batch_size, **settings},
        opened.hashes(),
        run,
    )


def _find_config(classifier: StrPath) -> ClassifierExperiment | None:
    """Returns the config that a classifier was trained with; None if only its weights are there."""
    path = Path(classifier)
    run = Run(path.parent if path.name in PRESETS else path)
    if not run.config_path.exists():
        return None
    experiment = run.load_experiment()
    if not isinstance(experiment, ClassifierExperiment):
        raise UserError(
            f"{run.config_path} is of experiment {experiment.experiment}, and its preset holds a "
            "Classifier: one of them is of another run; give a whole run of experiment classifier"
        )
    return experiment


def _keep(samples: Samples, path: Path, batch_size: int) -> tuple[np.ndarray, str]:
    """Draws the samples into a file; returns (uint8 [n,H,W,3], a memmap of it; their SHA-256)."""
    shape = (samples.count, *samples.description["size"], 3)
    images = np.lib.format.open_memmap(path, "w+", "uint8", shape)
    digest, done = hashlib.sha256(), 0
    with progress_bar(samples.count, "images", "samples") as bar:
        for batch in samples.batches(batch_size):
            images[done : done + len(batch)] = batch
            hash_images(digest, batch)
            done += len(batch)
            bar.update(len(batch))
    return images, digest.hexdigest()


def _count_hits(
    classifier: KerasClassifier,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    classes: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Classifies images uint8 [B,H,W,3] with labels [B]: (hits, images), each by class [K]."""
    hits, counts = np.zeros((2, classes), int)
    for images, labels in batches:
        right = np.argmax(classifier(images).probabilities, 1) == labels
        hits += np.bincount(labels[right], minlength=classes)
        counts += np.bincount(labels, minlength=classes)
    return hits, counts


def _accuracies(hits: np.ndarray, counts: np.ndarray, name: str) -> dict[str, float]:
    """Returns the accuracy over images, and the mean over classes if their counts differ."""
    there = counts > 0
    figures = {name: float(hits.sum() / counts.sum())}
    if len(set(counts)) > 1:
        figures[f"{name}, mean over classes"] = float((hits[there] / counts[there]).mean())
    return figures


def _train(
    experiment: ClassifierExperiment, images: np.ndarray, labels: np.ndarray, run: TrainedRun
) -> keras.Model:
    """Trains the classifier of `experiment` on uint8 [n,H,W,3] with labels [n]; returns the model.

    Steps, batches and augmentation are those of the experiment; the images have the run's size.
    """
    config = dataclasses.replace(experiment.data, image_size=run.data.config.image_size)
    experiment = dataclasses.replace(experiment, data=config)
    split = make_array_split(images, labels)
    data = ImageData(run.class_names, config, experiment.seed, {"train": split})
    keras.utils.set_random_seed(experiment.seed % 2**32)
    trainer = ClassifierTrainer(experiment, len(run.class_names))
    trainer.compile()
    checks.batch_divides(experiment, tf.distribute.get_strategy().num_replicas_in_sync)
    steps = experiment.training.steps
    with progress_bar(steps, "steps", "classifier of samples") as bar:
        count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: bar.update(1))
        trainer.fit(
            data.train(), steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[count]
        )
    return trainer.ema_model
