"""Features of a frozen VGG16, in which reconstructions are compared with originals.

VGG16: https://arxiv.org/abs/1409.1556, with the weights and the preprocessing of
keras.applications; the layers are those of LPIPS, https://arxiv.org/abs/1801.03924.
"""

import os
import sys
from typing import Any

import h5py
import keras
import numpy as np
from keras import ops

from vim_tf.annotations import Tensor
from vim_tf.config.loss_sections import PerceptualNetworkConfig
from vim_tf.costs.parameters import VGG16_MIN_SIDE, VGG16_STAGES
from vim_tf.errors import UserError
from vim_tf.files import hash_file
from vim_tf.messages import shorten
from vim_tf.models.weights_files import read_shapes

# The last convolution of each stage.
LAYERS = tuple(f"block{i}_conv{last}" for i, (last, _) in enumerate(VGG16_STAGES, start=1))
KERAS_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
MEAN_BGR = np.array([103.939, 116.779, 123.68], "float32")  # of ImageNet, in grey levels
ADVICE = (
    "set losses.perceptual: 0, or losses.perceptual_network.path to a file of VGG16 weights "
    "without top, see docs/training.md"
)


def preprocess(images: Tensor) -> Tensor:
    """Images [B,H,W,3] in [-1,1], RGB -> grey levels less ImageNet's mean, BGR, as VGG16 wants."""
    return ops.flip((ops.cast(images, "float32") + 1.0) * 127.5, axis=-1) - MEAN_BGR


def _load_vgg(network):
    if network is not None and network.path is None:
        _announce_download()
        try:
            return keras.applications.VGG16(include_top=False, weights="imagenet")
        except Exception as error:  # Keras raises a bare Exception when a download fails
            reason = str(error).splitlines()[0]
            raise UserError(
                "losses.perceptual_network.path is not set, and VGG16's weights of "
                f"keras.applications could not be downloaded ({reason}); {ADVICE}"
            ) from None
    vgg = keras.applications.VGG16(include_top=False, weights=None)
    if network is None:
        return vgg
    if not os.path.isfile(network.path):
        raise UserError(
            f"losses.perceptual_network.path is {network.path}, which is no file; {ADVICE}"
        )
    _check_hash(network)
    try:
        _load_file(vgg, network.path)
    except Exception as error:  # h5py raises many kinds for a damaged file
        reason = shorten(str(error).partition("\n")[0])
        raise UserError(
            f"losses.perceptual_network.path is {network.path}, which is no file of VGG16 weights "
            f"without top ({reason}); {ADVICE}"
        ) from None
    return vgg


def _announce_download():
    """Writes a line if Keras is about to download the weights."""
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    folder = os.path.join(home, "models")
    if not os.path.exists(os.path.join(folder, KERAS_FILE)):
        sys.stderr.write(
            "the perceptual loss needs VGG16: Keras downloads its weights (59 MB) from "
            f"storage.googleapis.com into {folder}, once; losses.perceptual_network.path takes a "
            "file instead, and losses.perceptual: 0 needs none\n"
        )


def _check_hash(network):
    found = hash_file(network.path)
    if network.sha256 is None:
        raise UserError(
            f"losses.perceptual_network.sha256 is not set; that of {network.path} is {found}: set "
            "it, so that a run resumes with the same network"
        )
    if network.sha256.lower() != found:
        raise UserError(
            f"losses.perceptual_network.sha256 is {shorten(network.sha256)}, but that of "
            f"{network.path} is {found}; get the right file, or correct the hash"
        )


def _load_file(vgg, path):
    """Reads each convolution's weights by its name.

    Keras would read names from the file, as text whose damage can keep the HDF5 library busy for
    ever, and any weights that the file names, any number of times.
    """
    shapes = read_shapes(path, "the file")
    convolutions = [layer for layer in vgg.layers if layer.weights]
    with h5py.File(path, "r") as file:
        for number, layer in enumerate(convolutions):
            found = _places_of(layer.name, number, shapes)
            wanted = [tuple(weight.shape) for weight in layer.weights]  # the kernel and the bias
            if sorted(found.values()) != sorted(wanted):
                what = shorten(str(sorted(found.values())))
                raise UserError(f"for {layer.name} it holds {what}, not {wanted}")
            place_of = {shape: place for place, shape in found.items()}
            values = [np.asarray(file[place_of[shape]], "float32") for shape in wanted]
            if not all(np.isfinite(value).all() for value in values):
                raise UserError(f"{layer.name} holds NaN or infinity")
            layer.set_weights(values)


def _places_of(name, number, shapes):
    """{place: shape} of a convolution, block2_conv1 for example, in one of three layouts.

    By the layer's name; in a file of Keras 3 (.weights.h5) by its class and its number among all
    convolutions; or, if each block of the network is a layer, by block and number in the block.
    """
    block, place = name.split("_conv")
    for names in ({name}, {block, _numbered(int(place) - 1)}, {_numbered(number)}):
        found = {
            place: shape for place, shape in shapes.items() if names <= {*place.split("/")[:-1]}
        }
        if found:
            break
    return found


def _numbered(number):
    return f"conv2d_{number}" if number else "conv2d"


class PerceptualFeatures(keras.Model):
    """VGG16 up to its last convolution, frozen; images smaller than 32 pixels are enlarged.

    Args:
        network: a file (.h5 of keras.applications, or .weights.h5 of Keras 3), or without a path
            the weights that Keras downloads and keeps. None leaves random weights; it is for tests,
            and no config can say it.

    Raises:
        UserError: the weights cannot be downloaded, or the file is missing, has another hash or
            does not fit.
    """

    def __init__(self, network: PerceptualNetworkConfig | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        vgg = _load_vgg(network)
        self.vgg = keras.Model(vgg.inputs, [vgg.get_layer(name).output for name in LAYERS])
        self.trainable = False
        self.built = True

    def call(self, images: Tensor) -> list[Tensor]:
        """Images [B,H,W,3] in [-1,1] -> five features [B,H_i,W_i,C_i], fine to coarse."""
        size = tuple(max(side, VGG16_MIN_SIDE) for side in images.shape[1:3])
        x = preprocess(images)
        if size != tuple(images.shape[1:3]):
            x = ops.image.resize(
                x, size, interpolation="bilinear", data_format="channels_last"
            )  # [B,32+,32+,3]
        return self.vgg(x)
