"""Networks whose features pictures are compared in: the FID Inception, or any Keras classifier.

FID, sFID, IS and KID are defined by one network, the Inception of December 2015, in the file
`classify_image_graph_def.pb`; a published figure can only be compared with one from that file.
Everything else is a proxy, and its figures carry its name: "FID[my_classifier]".
"""

import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from vim_tf.data.transforms import normalize
from vim_tf.errors import UserError
from vim_tf.evaluation.resizing import MODES, RESIZERS

WHERE = (
    "give --extractor the path of classify_image_graph_def.pb, the Inception of the ADM suite, or "
    "of a .keras classifier, whose figures are then called a proxy's; see docs/evaluation.md, "
    "'Feature networks'"
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


class Features(NamedTuple):
    """What a network says of a batch, all NumPy.

    Attributes:
        pooled: float32 [B,D], for FID, KID, precision and recall.
        spatial: float32 [B,S] for sFID; None where the network has none.
        probabilities: float64 [B,K], for the Inception Score.
    """

    pooled: np.ndarray
    spatial: Any
    probabilities: np.ndarray


def open_extractor(path, resize=None, expected_hash=None):
    """Opens a feature network.

    Args:
        path: a frozen TensorFlow graph (.pb) with the tensor names of the FID Inception, or a
            Keras model file (.keras).
        resize: one of `resizing.MODES`; None is adm for a graph and clean for a Keras model.
        expected_hash: SHA-256 that the file must have, hexadecimal; None checks nothing.

    Returns:
        An `InceptionGraph` or a `KerasClassifier`.

    Raises:
        UserError: no such file, another hash, another kind of file, or a mode it does not have.
    """
    if path is None:
        raise UserError(f"no feature network is given; {WHERE}")
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--extractor is {path}, which is no file; {WHERE}")
    sha256 = hash_file(path)
    if expected_hash is not None and expected_hash.lower() != sha256:
        raise UserError(
            f"--extractor {path} has the SHA-256 {sha256}, not {expected_hash} as "
            "--extractor-hash says; get the right file"
        )
    if resize not in (None, *MODES):
        raise UserError(f"--resize is {resize}; allowed are {', '.join(MODES)}")
    kinds = {".pb": InceptionGraph, ".keras": KerasClassifier}
    if path.suffix not in kinds:
        raise UserError(f"--extractor is {path}; it must end in .pb or .keras: {WHERE}")
    return kinds[path.suffix](path, sha256, resize)


def hash_file(path):
    """Returns the SHA-256 of a file's bytes as a hexadecimal string."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        self._network, matrix = _import_graph(graph, path)
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
        return Features(pooled, spatial, _softmax(pooled @ self._matrix))

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


class KerasClassifier:
    """Any Keras classifier of pictures in [-1,1] as a proxy network.

    The features are what goes into its last layer, and its output gives the probabilities: as they
    are if the last layer ends in a softmax, otherwise by the softmax of them.

    Attributes:
        sha256: of the file.
        mode: one of `resizing.MODES` but adm.
        name: the file's stem, by which its figures are called.
        dim: number of features D.
        spatial_dim: None; sFID is the Inception's.
        classes: number of classes K.
    """

    spatial_dim = None

    def __init__(self, path, sha256, mode=None):
        if mode == "adm":
            raise UserError(
                f"--resize is adm, the resize inside the Inception graph, which {path} does not "
                "have; allowed are clean and legacy"
            )
        self.path, self.sha256, self.mode, self.name = path, sha256, mode or "clean", path.stem
        model = _load_keras(path)
        last = model.layers[-1]
        softmax = keras.activations.softmax
        self._gives_probabilities = (
            isinstance(last, keras.layers.Softmax) or getattr(last, "activation", None) is softmax
        )
        network = keras.Model(model.inputs, [last.input, model.outputs[0]])
        self._network = tf.function(
            lambda images: network(images, training=False), reduce_retracing=True, autograph=False
        )
        self._size = model.inputs[0].shape[1:3]  # (None, None) takes pictures as they are
        self.dim, self.classes = last.input.shape[1], model.outputs[0].shape[1]

    def __call__(self, images):
        """Images uint8 [B,h,w,3] of any size -> `Features`, `spatial` None."""
        if None not in self._size and images.shape[1:3] != self._size:
            images = RESIZERS[self.mode](images, self._size)
        pooled, output = self._network(normalize(images))
        output = tf.cast(output, tf.float64).numpy()
        probabilities = output if self._gives_probabilities else _softmax(output)
        return Features(tf.cast(pooled, tf.float32).numpy(), None, probabilities)


def _softmax(logits):
    """Logits [B,K] -> probabilities, float64."""
    exponentials = np.exp(logits - logits.max(1, keepdims=True), dtype="float64")
    return exponentials / exponentials.sum(1, keepdims=True)


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


# Keras --------------------------------------------------------------------------------------------


def _load_keras(path):
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever comes up
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--extractor {path} cannot be loaded as a Keras model: {reason}") from None
    wanted = "give a functional or sequential classifier: [B,H,W,3] -> features [B,D] -> [B,K]"
    try:
        shapes = [tuple(t.shape) for t in (*model.inputs, model.layers[-1].input, *model.outputs)]
    except (AttributeError, TypeError, ValueError, IndexError):
        raise UserError(f"--extractor {path} is no graph of layers; {wanted}") from None
    ranks = [len(shape) for shape in shapes]
    if ranks != [4, 2, 2] or shapes[0][3] != 3:
        shown = " -> ".join(map(str, shapes))
        raise UserError(f"--extractor {path} has the shapes {shown}; {wanted}")
    return model
