"""Convolutions that hide the patch borders of the tokenizer's reconstructions; not of the paper."""

from typing import Any

from keras import layers, ops

from vim_tf.annotations import Tensor
from vim_tf.models.attention import fan_in_normal


class Refinement(layers.Layer):
    """Adds three convolutions of an image to it: [B,H,W,C] -> [B,H,W,C].

    The decoder makes each patch by one product, so neighbouring patches need not agree at their
    border. A convolution sees both sides. The last one begins at zero: a new layer changes nothing.

    Args:
        channels: of the first two convolutions, which GELU follows.
    """

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels

    def build(self, input_shape: tuple) -> None:
        """Creates the weights for images [B,H,W,C]."""
        outputs, inside = input_shape[-1], (*input_shape[:-1], self.channels)
        self.first = _convolution("first", self.channels, fan_in_normal(9 * outputs))
        self.second = _convolution("second", self.channels, fan_in_normal(9 * self.channels))
        self.last = _convolution("last", outputs, "zeros")
        self.first.build(input_shape)
        self.second.build(inside)
        self.last.build(inside)

    def call(self, images: Tensor) -> Tensor:
        """[B,H,W,C] -> [B,H,W,C]."""
        x = ops.gelu(self.first(images), approximate=True)  # [B,H,W,channels]
        x = ops.gelu(self.second(x), approximate=True)
        return images + self.last(x)


def _convolution(name, channels, kernel_initializer):
    return layers.Conv2D(
        channels, 3, padding="same", kernel_initializer=kernel_initializer, name=name
    )
