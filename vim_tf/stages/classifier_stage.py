"""`experiment: classifier`: a classifier of the images' labels."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from vim_tf.annotations import Tensor
from vim_tf.config.experiments import ClassifierExperiment
from vim_tf.data.transforms import to_uint8
from vim_tf.drawing import grids
from vim_tf.errors import UserError
from vim_tf.evaluation.keras_classifier import open_classifier
from vim_tf.models.classifier import Classifier
from vim_tf.runs.run import Run
from vim_tf.stages.stage import Stage, zoom_of
from vim_tf.trainers.classifier_trainer import ClassifierTrainer

if TYPE_CHECKING:
    from vim_tf.stages.describe import Table
    from vim_tf.stages.dry_run import Report

SHOWN_PER_CLASS = 8


class ClassifierStage(Stage):
    """Trains a `Classifier`; it draws the images that the classifier assigns to each class."""

    experiment: ClassifierExperiment
    trainer: ClassifierTrainer
    shown = ("cross_entropy", "accuracy")
    panels = (
        (
            "cross-entropy (nats)",
            True,
            [("train", "cross_entropy"), ("evaluation", "cross_entropy")],
        ),
        ("accuracy", False, [("train", "accuracy"), ("evaluation", "accuracy")]),
    )

    @classmethod
    def describe(cls, experiment: ClassifierExperiment, images: Tensor, table: Table) -> None:
        """Shows the one call."""
        _, data = cls.open_sources(experiment, None)
        classes = len(data.class_names)
        table.say(f"{classes} classes, as the data has")
        model = Classifier(experiment.model, experiment.data.image_size, classes)
        table.start()
        table.show("images", images)
        table.call("Classifier(images): logits", model, images, parameters=model.count_params())

    def make_trainer(self) -> ClassifierTrainer:
        """Returns a `ClassifierTrainer`; UserError for fewer than two classes."""
        names = self.data.class_names
        if len(names) < 2:
            raise UserError(
                f"the images of data.source {self.experiment.data.source} have {len(names)} "
                "classes, and a classifier needs 2 or more; give each class its own sub-folder"
            )
        return ClassifierTrainer(self.experiment, len(names))

    @functools.cached_property
    def shown_images(self) -> Tensor:
        """The first held-out images, the same at each evaluation: [n,H,W,3] in [-1,1]."""
        count = SHOWN_PER_CLASS * 4 * len(self.data.class_names)
        return next(iter(self.data.evaluation(batch_size=count)))["image"]

    def draw_images(self) -> dict[str, np.ndarray]:
        """Held-out images by predicted class, a row each."""
        names = self.data.class_names
        taken_for = np.argmax(self.trainer.ema_model.predict(self.shown_images, verbose=0), -1)
        images = to_uint8(self.shown_images)
        rows = np.full((len(names), SHOWN_PER_CLASS, *images.shape[1:]), 255, "uint8")
        for i, row in enumerate(rows):
            found = images[taken_for == i][:SHOWN_PER_CLASS]
            row[: len(found)] = found
        return {"taken_for": grids.labelled_rows(rows, names, zoom_of(images))}

    def try_preset(self, run: Run, report: Report) -> None:
        """Classifies an image."""
        classifier = report.time("vim_tf.load of it", lambda: open_classifier(run.path, "the run"))
        image = to_uint8(next(iter(self.data.evaluation(batch_size=1)))["image"])
        shares = report.time("an image classified", lambda: classifier(image)).probabilities
        report.say(f"  {self.data.class_names[np.argmax(shares)]}, probability {shares.max():.3f}")
