"""LPIPS: how different two images look to a VGG16 with learned channel weights.

Zhang et al., arXiv 1801.03924, section 3. Figures are comparable with those of the authors' package
`lpips`, version 0.1 of `net="vgg"`; its AlexNet gives other figures. The user provides the weights
in one file, which is read without PyTorch.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import tensorflow as tf

from vim_tf.annotations import StrPath, Tensor
from vim_tf.costs.parameters import VGG16_STAGES
from vim_tf.distribution.replicas import over_replicas
from vim_tf.errors import UserError
from vim_tf.evaluation.network_files import read_network
from vim_tf.messages import reason_of, shorten

NETWORK = "VGG16, LPIPS version 0.1"
FIGURE = "LPIPS"
PSEUDO = re.compile(r"pseudo-LPIPS\[[\w.-]{1,40}\]")  # the name of a figure of another network
WHERE = (
    'give the weights of lpips.LPIPS(net="vgg") as a .safetensors file; docs/evaluation.md, '
    "'LPIPS', has the lines that write it"
)

MOST_HEADER = 2**20  # bytes of JSON before the tensors; the real file has 2^12
MIN_SIDE = 2 ** (len(VGG16_STAGES) - 1)  # pixels; the last block must have one
EPSILON = 1e-10  # added to a length, not to its square: the authors' choice
IMAGES_AT_ONCE = 8  # pairs; the first block holds 64 floats for each pixel of both images


def _blocks():
    """The network's blocks: (indices of their convolutions, channels).

    The indices are those among the layers of torchvision's VGG16, where an activation follows each
    convolution and a pooling each block. The file's names contain them. LPIPS uses the output of
    each block.
    """
    blocks, first = [], 0
    for convolutions, channels in VGG16_STAGES:
        blocks.append((tuple(range(first, first + 2 * convolutions, 2)), channels))
        first += 2 * convolutions + 1
    return tuple(blocks)


BLOCKS = _blocks()


def open_lpips(path: StrPath) -> "LPIPS":
    """Opens the weights of the VGG variant.

    Args:
        path: a .safetensors file of the state_dict of `lpips.LPIPS(net="vgg")`, float32; other
            tensors in it are ignored. A file with the convolutions of another VGG16 names its
            figure in its metadata: {"name": "pseudo-LPIPS[...]"}.

    Returns:
        An `LPIPS`.

    Raises:
        UserError: there is no such file, it is no .safetensors file, or a tensor is missing, has
            another shape or type, or contains NaN.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"lpips is {path}, which is no file; {WHERE}")
    data, sha256 = read_network(path, "lpips")
    tensors = _read_tensors(data, f"lpips {path}")
    return LPIPS(path, sha256, tensors, _read_name(data, path))


