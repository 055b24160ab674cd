"""An image classifier for evaluation: one of our own runs, or any Keras model file.

It is used as a proxy for the Inception, to measure how many samples are of their class, and to
choose the samples that are kept.
"""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from vim_tf.annotations import StrPath
from vim_tf.data.transforms import normalize
from vim_tf.distribution.replicas import over_replicas
from vim_tf.errors import UserError
from vim_tf.evaluation.graph_checks import check_tensors
from vim_tf.evaluation.keras_archive import load_archive
from vim_tf.evaluation.network_files import check_hash, read_network
from vim_tf.evaluation.network_output import Features, softmax
from vim_tf.evaluation.resizing import RESIZERS
from vim_tf.messages import reason_of, shorten
from vim_tf.models.classifier import Classifier
from vim_tf.runs.load import load


def open_classifier(
    path: StrPath,
    argument: str = "classifier",
    resize: str | None = None,
    expected_hash: str | None = None,
) -> "KerasClassifier":
    """Opens a classifier of images in [-1,1].

    A file is hashed before any part of it is parsed; the hashed bytes are loaded.

    Args:
        path: the folder of a run of experiment classifier or of its preset; or a `.keras` file, any
            functional or sequential model [B,H,W,3] -> features [B,D] -> [B,K].
        argument: name of the command's argument, for errors.
        resize: how to resize to the model's size, "clean" (also for None) or "legacy"; see
            `resizing`.
        expected_hash: the expected SHA-256, hexadecimal; None skips the check.

    Returns:
        A `KerasClassifier`.

    Raises:
        UserError: there is no classifier, it has another hash, or it is another kind of model.
    """
    path = Path(path)
    if resize == "adm":
        raise UserError(
            f"resize is adm, the resize inside the Inception graph, which {path} does not "
            "have; allowed are clean and legacy"
        )
    if path.is_dir():
        model = load(path)
        if not isinstance(model, Classifier):
            raise UserError(
                f"{argument} {path} holds a {type(model).__name__}; give a run of experiment "
                "classifier, or a .keras file"
            )
        assert model.metadata is not None  # `load` sets it
        names = tuple(model.metadata.get("class_names", ()))
        sha256 = model.model_hash()
        found = KerasClassifier(path, model, sha256, names, resize)
        check_hash(path, argument, sha256, expected_hash)
        return found
    if not path.is_file() or path.suffix != ".keras":
        raise UserError(
            f"{argument} is {path}, which is no classifier; give the folder of a run of experiment "
            "classifier, or a .keras file"
        )
    data, sha256 = read_network(path, argument, expected_hash)
    model = _load_keras(data, f"{argument} {path}")
    return KerasClassifier(path, model, sha256, (), resize)


