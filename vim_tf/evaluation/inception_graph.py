"""The FID Inception as a frozen TensorFlow 1 graph, in the file `classify_image_graph_def.pb`."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from vim_tf.annotations import Tensor
from vim_tf.distribution.replicas import over_replicas
from vim_tf.errors import UserError
from vim_tf.evaluation.graph_checks import (
    OLD_BATCH_NORM,
    check_tensors,
    cut_out,
    read_graph,
    source_of,
)
from vim_tf.evaluation.network_output import Features, softmax
from vim_tf.evaluation.resizing import RESIZERS
from vim_tf.messages import reason_of, shorten

WHERE = (
    "give extractor the path of classify_image_graph_def.pb, the Inception of the ADM suite, or "
    "of a classifier (a run of experiment classifier, or a .keras file), whose figures are then "
    "called a proxy's; see docs/evaluation.md, 'Feature networks'"
)

# Names of the graph's nodes, as in the evaluator of ADM (openai/guided-diffusion) and in the
# retraining scripts of that time.
DECODED = "ExpandDims"  # [1,h,w,3], grey levels 0..255
RESIZED_SIZE = "ResizeBilinear/size"  # (299, 299); images of that size pass unchanged
POOLED = "pool_3"  # [1,1,1,2048]
SPATIAL = "mixed_6/conv"  # [1,17,17,192]
LOGITS = "softmax/logits/MatMul"  # its second input is the matrix [2048,1008]
SPATIAL_CHANNELS = 7  # the first ones, used by sFID (arXiv 2103.03841)
INCEPTION = (2048, 7 * 17 * 17, 1008)  # features, spatial features and classes of the real file
MOST_SIDE = 2_048  # pixels of the fixed size


class InceptionGraph:
    """The network as a function of images.

    No part of the graph is run or given to TensorFlow before `graph_checks` has accepted it.

    Args:
        path: the file that it was read from.
        data: the bytes of a GraphDef.
        sha256: of the bytes.
        mode: one of `resizing.MODES`; None is adm.

    Attributes:
        path: as given.
        sha256: as given.
        mode: as given.
        name: "" if the graph has the sizes of the real one. Otherwise, the stem of the file, which
            appears in the names of its figures.
        dim: number of features D.
        spatial_dim: number of spatial features S.
        classes: number of classes K.

    Raises:
        UserError: another graph, or one that `graph_checks` refuses.
    """

    def __init__(self, path: Path, data: bytes, sha256: str, mode: str | None = None) -> None:
        self.path, self.sha256, self.mode = path, sha256, mode or "adm"
        name = f"extractor {path}"
        graph = read_graph(data, name)
        self._size = _resized_size(graph, name)
        matrix = _matrix_of(graph, name)
        modernise(graph)
        part = cut_out(graph, DECODED, (POOLED, SPATIAL, source_of(matrix)), name)
        weights = cut_out(graph, DECODED, (source_of(matrix),), name)
        if any(DECODED in map(source_of, node.input) for node in weights.node):
            raise UserError(f"{name} computes the matrix of {LOGITS} from the images; {WHERE}")
        pooled, spatial = check_shapes(part, self._size, name)
        self.dim = math.prod(pooled)
        self.spatial_dim = math.prod(spatial[:2]) * min(spatial[2], SPATIAL_CHANNELS)
        network, matrix = import_graph(part, matrix, name)
        self._network = over_replicas(network)
        if matrix.ndim != 2 or matrix.dtype != np.float32 or len(matrix) != self.dim:
            raise UserError(
                f"{name} has {self.dim} features in {POOLED}, but {LOGITS} takes {matrix.dtype} "
                f"{list(matrix.shape)}; it is another graph: {WHERE}"
            )
        if not np.isfinite(matrix).all():
            raise UserError(f"{name} has NaN or infinity in the matrix of {LOGITS}; it is damaged")
        self._matrix = matrix.astype("float64")  # [D,K]
        self.classes = matrix.shape[1]
        self._run(np.zeros((1, *self._size, 3), "uint8"))  # fails here if it cannot be run
        real = (self.dim, self.spatial_dim, self.classes) == INCEPTION
        self.name = "" if real else path.stem

    def __call__(self, images: np.ndarray) -> Features:
        """Images uint8 [B,h,w,3] of any size -> `Features`.

        The probabilities are computed from the logits without bias, as in the Inception Score of
        the ADM suite.

        Raises:
            UserError: the graph's own check finds NaN or infinity, or it cannot be run.
        """
        resized = images if self.mode == "adm" else RESIZERS[self.mode](images, self._size)
        pooled, spatial = self._run(resized)
        pooled = pooled.numpy().reshape(len(images), -1)  # [B,1,1,D] -> [B,D]
        spatial = spatial.numpy().reshape(len(images), -1)  # [B,17,17,7] -> [B,S]
        with np.errstate(invalid="ignore"):  # the caller reports NaN features with their image
            return Features(pooled, spatial, softmax(pooled @ self._matrix))

    def _run(self, images: np.ndarray) -> tuple[Tensor, Tensor]:
        try:
            return self._network(tf.cast(images, tf.float32))
        except tf.errors.OpError as error:
            found = re.search(r"\S* : Tensor had .*", error.message)  # from CheckNumerics
            if found is None:
                raise _cannot_run(f"extractor {self.path}", error) from None
            raise UserError(
                f"extractor {self.path} gives NaN or infinity ({shorten(found[0])}); the file is "
                "damaged, or not made for images"
            ) from None


def _resized_size(graph: graph_pb2.GraphDef, name: str) -> tuple[int, int]:
    """Returns (height, width) that the graph resizes to."""
    nodes = {node.name: node for node in graph.node}
    for wanted in (DECODED, RESIZED_SIZE, POOLED, SPATIAL, LOGITS):
        if wanted not in nodes:
            raise UserError(f"{name} is another graph: it has no {wanted}; {WHERE}")
    node = nodes[RESIZED_SIZE]
    if node.op != "Const":
        raise UserError(f"{name} is another graph: its size is not fixed; {WHERE}")
    size = tf.make_ndarray(node.attr["value"].tensor)
    if size.shape != (2,) or size.dtype != np.int32 or not (1 <= size.min() <= size.max()):
        raise UserError(f"{name} is another graph: {RESIZED_SIZE} is {shorten(str(size))}; {WHERE}")
    if size.max() > MOST_SIDE:
        raise UserError(
            f"{name} resizes to {size.tolist()} pixels; at most {MOST_SIDE:,} is allowed"
        )
    return tuple(size.tolist())


def _matrix_of(graph: graph_pb2.GraphDef, name: str) -> str:
    """Returns the name of the matrix [D,K] that gives the logits."""
    (node,) = (node for node in graph.node if node.name == LOGITS)
    turned = node.attr["transpose_a"].b or node.attr["transpose_b"].b
    if node.op != "MatMul" or turned or len(node.input) < 2 or node.input[1].startswith("^"):
        raise UserError(f"{name} is another graph: {LOGITS} does not multiply by a matrix; {WHERE}")
    return node.input[1]


def modernise(graph: graph_pb2.GraphDef) -> None:
    """Changes a GraphDef of 2015 in place so that today's TensorFlow functions can run it."""
    ones = []
    for node in graph.node:
        if node.op != OLD_BATCH_NORM or len(node.input) < 5:
            continue
        images, mean, variance, beta, gamma, *controls = node.input
        if not node.attr["scale_after_normalization"].b:  # gamma is there and not applied
            gamma = f"{node.name}/vim_tf_ones"
            ones.append((gamma, beta))
        node.op = "FusedBatchNormV3"
        del node.input[:]
        node.input.extend([images, gamma, beta, mean, variance, *controls])
        node.attr["epsilon"].f = node.attr["variance_epsilon"].f
        node.attr["is_training"].b = False
        node.attr["U"].type = node.attr["T"].type
        for name in ("scale_after_normalization", "variance_epsilon"):
            node.attr.pop(name, None)
    for name, beta in ones:
        node = graph.node.add(name=name, op="OnesLike", input=[beta])
        node.attr["T"].type = tf.float32.as_datatype_enum
    # Today's version, because the graph now contains an operation of today.
    graph.versions.CopyFrom(tf.Graph().as_graph_def().versions)


