"""Makes a data set's tokens once, with a tokenizer, and opens them later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from etils import epath

from vim_tf.annotations import StrPath
from vim_tf.config.sections import DataConfig
from vim_tf.data.progress_bar import progress_bar
from vim_tf.data.token_cache import HEADER_FILE, TokenCache, write_token_cache
from vim_tf.distribution.replicas import over_replicas

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

    from vim_tf.data.images import ImageData
    from vim_tf.models.vit_vqgan import ViTVQGAN


def describe_options(config: DataConfig) -> dict[str, Any]:
    """Returns the options on which tokens and features depend, apart from the images themselves.

    Paths are left out: the fingerprint of the images identifies the files there.
    """
    described = asdict(config)
    for key in ("batch_size", "path", "validation_path"):
        del described[key]
    return described


def open_or_make_cache(
    folder: StrPath, tokenizer: ViTVQGAN, data: ImageData, passes: int
) -> TokenCache:
    """Opens the cache at `folder`, or tokenizes the images into a new one there.

    The replicas of the strategy in scope share the images. The tokenizer was made in that scope.

    Args:
        folder: the cache's folder.
        tokenizer: the tokenizer.
        data: the images.
        passes: augmented passes over the training images.

    Raises:
        UserError: the cache is of another tokenizer or of other images, or is damaged.
    """
    path = epath.Path(folder)
    options = {**describe_options(data.config), "seed": data.seed, "passes": passes}
    tokenizer_hash = tokenizer.model_hash()
    if not (path / HEADER_FILE).exists():
        data.show_reading_contents()
        header = {
            "tokenizer_hash": tokenizer_hash,
            "images": data.fingerprint(),
            "options": options,
            "grid": list(tokenizer.grid),
            "codes": tokenizer.config.quantizer.codes,
            "class_names": list(data.class_names),
        }
        splits = {
            "train": [
                _tokens(
                    tokenizer, data.augmented_pass(i), data.train_size, f"pass {i + 1} of {passes}"
                )
                for i in range(passes)
            ],
            "validation": [
                _tokens(tokenizer, data.evaluation(), data.validation_size, "validation")
            ],
        }
        write_token_cache(path, splits, header, data.tables)
    return TokenCache.open(path, tokenizer_hash, options, data)


def _tokens(
    tokenizer: ViTVQGAN, dataset: tf.data.Dataset, size: int, name: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (tokens [B,N], labels [B]) of each batch, with a progress bar on a terminal."""
    tokenize = over_replicas(tokenizer.tokenize)
    with progress_bar(size, "images", f"tokenizing, {name}") as bar:
        for batch in dataset:
            yield tokenize(batch["image"]).numpy(), batch["label"].numpy()
            bar.update(len(batch["label"]))
