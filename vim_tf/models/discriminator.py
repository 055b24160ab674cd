"""StyleGAN2's residual discriminator.

"Analyzing and Improving the Image Quality of StyleGAN", https://arxiv.org/abs/1912.04958, section
4.1 and appendix B; equalised learning rate and minibatch standard deviation are those of
Progressive GAN, https://arxiv.org/abs/1710.10196, sections 4.1 and 3.
"""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from vim_tf.annotations import Tensor
from vim_tf.config.loss_sections import DiscriminatorConfig
from vim_tf.costs.parameters import discriminator_layers


def blur(x: Tensor, padding: int, stride: int = 1) -> Tensor:
    """Smooths each channel with the outer product of [1,3,3,1] / 8, on zero-padded borders.

    A depthwise convolution, because it has the second-order gradients that R1 needs.

    Args:
        x: [B,H,W,C].
        padding: zeros on each of the four sides.
        stride: only each `stride`-th row and column is computed.

    Returns:
        [B,(H + 2 padding - 4) // stride + 1,(W + 2 padding - 4) // stride + 1,C].
    """
    taps = np.array([1, 3, 3, 1], "float32") / 8
    kernel = np.tile(np.outer(taps, taps)[:, :, None, None], (1, 1, x.shape[-1], 1))  # [4,4,C,1]
    x = ops.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return ops.depthwise_conv(
        x, ops.cast(kernel, x.dtype), strides=stride, padding="valid", data_format="channels_last"
    )


def minibatch_stddev(x: Tensor) -> Tensor:
    """Adds a channel: how much the images of a group differ.

    Groups are neighbours in the batch, so that a batch split over replicas keeps its groups; their
    size is the largest of 4, 3 and 2 that divides the batch. A batch that none divides has groups
    of one image, and a constant channel of 1e-4.

    Args:
        x: features [B,H,W,C]; B may be unknown when the graph is built.

    Returns:
        [B,H,W,C + 1]: the standard deviation over the group, averaged over H, W and C.
    """
    batch, (height, width, channels) = ops.shape(x)[0], x.shape[1:]
    if isinstance(batch, int):
        group = next(size for size in (4, 3, 2, 1) if batch % size == 0)
    else:
        group = ops.where(batch % 2 == 0, 2, 1)
        group = ops.where(batch % 3 == 0, 3, group)
        group = ops.where(batch % 4 == 0, 4, group)
    grouped = ops.reshape(ops.cast(x, "float32"), (-1, group, height, width, channels))
    deviation = ops.sqrt(ops.var(grouped, axis=1, keepdims=True) + 1e-8)  # [B/group,1,H,W,C]
    deviation = ops.mean(deviation, axis=(2, 3, 4), keepdims=True)  # [B/group,1,1,1,1]
    deviation = ops.broadcast_to(deviation, ops.shape(grouped[..., :1]))
    deviation = ops.reshape(deviation, (-1, height, width, 1))  # [B,H,W,1]
    return ops.concatenate([x, ops.cast(deviation, x.dtype)], axis=-1)