def check_shapes(part: graph_pb2.GraphDef, size: tuple[int, int], name: str) -> list[list[int]]:
    """Checks the shapes of all tensors without running anything.

    Args:
        part: the GraphDef, without the nodes before the input.
        size: (height, width) that it resizes to.
        name: the graph's name in errors.

    Returns:
        The shapes of one image's features and spatial features, each [height, width, channels].

    Raises:
        UserError: `check_tensors` refuses the graph; or the first axis of a tensor is not the axis
            of the images, so memory could grow faster than their number.
    """
    shapes = []
    for count in (1, 2):
        with tf.Graph().as_default() as building:
            images = tf.compat.v1.placeholder(tf.float32, [count, *size, 3])
            _import(part, images, [], name)
            operations = building.get_operations()
        shapes.append(check_tensors(operations, name))
    for operation, ones in shapes[0].items():
        for one, two in zip(ones, shapes[1][operation], strict=True):
            if two not in (one, [2, *one[1:]]):
                raise UserError(
                    f"{name} mixes images: {shorten(operation)} gives {one} for one image and "
                    f"{two} for two; it is another graph: {WHERE}"
                )
    features = [shapes[1][wanted][0] for wanted in (POOLED, SPATIAL)]
    for shape in features:
        if len(shape) != 4 or shape[0] != 2:
            raise UserError(f"{name} gives features of the shape {shape} for two images; {WHERE}")
    return [shape[1:] for shape in features]


def import_graph(
    part: graph_pb2.GraphDef, matrix: str, name: str
) -> tuple[Callable[[Tensor], tuple[Tensor, Tensor]], np.ndarray]:
    """Returns the function images -> (pooled, spatial), and the matrix [D,K] of the logits.

    Args:
        part: as in `check_shapes`.
        matrix: name of the matrix's tensor.
        name: the graph's name in errors.
    """
    tensors: dict[str, Tensor] = {}

    def build() -> None:
        images = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3])
        matrix_tensor = matrix if ":" in matrix else f"{matrix}:0"
        wanted = [f"{POOLED}:0", f"{SPATIAL}:0", matrix_tensor]
        pooled, spatial, found = _import(part, images, wanted, name)
        outputs = [pooled, spatial[..., :SPATIAL_CHANNELS]]
        tensors.update(images=images, outputs=outputs, matrix=found)

    whole = tf.compat.v1.wrap_function(build, [])
    try:
        values = whole.prune([], tensors["matrix"])().numpy()
        return whole.prune(tensors["images"], tensors["outputs"]), values
    except (ValueError, tf.errors.OpError) as error:
        raise _cannot_run(name, error) from None


def _import(
    part: graph_pb2.GraphDef, images: Tensor, wanted: Sequence[str], name: str
) -> Sequence[Tensor]:
    try:
        return tf.compat.v1.import_graph_def(part, {f"{DECODED}:0": images}, wanted, name="")
    except (ValueError, tf.errors.OpError) as error:
        raise _cannot_run(name, error) from None


def _cannot_run(name: str, error: Exception) -> UserError:
    return UserError(f"{name} cannot be run ({reason_of(error)}); {WHERE}")