class KerasClassifier:
    """A classifier as a feature network, see `features`; created by `open_classifier`.

    The features are the inputs of its last layer. Its outputs are the probabilities if the last
    layer ends in a softmax. Otherwise, the probabilities are the softmax of its outputs.

    Attributes:
        path: the file or folder that it was loaded from.
        sha256: of the file, or of a run's weights; None for a model that was never saved.
        class_names: name of class i at place i; () if the file does not contain them.
        mode: a key of `resizing.RESIZERS`.
        name: the stem of the path, which appears in the names of its figures.
        dim: number of features D.
        spatial_dim: None; only the Inception supports sFID.
        classes: number of classes K.
    """

    spatial_dim = None

    def __init__(
        self,
        path: Path,
        model: keras.Model,
        sha256: str | None,
        class_names: Sequence[str],
        resize: str | None = None,
    ) -> None:
        self.path, self.sha256, self.class_names = path, sha256, class_names
        self.mode, self.name = resize or "clean", path.stem
        last = model.layers[-1]
        self._gives_probabilities = (
            isinstance(last, keras.layers.Softmax)
            or getattr(last, "activation", None) is keras.activations.softmax
        )
        network = keras.Model(model.inputs, [last.input, model.outputs[0]])
        self._function = lambda images: network(images, training=False)
        self._network = over_replicas(self._function)
        self._size = model.inputs[0].shape[1:3]  # (None, None): images are not resized
        self._checked: set[tuple[int, int]] = set()  # sizes
        if None not in self._size:
            self._check_size(self._size)
        self.dim, self.classes = last.input.shape[1], model.outputs[0].shape[1]

    def __call__(self, images: np.ndarray) -> Features:
        """Images uint8 [B,h,w,3] of any size -> `Features` without spatial features.

        Raises:
            UserError: the model does not accept the images, or would need too much memory.
        """
        if None in self._size:
            self._check_size(images.shape[1:3])
        elif images.shape[1:3] != self._size:
            images = RESIZERS[self.mode](images, self._size)
        try:
            pooled, output = self._network(normalize(images))
        except (ValueError, tf.errors.OpError) as error:
            raise self._cannot_run(error) from None
        output = tf.cast(output, tf.float64).numpy()
        with np.errstate(invalid="ignore"):  # the caller reports NaN features with their image
            probabilities = output if self._gives_probabilities else softmax(output)
        return Features(tf.cast(pooled, tf.float32).numpy(), None, probabilities)

    def _check_size(self, size: tuple[int, int]) -> None:
        """Checks memory and work in the graph for one image; nothing is computed."""
        if size in self._checked:
            return
        image = tf.TensorSpec((1, *size, 3), tf.float32)
        try:
            graph = tf.compat.v1.wrap_function(self._function, [image]).graph
        except Exception as error:  # a layer may raise anything for an unexpected config
            raise self._cannot_run(error) from None
        check_tensors(graph.get_operations(), str(self.path))
        self._checked.add(size)

    def _cannot_run(self, error: Exception) -> UserError:
        return UserError(f"{self.path} cannot be run as a classifier of images: {reason_of(error)}")

    def label_probabilities(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Images uint8 [B,h,w,3], labels [B] -> probability of each image's label, float64 [B]."""
        return self(images).probabilities[np.arange(len(labels)), labels]

    def check_classes(self, class_names: Sequence[str], argument: str) -> None:
        """Raises UserError unless its classes are those of a model.

        Args:
            class_names: the model's.
            argument: name of the command's argument that gave the classifier.
        """
        if not class_names:
            raise UserError(
                f"{argument} {self.path} judges samples by their class, and the model was trained "
                "without labels; leave it out"
            )
        if self.classes != len(class_names):
            raise UserError(
                f"{argument} {self.path} knows {self.classes} classes, and the model has "
                f"{len(class_names)}; give a classifier of the same images"
            )
        if self.class_names and tuple(self.class_names) != tuple(class_names):
            place = next(
                i
                for i, pair in enumerate(zip(self.class_names, class_names, strict=True))
                if pair[0] != pair[1]
            )
            raise UserError(
                f"{argument} {self.path} calls class {place} {self.class_names[place]}, and the "
                f"model calls it {class_names[place]}; give a classifier of the same images"
            )


def _load_keras(data: bytes, name: str) -> keras.Model:
    model = load_archive(data, name)
    wanted = "give a functional or sequential classifier: [B,H,W,3] -> features [B,D] -> [B,K]"
    try:
        shapes = [tuple(t.shape) for t in (*model.inputs, model.layers[-1].input, *model.outputs)]
    except (AttributeError, TypeError, ValueError, IndexError):
        raise UserError(f"{name} is no graph of layers; {wanted}") from None
    ranks = [len(shape) for shape in shapes]
    if ranks != [4, 2, 2] or shapes[0][3] != 3 or None in (shapes[1][1], shapes[2][1]):
        shown = shorten(" -> ".join(map(str, shapes)))
        raise UserError(f"{name} has the shapes {shown}; {wanted}")
    return model
