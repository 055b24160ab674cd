"""Networks whose features images are compared in: the FID Inception, or any Keras classifier.

FID, sFID, IS and KID are defined by one network, the Inception of December 2015, in the file
`classify_image_graph_def.pb`; a published figure can only be compared with one from that file.
Everything else is a proxy, and its figures carry its name: "FID[my_classifier]".
"""

from pathlib import Path

from vim_tf.errors import UserError
from vim_tf.evaluation.inception_graph import WHERE, InceptionGraph
from vim_tf.evaluation.keras_classifier import open_classifier
from vim_tf.evaluation.network_files import read_network
from vim_tf.evaluation.resizing import MODES


def open_extractor(path, resize=None, expected_hash=None):
    """Opens a feature network.

    The file of one is hashed before anything of it is parsed.

    Args:
        path: a frozen TensorFlow graph (.pb) with the tensor names of the FID Inception; or what
            `open_classifier` takes, a run of experiment classifier or a Keras model file (.keras).
        resize: one of `resizing.MODES`; None is adm for a graph and clean for a classifier.
        expected_hash: SHA-256 that it must have, hexadecimal; None checks nothing.

    Returns:
        An `InceptionGraph` or a `KerasClassifier`.

    Raises:
        UserError: nothing there, another hash, another kind of file, one that asks for more than
            such a network needs, or a mode it does not have.
    """
    if path is None:
        raise UserError(f"no feature network is given; {WHERE}")
    path = Path(path)
    if not path.exists():
        raise UserError(f"extractor is {path}, which is not there; {WHERE}")
    if resize not in (None, *MODES):
        raise UserError(f"resize is {resize}; allowed are {', '.join(MODES)}")
    if path.is_dir() or path.suffix == ".keras":
        return open_classifier(path, "extractor", resize, expected_hash)
    if path.suffix != ".pb":
        raise UserError(f"extractor is {path}; it must end in .pb or .keras: {WHERE}")
    return InceptionGraph(path, *read_network(path, "extractor", expected_hash), resize)
