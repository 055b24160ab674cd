"""A classifier of images, to judge samples by: a small residual network.

Pre-activation blocks as in arXiv 1603.05027, with group norm (arXiv 1803.08494) instead of
batch norm: its weights can be averaged over steps as any others, and an image's logits do not
depend on the batch.
"""

from dataclasses import asdict, dataclass
from typing import Any

import keras
from keras import layers

from vim_tf.config.checks import LONGEST_SIDE, MOST_CLASSES, sizes
from vim_tf.config.sections import ClassifierConfig
from vim_tf.costs.parameters import count_classifier
from vim_tf.models.preset import Preset
from vim_tf.models.seeded_dropout import RowDropout

GROUPS = 8


def _activate(x):
    return layers.ReLU()(layers.GroupNormalization(GROUPS)(x))


def _convolve(x, channels, size, stride=1):
    return layers.Conv2D(
        channels, size, stride, "same", use_bias=False, kernel_initializer="he_normal"
    )(x)


def _block(x, channels, stride):
    y = _activate(x)
    if stride != 1 or x.shape[-1] != channels:
        x = _convolve(y, channels, 1, stride)
    y = _convolve(y, channels, 3, stride)
    return layers.Add()([x, _convolve(_activate(y), channels, 3)])


@dataclass(frozen=True)
class _Arguments:
    """What `Classifier.get_config` answers, with its limits."""

    config: ClassifierConfig
    image_size: tuple[int, int]
    classes: int

    def __post_init__(self):
        height, width = self.image_size
        sizes("", height=(height, LONGEST_SIDE), width=(width, LONGEST_SIDE))
        sizes("", classes=(self.classes, MOST_CLASSES))


@keras.saving.register_keras_serializable("vim_tf")
class Classifier(Preset, keras.Model):
    """Images [B,H,W,3] in [-1,1] -> logits [B,classes] float32.

    A functional model: its last layer's input are the features [B,D].

    Args:
        config: `ClassifierConfig`.
        image_size: (H, W).
        classes: number of classes.
    """

    Arguments = _Arguments

    def __init__(
        self, config: ClassifierConfig, image_size: tuple[int, int], classes: int, **kwargs: Any
    ) -> None:
        images = keras.Input((*image_size, 3))
        x = _convolve(images, config.width, 3)
        for stage in range(config.stages):
            for block in range(config.blocks):
                x = _block(x, config.width * 2**stage, 2 if stage and not block else 1)
        x = layers.GlobalAveragePooling2D()(_activate(x))
        x = RowDropout(config.dropout, salt=0)(x)
        super().__init__(images, layers.Dense(classes, dtype="float32")(x), **kwargs)
        self.config = config
        self.image_size = tuple(image_size)
        self.classes = classes

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` rebuilds the model from."""
        return {
            "config": asdict(self.config),
            "image_size": list(self.image_size),
            "classes": self.classes,
        }

    @staticmethod
    def count_parameters(arguments: Any) -> int:
        """Returns the number of weights of a model, from its checked arguments."""
        return count_classifier(arguments.config, arguments.classes)
