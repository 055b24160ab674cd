"""Networks whose features pictures are compared in: the FID Inception, or any Keras classifier.

FID, sFID, IS and KID are defined by one network, the Inception of December 2015, in the file
`classify_image_graph_def.pb`; a published figure can only be compared with one from that file.
Everything else is a proxy, and its figures carry its name: "FID[my_classifier]".
"""

import re
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from vim_tf.errors import UserError
from vim_tf.evaluation.keras_classifier import hash_file, open_classifier
from vim_tf.evaluation.network_output import Features, softmax
from vim_tf.evaluation.resizing import MODES, RESIZERS
from vim_tf.replicas import over_replicas

WHERE = (
    "give --extractor the path of classify_image_graph_def.pb, the Inception of the ADM suite, or "
    "of a classifier (a run of experiment classifier, or a .keras file), whose figures are then "
    "called a proxy's; see docs/evaluation.md, 'Feature networks'"
)

# Tensors of the graph, as the evaluator of ADM (openai/guided-diffusion) and the retraining
# scripts of its time name them.
DECODED = "ExpandDims:0"  # [1,h,w,3], grey levels 0..255
RESIZED_SIZE = "ResizeBilinear/size"  # (299, 299); pictures of that size pass unchanged
POOLED = "pool_3:0"  # [1,1,1,2048]
SPATIAL = "mixed_6/conv:0"  # [1,17,17,192]
LOGITS = "softmax/logits/MatMul"  # its second input is the matrix [2048,1008]
SPATIAL_CHANNELS = 7  # those that sFID takes (arXiv 2103.03841)
INCEPTION = (2048, 7 * 17 * 17, 1008)  # features, spatial features and classes of the real file

# Removed from TensorFlow's functions, though a session of an old graph still has it.
OLD_BATCH_NORM = "BatchNormWithGlobalNormalization"


def open_extractor(path, resize=None, expected_hash=None):
    """Opens a feature network.

    Args:
        path: a frozen TensorFlow graph (.pb) with the tensor names of the FID Inception; or what
            `open_classifier` takes, a run of experiment classifier or a Keras model file (.keras).
        resize: one of `resizing.MODES`; None is adm for a graph and clean for a classifier.
        expected_hash: SHA-256 that it must have, hexadecimal; None checks nothing.

    Returns:
        An `InceptionGraph` or a `KerasClassifier`.

    Raises:
        UserError: nothing there, another hash, another kind of file, or a mode it does not have.
    """
    if path is None:
        raise UserError(f"no feature network is given; {WHERE}")
    path = Path(path)
    if not path.exists():
        raise UserError(f"--extractor is {path}, which is not there; {WHERE}")
    if resize not in (None, *MODES):
        raise UserError(f"--resize is {resize}; allowed are {', '.join(MODES)}")
    if path.is_dir() or path.suffix == ".keras":
        extractor = open_classifier(path, "--extractor", resize)
    elif path.suffix == ".pb":
        extractor = InceptionGraph(path, hash_file(path), resize)
    else:
        raise UserError(f"--extractor is {path}; it must end in .pb or .keras: {WHERE}")
    if expected_hash is not None and expected_hash.lower() != extractor.sha256:
        raise UserError(
            f"--extractor {path} has the SHA-256 {extractor.sha256}, not {expected_hash} as "
            "--extractor-hash says; get the right file"
        )
    return extractor


