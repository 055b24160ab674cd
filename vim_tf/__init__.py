"""Vector-quantized image modeling (ViT-VQGAN and VIM, arXiv 2110.04627) in TensorFlow/Keras.

The names below are loaded on first use, so that a command line answers before TensorFlow is up.
"""

import importlib

from vim_tf.versions import VERSION as __version__  # noqa: F401, what packages call it

_HOMES = {
    "Classifier": "vim_tf.models.classifier",
    "ClassifierTrainer": "vim_tf.trainers.classifier_trainer",
    "load": "vim_tf.runs.load",
    "load_config": "vim_tf.config.loader",
    "make_image_dataset": "vim_tf.data.images",
    "ImageGenerator": "vim_tf.generation.image_generator",
    "UserError": "vim_tf.errors",
    "VIM": "vim_tf.models.vim",
    "VIMTrainer": "vim_tf.trainers.vim_trainer",
    "ViTVQGAN": "vim_tf.models.vit_vqgan",
    "ViTVQGANTrainer": "vim_tf.trainers.vit_vqgan_trainer",
}
__all__ = sorted(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'vim_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
