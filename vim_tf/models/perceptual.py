"""Features of a frozen VGG16, in which reconstructions are compared with originals.

VGG16: https://arxiv.org/abs/1409.1556, with the weights and the preprocessing of
keras.applications; the layers are those of LPIPS, https://arxiv.org/abs/1801.03924.
"""

import os
from typing import Any

import h5py
import keras
import numpy as np
from keras import ops

from vim_tf.annotations import StrPath, Tensor
from vim_tf.costs.parameters import VGG16_MIN_SIDE, VGG16_STAGES
from vim_tf.errors import UserError
from vim_tf.messages import shorten
from vim_tf.models.weights_files import read_shapes

# The last convolution of each stage.
LAYERS = tuple(f"block{i}_conv{last}" for i, (last, _) in enumerate(VGG16_STAGES, start=1))
MEAN_BGR = np.array([103.939, 116.779, 123.68], "float32")  # of ImageNet, in grey levels
ADVICE = (
    "set losses.perceptual: 0, or losses.perceptual_weights to the path of "
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
)


def preprocess(images: Tensor) -> Tensor:
    """Images [B,H,W,3] in [-1,1], RGB -> grey levels less ImageNet's mean, BGR, as VGG16 wants."""
    return ops.flip((ops.cast(images, "float32") + 1.0) * 127.5, axis=-1) - MEAN_BGR


def _load_vgg(weights):
    if weights == "imagenet":
        try:
            return keras.applications.VGG16(include_top=False, weights="imagenet")
        except Exception as error:  # Keras raises a bare Exception when a download fails
            reason = str(error).splitlines()[0]
            raise UserError(
                f"losses.perceptual_weights is imagenet, but VGG16's weights could not be "
                f"downloaded ({reason}); {ADVICE}"
            ) from None
    vgg = keras.applications.VGG16(include_top=False, weights=None)
    if weights is None:
        return vgg
    if not os.path.isfile(weights):
        raise UserError(f"losses.perceptual_weights is {weights}, which is no file; {ADVICE}")
    try:
        _load_file(vgg, weights)
    except Exception as error:  # h5py raises many kinds for a damaged file
        reason = shorten(str(error).partition("\n")[0])
        raise UserError(
            f"losses.perceptual_weights is {weights}, which is no file of VGG16 weights without "
            f"top ({reason}); {ADVICE}"
        ) from None
    return vgg


def _load_file(vgg, path):
    """Reads each convolution's weights by its name.

    Keras would read names from the file, as text whose damage can keep the HDF5 library busy for
    ever, and any weights that the file names, any number of times.
    """
    shapes = read_shapes(path, "the file")
    convolutions = [layer for layer in vgg.layers if layer.weights]
    with h5py.File(path, "r") as file:
        for number, layer in enumerate(convolutions):
            # By the layer, or in files of Keras 3 (.weights.h5) by its class and number.
            names = {layer.name, f"conv2d_{number}" if number else "conv2d"}
            found = {
                place: shape
                for place, shape in shapes.items()
                if names & set(place.split("/")[:-1])
            }
            wanted = [tuple(weight.shape) for weight in layer.weights]  # the kernel and the bias
            if sorted(found.values()) != sorted(wanted):
                what = shorten(str(sorted(found.values())))
                raise UserError(f"for {layer.name} it holds {what}, not {wanted}")
            place_of = {shape: place for place, shape in found.items()}
            values = [np.asarray(file[place_of[shape]], "float32") for shape in wanted]
            if not all(np.isfinite(value).all() for value in values):
                raise UserError(f"{layer.name} holds NaN or infinity")
            layer.set_weights(values)


class PerceptualFeatures(keras.Model):
    """VGG16 up to its last convolution, frozen; images smaller than 32 pixels are enlarged.

    Args:
        weights: "imagenet" (Keras downloads and keeps them), or the path of a weights file without
            top (.h5 of keras.applications, or .weights.h5 of Keras 3). None leaves random weights;
            it is for tests, and no config can say it.

    Raises:
        UserError: the weights cannot be downloaded, or the file is missing or does not fit.
    """

    def __init__(self, weights: StrPath = "imagenet", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        vgg = _load_vgg(weights)
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
