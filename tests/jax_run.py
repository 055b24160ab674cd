"""A process of test_jax: models with weights from a file, on Keras' JAX backend.

KERAS_BACKEND=jax python tests/jax_run.py PRESETS OUT

PRESETS has `vit_vqgan/`, `vim/` and images.npy. The models' outputs are written to OUT, a .npz.
"""

import sys
from pathlib import Path

import keras
import numpy as np

from vim_tf.models.precision import computing_in
from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN


def outputs(folder):
    """The outputs {name: array} of both models."""
    tokenizer = ViTVQGAN.from_preset(folder / "vit_vqgan")
    model = VIM.from_preset(folder / "vim")
    images = np.load(folder / "images.npy")
    found = {"features": tokenizer.encoder(images), "tokens": tokenizer.tokenize(images)}
    found["decoded"] = tokenizer.decode_tokens(found["tokens"])
    labels = np.arange(len(images)) % 2
    found["logits"] = model(found["tokens"], labels)
    found["samples"] = model.generate(labels, seed=7, top_p=0.9, guidance_scale=1.5)
    # JAX uses another attention for bfloat16.
    with computing_in("mixed_bfloat16"):
        encoder = ViTVQGAN.from_preset(folder / "vit_vqgan").encoder
        half = VIM.from_preset(folder / "vim")
    found["features, bfloat16"] = keras.ops.cast(encoder(images), "float32")
    found["logits, bfloat16"] = half(found["tokens"], labels)
    return {name: keras.ops.convert_to_numpy(array) for name, array in found.items()}


def main(folder, out):
    """The command line."""
    np.savez(out, backend=keras.backend.backend(), **outputs(Path(folder)))
    assert keras.backend.backend() != "jax" or "tensorflow" not in sys.modules


if __name__ == "__main__":
    main(*sys.argv[1:])
