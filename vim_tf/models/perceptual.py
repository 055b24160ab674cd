"""Features of a frozen VGG16, in which reconstructions are compared with originals.

VGG16: https://arxiv.org/abs/1409.1556, with the weights and the preprocessing of
keras.applications; the layers are those of LPIPS, https://arxiv.org/abs/1801.03924.
"""

import os

import keras
import numpy as np
from keras import ops

from vim_tf.errors import UserError

LAYERS = ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3")
MIN_SIDE = 32  # VGG16 halves four times before its last block
MEAN_BGR = np.array([103.939, 116.779, 123.68], "float32")  # of ImageNet, in grey levels
ADVICE = (
    "set losses.perceptual: 0, or losses.perceptual_weights to the path of "
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
)


def preprocess(images):
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
        vgg.load_weights(weights)
    except Exception as error:  # h5py and Keras raise many kinds for a file that is something else
        reason = str(error).splitlines()[0]
        raise UserError(
            f"losses.perceptual_weights is {weights}, which is no file of VGG16 weights without "
            f"top ({reason}); {ADVICE}"
        ) from None
    return vgg


class PerceptualFeatures(keras.Model):
    """VGG16 up to its last convolution, frozen; pictures smaller than 32 pixels are enlarged.

    Args:
        weights: "imagenet" (Keras downloads and keeps them), or the path of a weights file without
            top (.h5 of keras.applications, or .weights.h5 of Keras 3). None leaves random weights;
            it is for tests, and no config can say it.

    Raises:
        UserError: the weights cannot be downloaded, or the file is missing or does not fit.
    """

    def __init__(self, weights="imagenet", **kwargs):
        super().__init__(**kwargs)
        vgg = _load_vgg(weights)
        self.vgg = keras.Model(vgg.inputs, [vgg.get_layer(name).output for name in LAYERS])
        self.trainable = False
        self.built = True

    def call(self, images):
        """Images [B,H,W,3] in [-1,1] -> five features [B,H_i,W_i,C_i], fine to coarse."""
        size = tuple(max(side, MIN_SIDE) for side in images.shape[1:3])
        x = preprocess(images)
        if size != tuple(images.shape[1:3]):
            x = ops.image.resize(
                x, size, interpolation="bilinear", data_format="channels_last"
            )  # [B,32+,32+,3]
        return self.vgg(x)