class LPIPS:
    """The distance as a function of images; created by `open_lpips`.

    Attributes:
        path: of the file.
        sha256: of the file.
        name: of its figure: "LPIPS", or that of a pseudo-LPIPS, see `open_lpips`.
    """

    def __init__(
        self, path: Path, sha256: str, tensors: Mapping[str, np.ndarray], name: str = FIGURE
    ) -> None:
        self.path, self.sha256, self.name = path, sha256, name
        # Created outside the compiled function; inside, it would keep a copy of each as a constant.
        self._shift, self._scale = (
            tf.constant(tensors[f"scaling_layer.{name}"].reshape(3)) for name in ("shift", "scale")
        )
        self._blocks = []
        for block, (places, _) in enumerate(BLOCKS):
            names = [f"net.slice{block + 1}.{place}" for place in places]
            convolutions = [
                # PyTorch's [out,in,height,width] -> [height,width,in,out]
                (tf.constant(tensors[f"{name}.weight"].transpose(2, 3, 1, 0)),
                 tf.constant(tensors[f"{name}.bias"]))
                for name in names
            ]  # fmt: skip
            weights = tf.constant(tensors[f"lin{block}.model.1.weight"].reshape(-1))  # [C]
            self._blocks.append((convolutions, weights))
        self._distances = over_replicas(self._measure)

    @property
    def description(self) -> dict[str, str]:
        """Its entry in a result: `network`, `path` and `sha256`."""
        network = NETWORK if self.name == FIGURE else self.name
        return {"network": network, "path": str(self.path), "sha256": self.sha256}

    def __call__(self, a: Tensor, b: Tensor) -> np.ndarray:
        """Distances of pairs of images, computed in float32.

        Each block's channels are scaled to length 1 at each position. Squared differences are
        summed over channels with the learned weights, averaged over positions and summed over the
        five blocks.

        Args:
            a: [B,H,W,3] in [-1,1], B, H and W at least 1, 16 and 16; an array or a tensor.
            b: the same shape and range.

        Returns:
            [B] float32 array; 0 for equal images. With trained weights, no value is below 0.

        Raises:
            ValueError: shapes that differ, or values outside [-1,1].
            UserError: images below 16 x 16.
        """
        a, b = (np.asarray(images, "float32") for images in (a, b))
        if a.ndim != 4 or a.shape != b.shape or a.shape[3] != 3:
            raise ValueError(
                f"the shapes are {a.shape} and {b.shape}; both must be the same [B,H,W,3]"
            )
        for images in (a, b):
            if not (images.min() >= -1 and images.max() <= 1):
                raise ValueError(
                    f"values go from {images.min()} to {images.max()}; LPIPS takes [-1,1]"
                )
        if min(a.shape[1:3]) < MIN_SIDE:
            raise UserError(
                f"LPIPS of images of {a.shape[1]} x {a.shape[2]} was asked for; its network "
                f"needs at least {MIN_SIDE} x {MIN_SIDE} pixels: leave out lpips"
            )
        starts = range(0, len(a), IMAGES_AT_ONCE)
        parts = [slice(start, start + IMAGES_AT_ONCE) for start in starts]
        return np.concatenate([self._distances(a[part], b[part]).numpy() for part in parts])

    def _measure(self, a: Tensor, b: Tensor) -> Tensor:
        """Two batches of images [B,H,W,3] -> [B]."""
        x = (tf.concat([a, b], 0) - self._shift) / self._scale  # [2B,H,W,3]
        distances = tf.zeros(tf.shape(a)[:1])
        for block, (convolutions, weights) in enumerate(self._blocks):
            if block > 0:
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
            for kernel, bias in convolutions:
                x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME") + bias)  # [2B,H_i,W_i,C]
            first, second = tf.split(x / (tf.norm(x, axis=-1, keepdims=True) + EPSILON), 2)
            squares = tf.reduce_sum(weights * tf.square(first - second), -1)  # [B,H_i,W_i]
            distances += tf.reduce_mean(squares, [1, 2])
        return distances


def _shapes() -> dict[str, tuple[int, ...]]:
    """Returns {name: shape} of the required tensors, in PyTorch's layout."""
    shapes: dict[str, tuple[int, ...]] = {
        f"scaling_layer.{name}": (1, 3, 1, 1) for name in ("shift", "scale")
    }
    inputs = 3
    for block, (places, channels) in enumerate(BLOCKS):
        for place in places:
            shapes[f"net.slice{block + 1}.{place}.weight"] = (channels, inputs, 3, 3)
            shapes[f"net.slice{block + 1}.{place}.bias"] = (channels,)
            inputs = channels
        # Index 0 is a dropout.
        shapes[f"lin{block}.model.1.weight"] = (1, channels, 1, 1)
    return shapes


def _read_name(data: bytes, path: StrPath) -> str:
    """Returns the name of the figure; `_read_tensors` has checked the header."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    name = header.get("__metadata__", {}).get("name", FIGURE)
    if name != FIGURE and not PSEUDO.fullmatch(name):
        raise UserError(
            f"lpips {path} calls its figure {shorten(name)}; allowed are {FIGURE} and "
            "pseudo-LPIPS[NAME], with letters, digits, dots and hyphens as NAME"
        )
    return name


def _read_tensors(data: bytes, name: str) -> dict[str, np.ndarray]:
    """Returns {name: float32 array} for the names of `_shapes`, checked."""
    header = int.from_bytes(data[:8], "little")
    if header > MOST_HEADER:
        raise UserError(f"{name} is no .safetensors file, or its header is too long; {WHERE}")
    try:
        found = dict(safetensors.deserialize(data))
    except Exception as error:  # also raised for a header that is no text
        raise UserError(f"{name} is no .safetensors file ({reason_of(error)}); {WHERE}") from None
    shapes = _shapes()
    missing = shapes.keys() - found.keys()
    if missing:
        raise UserError(f"{name} holds other weights, without {min(missing)}; {WHERE}")
    for key, shape in shapes.items():
        dtype, sizes = found[key]["dtype"], found[key]["shape"]
        if (dtype, tuple(sizes)) != ("F32", shape):
            raise UserError(
                f"{name}: {key} is {dtype} {shorten(str(sizes))}, not F32 {list(shape)}; {WHERE}"
            )
    tensors = {
        key: np.frombuffer(found[key]["data"], "<f4").reshape(shape)
        for key, shape in shapes.items()
    }
    for key, tensor in tensors.items():
        if not np.abs(tensor).max() < np.inf:
            raise UserError(f"{name}: {key} holds NaN or infinity; {WHERE}")
    return tensors
