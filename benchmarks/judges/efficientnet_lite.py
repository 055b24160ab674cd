"""EfficientNet-Lite (no squeeze-and-excitation, ReLU6) in Keras, from the weights of PyTorch."""

import itertools

import keras
from keras import layers

EPSILON = 1e-3  # of the batch norms
# Of each block of Lite0. All other sizes follow from the weights.
LITE0_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)


def build(weights, size=224, strides=LITE0_STRIDES):
    """Builds the network.

    Args:
        weights: {name in PyTorch: float32 array}. Every one is used.
        size: height and width of the images.
        strides: of the depthwise convolution of each block.

    Returns:
        A functional model: images [B,size,size,3] in [-1,1] -> features [B,D] -> logits [B,K].

    Raises:
        KeyError: a weight is missing.
        ValueError: weights are left over.
    """
    builder = _Builder(weights)
    images = layers.Input((size, size, 3), name="images")
    # The network takes (x - 127) / 128 of x in [0,255].
    x = layers.Rescaling(127.5 / 128, offset=0.5 / 128, name="rescaling")(images)
    x = builder.convolution(x, "_conv_stem", "_bn0", stride=2)
    for number, stride in enumerate(strides):
        x = builder.block(x, f"_blocks.{number}", stride)
    x = builder.convolution(x, "_conv_head", "_bn1")
    x = layers.GlobalAveragePooling2D(name="features")(x)
    logits = builder.dense(x, "_fc")
    model = keras.Model(images, logits, name="efficientnet_lite")
    builder.set_weights(model)
    return model


class _Builder:
    """Makes layers, and sets their weights when the model is there."""

    def __init__(self, weights):
        # Counters of training steps; a network that only computes needs none.
        self._left = {
            name: array
            for name, array in weights.items()
            if not name.endswith(".num_batches_tracked")
        }
        self._arrays = {}

    def block(self, x, prefix, stride):
        """An inverted residual block. The shortcut is there if the shape stays the same."""
        start = x
        norms = (f"{prefix}._bn{number}" for number in itertools.count())
        if f"{prefix}._expand_conv.weight" in self._left:
            x = self.convolution(x, f"{prefix}._expand_conv", next(norms))
        else:
            next(norms)  # the names of the other norms stay
        x = self.convolution(x, f"{prefix}._depthwise_conv", next(norms), stride, depthwise=True)
        x = self.convolution(x, f"{prefix}._project_conv", next(norms), relu=False)
        if stride == 1 and x.shape[-1] == start.shape[-1]:
            x = layers.Add(name=_keras_name(f"{prefix}.add"))([x, start])
        return x

    def convolution(self, x, name, norm, stride=1, depthwise=False, relu=True):
        """Convolution without bias, batch norm, and ReLU6."""
        kernel = self._left.pop(f"{name}.weight").transpose(2, 3, 1, 0)
        options = {
            "kernel_size": kernel.shape[:2],
            "strides": stride,
            "padding": "same",
            "use_bias": False,
            "name": _keras_name(name),
        }
        if depthwise:
            kernel = kernel.swapaxes(2, 3)  # [height,width,C,1]
            x = layers.DepthwiseConv2D(**options)(x)
        else:
            x = layers.Conv2D(kernel.shape[-1], **options)(x)
        self._arrays[_keras_name(name)] = [kernel]
        x = layers.BatchNormalization(epsilon=EPSILON, name=_keras_name(norm))(x)
        ours = ("weight", "bias", "running_mean", "running_var")
        self._arrays[_keras_name(norm)] = [self._left.pop(f"{norm}.{part}") for part in ours]
        return layers.ReLU(max_value=6, name=_keras_name(f"{norm}.relu"))(x) if relu else x

    def dense(self, x, name):
        """The last layer."""
        kernel = self._left.pop(f"{name}.weight").T
        self._arrays["logits"] = [kernel, self._left.pop(f"{name}.bias")]
        return layers.Dense(kernel.shape[1], name="logits")(x)

    def set_weights(self, model):
        """Sets all weights of a model."""
        if self._left:
            raise ValueError(f"{len(self._left)} weights are left over, first {min(self._left)}")
        for name, arrays in self._arrays.items():
            model.get_layer(name).set_weights(arrays)


def _keras_name(name):
    return name.strip("_").replace("._", ".").replace(".", "_")
