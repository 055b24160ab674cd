"""A classifier of pictures in use: one of our own runs, or any Keras model file.

It stands in for the Inception as a proxy, judges how many samples are of their class, and says
which of them to keep.
"""

import hashlib
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from vim_tf.data.transforms import normalize
from vim_tf.errors import UserError
from vim_tf.evaluation.network_output import Features, softmax
from vim_tf.evaluation.resizing import RESIZERS
from vim_tf.models.classifier import Classifier
from vim_tf.presets import load
from vim_tf.replicas import over_replicas


def open_classifier(path, argument, resize=None):
    """Opens a classifier of pictures in [-1,1].

    Args:
        path: the folder of a run of experiment classifier or of its preset; or a `.keras` file, any
            functional or sequential model [B,H,W,3] -> features [B,D] -> [B,K].
        argument: the command's argument that gave it, for errors.
        resize: to the model's size, "clean" (None, too) or "legacy"; see `resizing`.

    Returns:
        A `KerasClassifier`.

    Raises:
        UserError: there is none, or it is another kind of model.
    """
    path = Path(path)
    if resize == "adm":
        raise UserError(
            f"--resize is adm, the resize inside the Inception graph, which {path} does not "
            "have; allowed are clean and legacy"
        )
    if path.is_dir():
        model = load(path)
        if not isinstance(model, Classifier):
            raise UserError(
                f"{argument} {path} holds a {type(model).__name__}; give a run of experiment "
                "classifier, or a .keras file"
            )
        names = tuple(model.metadata.get("class_names", ()))
        return KerasClassifier(path, model, model.weights_hash(), names, resize)
    if not path.is_file() or path.suffix != ".keras":
        raise UserError(
            f"{argument} is {path}, which is no classifier; give the folder of a run of experiment "
            "classifier, or a .keras file"
        )
    return KerasClassifier(path, _load_keras(path, argument), hash_file(path), (), resize)


def hash_file(path):
    """Returns the SHA-256 of a file's bytes as a hexadecimal string."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class KerasClassifier:
    """A classifier as a feature network, see `features`; what `open_classifier` returns.

    The features are what goes into its last layer, and its output gives the probabilities: as they
    are if the last layer ends in a softmax, otherwise by the softmax of them.

    Attributes:
        path: where it came from.
        sha256: of the file, or of a run's weights.
        class_names: name of class i at place i; () if the file does not say.
        mode: of `resizing.RESIZERS`.
        name: the stem of the path, by which its figures are called.
        dim: number of features D.
        spatial_dim: None; sFID is the Inception's.
        classes: number of classes K.
    """

    spatial_dim = None

    def __init__(self, path, model, sha256, class_names, resize=None):
        self.path, self.sha256, self.class_names = path, sha256, class_names
        self.mode, self.name = resize or "clean", path.stem
        last = model.layers[-1]
        self._gives_probabilities = (
            isinstance(last, keras.layers.Softmax)
            or getattr(last, "activation", None) is keras.activations.softmax
        )
        network = keras.Model(model.inputs, [last.input, model.outputs[0]])
        self._network = over_replicas(lambda images: network(images, training=False))
        self._size = model.inputs[0].shape[1:3]  # (None, None) takes pictures as they are
        self.dim, self.classes = last.input.shape[1], model.outputs[0].shape[1]

    def __call__(self, images):
        """Images uint8 [B,h,w,3] of any size -> `Features` without spatial ones."""
        if None not in self._size and images.shape[1:3] != self._size:
            images = RESIZERS[self.mode](images, self._size)
        pooled, output = self._network(normalize(images))
        output = tf.cast(output, tf.float64).numpy()
        probabilities = output if self._gives_probabilities else softmax(output)
        return Features(tf.cast(pooled, tf.float32).numpy(), None, probabilities)

    def label_probabilities(self, images, labels):
        """Images uint8 [B,h,w,3], labels [B] -> probability of each one's label, float64 [B]."""
        return self(images).probabilities[np.arange(len(labels)), labels]

    def check_classes(self, class_names, argument):
        """Raises UserError unless its classes are those of a model.

        Args:
            class_names: the model's.
            argument: the command's argument that gave the classifier.
        """
        if not class_names:
            raise UserError(
                f"{argument} {self.path} judges samples by their class, and the model was trained "
                "without labels; leave it out"
            )
        if self.classes != len(class_names):
            raise UserError(
                f"{argument} {self.path} knows {self.classes} classes, and the model has "
                f"{len(class_names)}; give a classifier of the same pictures"
            )
        if self.class_names and tuple(self.class_names) != tuple(class_names):
            place = next(
                i
                for i, pair in enumerate(zip(self.class_names, class_names, strict=True))
                if pair[0] != pair[1]
            )
            raise UserError(
                f"{argument} {self.path} calls class {place} {self.class_names[place]}, and the "
                f"model calls it {class_names[place]}; give a classifier of the same pictures"
            )


def _load_keras(path, argument):
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever comes up
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{argument} {path} cannot be loaded as a Keras model: {reason}") from None
    wanted = "give a functional or sequential classifier: [B,H,W,3] -> features [B,D] -> [B,K]"
    try:
        shapes = [tuple(t.shape) for t in (*model.inputs, model.layers[-1].input, *model.outputs)]
    except (AttributeError, TypeError, ValueError, IndexError):
        raise UserError(f"{argument} {path} is no graph of layers; {wanted}") from None
    ranks = [len(shape) for shape in shapes]
    if ranks != [4, 2, 2] or shapes[0][3] != 3:
        shown = " -> ".join(map(str, shapes))
        raise UserError(f"{argument} {path} has the shapes {shown}; {wanted}")
    return model