class InceptionGraph:
    """The FID Inception as a frozen TensorFlow 1 graph.

    Attributes:
        sha256: of the file.
        mode: one of `resizing.MODES`.
        name: "" if the graph has the sizes of the real one, otherwise the file's stem, by which
            its figures are called.
        dim: number of features D.
        spatial_dim: number of spatial features S.
        classes: number of classes K.
    """

    def __init__(self, path, sha256, mode=None):
        self.path, self.sha256, self.mode = path, sha256, mode or "adm"
        graph = _read_graph(path)
        _modernise(graph)
        self._size = _resized_size(graph, path)
        network, matrix = _import_graph(graph, path)
        self._network = over_replicas(network)
        self._matrix = matrix.astype("float64")  # [D,K]
        # The features' sizes are those of a picture, since a graph may not know them.
        probe = self._run(np.zeros((1, *self._size, 3), "uint8"))
        self.dim, self.spatial_dim = (int(np.prod(part.shape[1:])) for part in probe)
        if self.dim != len(self._matrix):
            raise UserError(
                f"--extractor {path} has {self.dim} features in {POOLED}, but {LOGITS} takes "
                f"{len(self._matrix)}; it is another graph: {WHERE}"
            )
        self.classes = self._matrix.shape[1]
        real = (self.dim, self.spatial_dim, self.classes) == INCEPTION
        self.name = "" if real else path.stem

    def __call__(self, images):
        """Images uint8 [B,h,w,3] of any size -> `Features`.

        The probabilities are those of the logits without bias, as the Inception Score of the ADM
        suite takes them.

        Raises:
            UserError: the graph's own check finds NaN or infinity.
        """
        resized = images if self.mode == "adm" else RESIZERS[self.mode](images, self._size)
        pooled, spatial = self._run(resized)
        pooled = pooled.numpy().reshape(len(images), -1)  # [B,1,1,D] -> [B,D]
        spatial = spatial.numpy().reshape(len(images), -1)  # [B,17,17,7] -> [B,S]
        return Features(pooled, spatial, softmax(pooled @ self._matrix))

    def _run(self, images):
        try:
            return self._network(tf.cast(images, tf.float32))
        except tf.errors.InvalidArgumentError as error:
            found = re.search(r"\S* : Tensor had .*", error.message)  # of CheckNumerics
            if found is None:
                raise
            raise UserError(
                f"--extractor {self.path} gives NaN or infinity ({found[0]}); the file is damaged, "
                "or no network for pictures"
            ) from None


# The frozen graph ---------------------------------------------------------------------------------


def _read_graph(path):
    graph = tf.compat.v1.GraphDef()
    try:
        graph.ParseFromString(path.read_bytes())
    except DecodeError:
        raise UserError(f"--extractor {path} is no TensorFlow graph; {WHERE}") from None
    names = {node.name for node in graph.node}
    wanted = [name.split(":")[0] for name in (DECODED, RESIZED_SIZE, POOLED, SPATIAL)]
    missing = [name for name in (*wanted, LOGITS) if name not in names]
    if missing:
        raise UserError(f"--extractor {path} is another graph, without {missing[0]}; {WHERE}")
    return graph


def _modernise(graph):
    """Changes a GraphDef of 2015 so that a function of today takes it."""
    ones = []
    for node in graph.node:
        if node.op != OLD_BATCH_NORM:
            continue
        pictures, mean, variance, beta, gamma, *controls = node.input
        if not node.attr["scale_after_normalization"].b:  # gamma is there and not applied
            gamma = f"{node.name}/vim_tf_ones"
            ones.append((gamma, beta))
        node.op = "FusedBatchNormV3"
        del node.input[:]
        node.input.extend([pictures, gamma, beta, mean, variance, *controls])
        node.attr["epsilon"].f = node.attr["variance_epsilon"].f
        node.attr["is_training"].b = False
        node.attr["U"].type = node.attr["T"].type
        for name in ("scale_after_normalization", "variance_epsilon"):
            node.attr.pop(name, None)
    for name, beta in ones:
        node = graph.node.add(name=name, op="OnesLike", input=[beta])
        node.attr["T"].type = tf.float32.as_datatype_enum
    # Today's version, since today's operation is in it now.
    graph.versions.CopyFrom(tf.Graph().as_graph_def().versions)


def _resized_size(graph, path):
    (node,) = (node for node in graph.node if node.name == RESIZED_SIZE)
    if node.op != "Const":
        raise UserError(f"--extractor {path} is another graph: its size is not fixed; {WHERE}")
    return tuple(int(side) for side in tf.make_ndarray(node.attr["value"].tensor))


def _import_graph(graph, path):
    """Returns the function images -> (pooled, spatial) and the matrix [D,K] of the logits."""
    tensors = {}

    def build():
        images = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3])
        pooled, spatial, logits = tf.compat.v1.import_graph_def(
            graph, {DECODED: images}, [POOLED, SPATIAL, LOGITS], name=""
        )
        outputs = [pooled, spatial[..., :SPATIAL_CHANNELS]]
        tensors.update(images=images, outputs=outputs, matrix=logits.inputs[1])

    try:
        whole = tf.compat.v1.wrap_function(build, [])
        matrix = whole.prune([], tensors["matrix"])().numpy()
        return whole.prune(tensors["images"], tensors["outputs"]), matrix
    except (ValueError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--extractor {path} cannot be run ({reason}); {WHERE}") from None