class Equalized(layers.Layer):
    """Dense layer or convolution with an equalised learning rate, and its activation.

    Weights are drawn from N(0,1) and scaled by 1 / sqrt(fan-in) at run time, so that Adam's step,
    which does not depend on a weight's scale, is the same share of every layer's weights.

    Args:
        features: channels of the output.
        kernel_size: side of the convolution; None is a dense layer.
        downsample: whether to blur and to keep every second row and column.
        activate: whether to apply a leaky ReLU of slope 0.2 and gain sqrt(2).
        use_bias: whether to add a bias, before the activation.
    """

    def __init__(
        self,
        features: int,
        kernel_size: int | None = None,
        downsample: bool = False,
        activate: bool = True,
        use_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.features = features
        self.kernel_size = kernel_size
        self.downsample = downsample
        self.activate = activate
        self.use_bias = use_bias

    def build(self, input_shape: tuple) -> None:
        """Creates the weights for inputs [B,C] or [B,H,W,C]."""
        window = (self.kernel_size, self.kernel_size) if self.kernel_size else ()
        shape = (*window, input_shape[-1], self.features)
        self.kernel = self.add_weight(
            shape=shape, initializer=keras.initializers.RandomNormal(stddev=1.0), name="kernel"
        )
        self.scale = 1.0 / math.sqrt(math.prod(shape[:-1]))
        if self.use_bias:
            self.bias = self.add_weight(shape=(self.features,), initializer="zeros", name="bias")

    def call(self, x: Tensor) -> Tensor:
        """[B,C] -> [B,features]; [B,H,W,C] -> [B,H,W,features], halved if downsampling."""
        kernel = self.kernel * self.scale
        if not self.kernel_size:
            x = ops.matmul(x, kernel)
        elif not self.downsample:
            x = self._convolve(x, kernel, 1, "same")
        elif self.kernel_size == 1:
            # A 1x1 convolution looks at single pixels: blur only those that it will look at.
            x = self._convolve(blur(x, padding=1, stride=2), kernel, 1, "valid")
        else:
            # H + 1 blurred rows and a window of 3: H // 2 outputs, centred between row pairs.
            x = self._convolve(blur(x, padding=2), kernel, 2, "valid")
        if self.use_bias:
            x = x + self.bias
        if not self.activate:
            return x
        # The gain comes first, which changes nothing but rounding: TensorFlow's graph optimizer
        # tries to fuse the bias with an activation next to it, and reports that it fails.
        return ops.leaky_relu(x * math.sqrt(2.0), negative_slope=0.2)

    def _convolve(self, x, kernel, strides, padding):
        return ops.conv(x, kernel, strides=strides, padding=padding, data_format="channels_last")


class ResidualBlock(layers.Layer):
    """Two 3x3 convolutions, the second one halving, beside a halving 1x1 convolution."""

    def __init__(self, features_in: int, features_out: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first = Equalized(features_in, 3, name="first")
        self.second = Equalized(features_out, 3, downsample=True, name="second")
        self.skip = Equalized(
            features_out, 1, downsample=True, activate=False, use_bias=False, name="skip"
        )

    def build(self, input_shape: tuple) -> None:
        """Creates the weights for inputs [B,H,W,features_in]."""
        for layer in (self.first, self.second, self.skip):
            layer.build(input_shape)

    def call(self, x: Tensor) -> Tensor:
        """[B,H,W,features_in] -> [B,H // 2,W // 2,features_out]."""
        # Both summands have variance 1; so has their sum over sqrt(2).
        return (self.second(self.first(x)) + self.skip(x)) / math.sqrt(2.0)


class Discriminator(keras.Model):
    """One logit an image; high means real.

    Sides are halved (odd ones rounded down) as long as both are 8 or more: 256 x 256 ends at 4 x 4,
    28 x 28 at 7 x 7, 48 x 64 at 6 x 8. A layer whose longer side is r has `base_channels // r`
    channels, from 1 to `channels`; see `costs.parameters.discriminator_layers` for those that the
    config leaves open.

    Args:
        config: `DiscriminatorConfig`, of which `channels` and `base_channels` are read.
        image_size: height and width of the images.
    """

    def __init__(
        self, config: DiscriminatorConfig, image_size: tuple[int, int], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.image_size: tuple[int, int] = (image_size[0], image_size[1])
        sizes, widths = discriminator_layers(config, self.image_size)
        self.last_size = sizes[-1]
        self.from_rgb = Equalized(widths[0], 1, name="from_rgb")
        self.blocks = [
            ResidualBlock(fine, coarse, name=f"block_{i}")
            for i, (fine, coarse) in enumerate(zip(widths[:-1], widths[1:], strict=True))
        ]
        # tf.train.Checkpoint does not look into lists: see `Transformer`.
        for block in self.blocks:
            setattr(self, block.name, block)
        self.last_convolution = Equalized(widths[-1], 3, name="last_convolution")
        self.hidden = Equalized(widths[-1], name="hidden")
        self.to_logit = Equalized(1, activate=False, name="to_logit")

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates the weights; the shape of the input is known."""
        shape = (None, *self.image_size)
        self.from_rgb.build((*shape, 3))
        for block in self.blocks:
            block.build((*shape, block.first.features))
        width = self.last_convolution.features
        self.last_convolution.build((None, *self.last_size, width + 1))
        self.hidden.build((None, math.prod(self.last_size) * width))
        self.to_logit.build((None, width))

    def call(self, images: Tensor) -> Tensor:
        """Images [B,H,W,3] in [-1,1] -> logits [B] float32."""
        x = self.from_rgb(images)
        for block in self.blocks:
            x = block(x)
        x = self.last_convolution(minibatch_stddev(x))
        x = self.hidden(ops.reshape(x, (-1, math.prod(x.shape[1:]))))  # [B,H*W*C] -> [B,C]
        return ops.cast(self.to_logit(x)[:, 0], "float32")

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs, as plain values."""
        return {
            **super().get_config(),
            "config": dataclasses.asdict(self.config),
            "image_size": self.image_size,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Discriminator":
        """Builds the model from `get_config`'s dict."""
        return cls(**{**config, "config": DiscriminatorConfig(**config["config"])})
