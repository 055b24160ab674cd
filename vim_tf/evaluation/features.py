"""The feature networks that images are compared with: the FID Inception or any Keras classifier.

FID, sFID, IS and KID are defined by one network, the Inception of December 2015, in the file
`classify_image_graph_def.pb`. A published figure can only be compared with a figure from that file.
Every other network is a proxy, and its figures carry its name: "FID[my_classifier]".
"""

from pathlib import Path
from typing import TypeAlias

from vim_tf.annotations import StrPath
from vim_tf.errors import UserError
from vim_tf.evaluation.inception_graph import WHERE, InceptionGraph
from vim_tf.evaluation.keras_classifier import KerasClassifier, open_classifier
from vim_tf.evaluation.network_files import read_network
from vim_tf.evaluation.resizing import MODES

FeatureNetwork: TypeAlias = InceptionGraph | KerasClassifier


def open_extractor(
    path: StrPath | None, resize: str | None = None, expected_hash: str | None = None
) -> FeatureNetwork:
    """Opens a feature network.

    A file is hashed before any part of it is parsed.

    Args:
        path: a frozen TensorFlow graph (.pb) with the tensor names of the FID Inception; or, as for
            `open_classifier`, a run of experiment classifier or a Keras model file (.keras).
        resize: one of `resizing.MODES`; None is adm for a graph and clean for a classifier.
        expected_hash: the expected SHA-256, hexadecimal; None skips the check.

    Returns:
        An `InceptionGraph` or a `KerasClassifier`.

    Raises:
        UserError: there is no such file, it has another hash, it is another kind of file, it needs
            more memory or work than such a network, or it does not support the mode.
    """
    if path is None:
        raise UserError(f"no feature network is given; {WHERE}")
    path = Path(path)
    if not path.exists():
        raise UserError(f"extractor is {path}, which does not exist; {WHERE}")
    if resize not in (None, *MODES):
        raise UserError(f"resize is {resize}; allowed are {', '.join(MODES)}")
    if path.is_dir() or path.suffix == ".keras":
        return open_classifier(path, "extractor", resize, expected_hash)
    if path.suffix != ".pb":
        raise UserError(f"extractor is {path}; it must end in .pb or .keras: {WHERE}")
    return InceptionGraph(path, *read_network(path, "extractor", expected_hash), resize)
