"""Making a data set's tokens once, with a tokenizer, and finding them again."""

from dataclasses import asdict

from etils import epath
from tqdm import tqdm

from vim_tf.data.token_cache import HEADER_FILE, TokenCache, write_token_cache
from vim_tf.distribution.replicas import over_replicas


def describe_options(config):
    """Returns what tokens and features depend on in a `DataConfig`, besides the images themselves.

    Paths are left out: the fingerprint of the images says what lies there.
    """
    described = asdict(config)
    for key in ("batch_size", "path", "validation_path"):
        del described[key]
    return described


def open_or_make_cache(folder, tokenizer, data, passes):
    """Opens the cache at `folder`, or tokenizes the images into a new one there.

    The replicas of the strategy in scope, in which the tokenizer was made, share the images.

    Args:
        folder: of the cache.
        tokenizer: the `ViTVQGAN`.
        data: the `ImageData`.
        passes: augmented passes over the training images.

    Returns:
        A `TokenCache`.

    Raises:
        UserError: the cache there is another tokenizer's or of other images, or is damaged.
    """
    folder = epath.Path(folder)
    options = {**describe_options(data.config), "seed": data.seed, "passes": passes}
    tokenizer_hash = tokenizer.model_hash()
    if not (folder / HEADER_FILE).exists():
        data.read_contents()
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
        write_token_cache(folder, splits, header, data.tables)
    return TokenCache.open(folder, tokenizer_hash, options, data)


def _tokens(tokenizer, dataset, size, name):
    """Yields (tokens [B,N], labels [B]) of each batch, with a progress bar on a terminal."""
    tokenize = over_replicas(tokenizer.tokenize)
    with tqdm(total=size, unit="img", desc=f"tokenizing, {name}", disable=None) as bar:
        for batch in dataset:
            yield tokenize(batch["image"]).numpy(), batch["label"].numpy()
            bar.update(len(batch["label"]))
