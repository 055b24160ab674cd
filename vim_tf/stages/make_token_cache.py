"""Makes a data set's tokens once, with a tokenizer, and opens them later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from etils import epath

from vim_tf.annotations import StrPath
from vim_tf.config.sections import DataConfig
from vim_tf.data.progress import progress_bar
from vim_tf.data.token_cache import TokenCache
from vim_tf.data.token_cache_writer import making, write_in_lock
from vim_tf.distribution.replicas import over_replicas

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

    from vim_tf.data.images import ImageData
    from vim_tf.models.vit_vqgan import ViTVQGAN


def describe_options(config: DataConfig) -> dict[str, Any]:
    """Returns the options on which tokens and features depend, apart from the images themselves.

    Paths are left out: the fingerprint of the images identifies the files there. So are `on_error`
    and `cache`, since no image depends on them.
    """
    described = asdict(config)
    for key in ("batch_size", "path", "validation_path", "on_error", "cache"):
        del described[key]
    return described


def open_or_make_cache(
    folder: StrPath, tokenizer: ViTVQGAN, data: ImageData, passes: int
) -> TokenCache:
    """Opens the cache at `folder`, or tokenizes the images into a new one there.

    If another process makes it, waits for it. After a stop, goes on from the finished shards.

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
    token_hash = tokenizer.token_hash()
    with making(path) as is_ours:
        if is_ours:
            data.show_reading_contents()
            header = {
                "token_hash": token_hash,
                "decoder_hash": tokenizer.decoder_hash(),  # no token depends on it
                "images": data.fingerprint(),
                "options": options,
                "grid": list(tokenizer.grid),
                "codes": tokenizer.config.quantizer.codes,
                "class_names": list(data.class_names),
            }
            splits = {
                "train": [
                    _Tokens(
                        tokenizer,
                        data.augmented_pass(i),
                        data.train_size,
                        f"pass {i + 1} of {passes}",
                    )
                    for i in range(passes)
                ],
                "validation": [
                    _Tokens(tokenizer, data.evaluation(), data.validation_size, "validation")
                ],
            }
            write_in_lock(path, splits, header, data.tables)
    return TokenCache.open(path, token_hash, options, data)


class _Tokens:
    """The tokens of a data set's batches, a `token_cache_writer.Pass`."""

    def __init__(self, tokenizer: ViTVQGAN, dataset: tf.data.Dataset, size: int, name: str) -> None:
        self._tokenize = over_replicas(tokenizer.tokenize)
        self._dataset, self._size, self._name = dataset, size, name

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return self.after(0)

    def after(self, batches: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (tokens [B,N], labels [B]) of the later batches, with a bar on a terminal."""
        with progress_bar(self._size, "images", f"tokenizing, {self._name}") as bar:
            for batch in self._dataset.skip(batches):
                yield self._tokenize(batch["image"]).numpy(), batch["label"].numpy()
                bar.update(len(batch["label"]))
