"""Vector-quantized image modeling (ViT-VQGAN and VIM, arXiv 2110.04627) in TensorFlow/Keras.

The names below are loaded on first use, so that a command line answers before TensorFlow is up.
"""

import importlib
import os
import sys
from typing import Any

if sys.argv[:1] == ["-m"]:  # python -m vim_tf.train: Python looks for the module in this package
    from vim_tf import stopping

    stopping.listen()

from vim_tf.versions import VERSION as __version__  # noqa: F401, a package's usual name for it

# Public name -> the module that defines it.
_HOMES = {
    "Classifier": "vim_tf.models.classifier",
    "ClassifierConfig": "vim_tf.config.sections",
    "ClassifierTrainer": "vim_tf.trainers.classifier_trainer",
    "DataConfig": "vim_tf.config.sections",
    "DecoderTrainer": "vim_tf.trainers.decoder_trainer",
    "ImageGenerator": "vim_tf.generation.image_generator",
    "QuantizerConfig": "vim_tf.config.sections",
    "TransformerConfig": "vim_tf.config.sections",
    "UserError": "vim_tf.errors",
    "VIM": "vim_tf.models.vim",
    "VIMConfig": "vim_tf.config.sections",
    "VIMTrainer": "vim_tf.trainers.vim_trainer",
    "ViTVQGAN": "vim_tf.models.vit_vqgan",
    "ViTVQGANConfig": "vim_tf.config.sections",
    "ViTVQGANTrainer": "vim_tf.trainers.vit_vqgan_trainer",
    "evaluate_classification": "vim_tf.evaluation.classification",
    "evaluate_generation": "vim_tf.evaluation.runner",
    "evaluate_images": "vim_tf.evaluation.runner",
    "evaluate_network": "vim_tf.evaluation.network_check",
    "evaluate_reconstruction": "vim_tf.evaluation.runner",
    "export_model": "vim_tf.export.export_run",
    "generate_images": "vim_tf.generation.image_generator",
    "load": "vim_tf.runs.load",
    "load_config": "vim_tf.config.loader",
    "make_image_dataset": "vim_tf.data.images",
    "normalize": "vim_tf.data.transforms",
    "open_classifier": "vim_tf.evaluation.keras_classifier",
    "run_linear_probe": "vim_tf.linear_probe.run",
    "run_training": "vim_tf.stages.training",
    "to_uint8": "vim_tf.data.transforms",
}
__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]  # it reads only literals


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vim_tf' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ImportError as error:
        backend = os.environ.get("KERAS_BACKEND", "tensorflow")
        if (error.name or "").split(".")[0] != backend:
            raise
        raise ImportError(
            f"KERAS_BACKEND is {backend}, and {backend} cannot be imported; install it, or unset "
            "the variable",
            name=backend,
        ) from None


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
