"""`experiment: classifier`: a classifier of the images' labels."""

import functools

import numpy as np

from vim_tf.data.transforms import to_uint8
from vim_tf.drawing import grids
from vim_tf.errors import UserError
from vim_tf.evaluation.keras_classifier import open_classifier
from vim_tf.models.classifier import Classifier
from vim_tf.stages.stage import Stage, zoom_of
from vim_tf.trainers.classifier_trainer import ClassifierTrainer

SHOWN_PER_CLASS = 8


class ClassifierStage(Stage):
    """Trains a `Classifier`; its images are those that it takes for each class."""

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
    def describe(cls, experiment, images, table):
        """The one call."""
        _, data = cls.open_sources(experiment, None)
        classes = len(data.class_names)
        table.say(f"{classes} classes, as the data has")
        model = Classifier(experiment.model, experiment.data.image_size, classes)
        table.start()
        table.show("images", images)
        table.call("Classifier(images): logits", model, images, parameters=model.count_params())

    def make_trainer(self):
        """Returns a `ClassifierTrainer`; UserError for fewer than two classes."""
        names = self.data.class_names
        if len(names) < 2:
            raise UserError(
                f"the images of data.source {self.experiment.data.source} have {len(names)} "
                "classes, and a classifier needs 2 or more; give each class its own sub-folder"
            )
        return ClassifierTrainer(self.experiment, len(names))

    @functools.cached_property
    def shown_images(self):
        """The first held-out images, the same at each evaluation: [n,H,W,3] in [-1,1]."""
        count = SHOWN_PER_CLASS * 4 * len(self.data.class_names)
        return next(iter(self.data.evaluation(batch_size=count)))["image"]

    def draw_images(self):
        """Held-out images by the class that they are taken for, a row each."""
        names = self.data.class_names
        taken_for = np.argmax(self.trainer.ema_model.predict(self.shown_images, verbose=0), -1)
        images = to_uint8(self.shown_images)
        rows = np.full((len(names), SHOWN_PER_CLASS, *images.shape[1:]), 255, "uint8")
        for i, row in enumerate(rows):
            found = images[taken_for == i][:SHOWN_PER_CLASS]
            row[: len(found)] = found
        return {"taken_for": grids.labelled_rows(rows, names, zoom_of(images))}

    def try_preset(self, run, report):
        """Classifies an image."""
        classifier = report.time("vim_tf.load of it", lambda: open_classifier(run.path, "the run"))
        image = to_uint8(next(iter(self.data.evaluation(batch_size=1)))["image"])
        shares = report.time("an image classified", lambda: classifier(image)).probabilities
        report.say(f"  {self.data.class_names[np.argmax(shares)]}, probability {shares.max():.3f}")
