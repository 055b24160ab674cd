"""From labels to images: VIM and its tokenizer in one object."""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from vim_tf.annotations import StrPath
from vim_tf.config import checks
from vim_tf.data.transforms import to_uint8
from vim_tf.distribution.compilation import compiled
from vim_tf.errors import UserError
from vim_tf.generation.labels import label_number
from vim_tf.generation.litert_vim import LiteVIM
from vim_tf.generation.rejection import Classifier, accept
from vim_tf.messages import shorten
from vim_tf.models.input_checks import check_tokens
from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.runs.load import TOKENIZER_FOLDER, load, load_decoder, load_tokenizer_of
from vim_tf.sampling.sample import row_seeds
from vim_tf.sampling.settings import SEEDS, message

# One class or several, by number or by name.
Labels: TypeAlias = int | str | Sequence[int | str] | np.ndarray


@dataclass(frozen=True)
class ImageGenerator:
    """Generates images.

    Attributes:
        vim: the `VIM`, or a `LiteVIM`, which has the same `generate`.
        tokenizer: the `ViTVQGAN` whose tokens it was trained on.
        class_names: name of class i at place i; empty if it was trained without labels.
    """

    vim: VIM | LiteVIM
    tokenizer: ViTVQGAN
    class_names: tuple[str, ...]

    @classmethod
    def load(cls, run_or_preset_dir: StrPath, decoder: StrPath | None = None) -> Self:
        """Loads a stage-2 run or preset with its tokenizer; UserError if it is none.

        `decoder` is a run of experiment decoder for the same tokens, see `load.load_decoder`.
        """
        vim = load(run_or_preset_dir)
        if not isinstance(vim, VIM):
            raise UserError(
                f"{run_or_preset_dir} holds a {type(vim).__name__}, which generates nothing; "
                "give the folder of a run of experiment vim"
            )
        return cls(vim, *load_tokenizer_of(vim, run_or_preset_dir, decoder))

    def with_decoder(self, path: StrPath | None) -> "ImageGenerator":
        """The same with the decoder of another run, see `load.load_decoder`; None changes nothing.

        Raises:
            UserError: no such run, or it is for other tokens.
        """
        return replace(self, tokenizer=load_decoder(self.tokenizer, path))

    def with_litert(self, path: StrPath) -> "ImageGenerator":
        """The same, but sampled by a generator_*.tflite of its export, see `LiteVIM`.

        Raises:
            UserError: no such file, or of other weights.
        """
        vim = LiteVIM(path)
        if isinstance(self.vim, LiteVIM):
            raise UserError(f"this generator samples with {self.vim.path} already")
        ours = self.vim.model_hash(), self.vim.grid, self.vim.codes, self.vim.classes
        if (vim.weights, vim.grid, vim.codes, vim.classes) != ours:
            raise UserError(f"{path} was exported from another model; export this run again")
        return replace(self, vim=vim)

    def hashes(self) -> dict[str, str]:
        """Returns {"tokens", "decoder", "vim": SHA-256}, for records."""
        vim = self.vim.weights if isinstance(self.vim, LiteVIM) else self.vim.model_hash()
        return self.tokenizer.hashes() | {"vim": vim}

    def save(self, preset_dir: Path, metadata: dict[str, Any] | None = None) -> None:
        """Writes VIM's preset with the tokenizer's inside; UserError if LiteRT samples."""
        if isinstance(self.vim, LiteVIM):
            raise UserError(f"{self.vim.path} has no weights to save; save the run's generator")
        metadata = {
            **(metadata or {}),
            "class_names": list(self.class_names),
            "token_hash": self.tokenizer.token_hash(),
            "decoder_hash": self.tokenizer.decoder_hash(),
        }
        self.vim.save_to_preset(preset_dir, metadata)
        self.tokenizer.save_to_preset(preset_dir / TOKENIZER_FOLDER)

    def label_number(self, label: int | str) -> int:
        """Returns the number of a class by the rule of `generation.labels`; UserError if none."""
        return label_number(label, self.class_names)

    def generate(
        self,
        labels: Labels | None = None,
        n: int | None = None,
        batch_size: int = 64,
        callback: Callable[[int, int], object] | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> np.ndarray:
        """Generates images.

        Args:
            labels: a class by number or name, or one for each image, see `generation.labels`; None
                for images without label.
            n: number of images; None is one for each label, or 1.
            batch_size: images at once; does not change them.
            callback: called as `callback(done, total)` with numbers of images.
            seed: from -2^31 to 2^32 - 1; image i is a function of (seed, i), its label and the
                settings.
            **settings: temperature, top_k, top_p, guidance_scale, modify_logits; see
                `VIM.generate`.

        Returns:
            uint8 [n,H,W,3].

        Raises:
            UserError: a value out of range, or labels and n that disagree.
        """
        images, done = [], 0
        labels, n = self._check_labels(labels, n)
        for tokens, rows in self._generate(labels, n, batch_size, seed, settings):
            images.append(self.decode(tokens)[:rows])
            done += rows
            if callback:
                callback(done, n)
        return np.concatenate(images)

    def generate_batches(
        self,
        labels: Labels | None = None,
        n: int | None = None,
        batch_size: int = 64,
        seed: int = 0,
        **settings: Any,
    ) -> Iterator[np.ndarray]:
        """As `generate`, but yields uint8 [B,H,W,3], for more images than fit into memory."""
        checked = self._check_labels(labels, n)
        for tokens, rows in self._generate(*checked, batch_size, seed, settings):
            yield self.decode(tokens)[:rows]

    def generate_tokens(
        self,
        labels: Labels | None = None,
        n: int | None = None,
        batch_size: int = 64,
        seed: int = 0,
        **settings: Any,
    ) -> Iterator[np.ndarray]:
        """As `generate_batches`, but yields the tokens [B,N], int32 NumPy."""
        checked = self._check_labels(labels, n)
        for tokens, rows in self._generate(*checked, batch_size, seed, settings):
            yield tokens[:rows]

    def decode(self, tokens: ArrayLike) -> np.ndarray:
        """Tokens [B,N] of any integer dtype -> uint8 [B,H,W,3]; UserError if they are no tokens."""
        checked = check_tokens(tokens, self.tokenizer.config.quantizer.codes)
        return to_uint8(self._decode(np.asarray(checked, "int32")))

    @functools.cached_property
    def _decode(self):
        return compiled(self.tokenizer.decode_tokens, self.tokenizer.variables, rows=True)

    def _generate(self, labels, n, batch_size, seed, settings):
        """Yields (tokens [B,N], number of rows that count), B the same for each batch.

        The last batch is filled up with its last row: another B would be compiled again. Labels
        and n are those of `_check_labels`.
        """
        checks.at_least_one(batch_size=batch_size)
        checks.integer(seed=seed)
        if not SEEDS.contains(seed):
            raise UserError(message("seed", seed, SEEDS))
        seeds = np.asarray(row_seeds(np.int64(seed).astype("int32"), n))
        batch_size = min(batch_size, n)
        for start in range(0, n, batch_size):
            rows = min(batch_size, n - start)
            places = np.minimum(np.arange(start, start + batch_size), n - 1)  # [B]
            tokens = self.vim.generate(
                labels=None if labels is None else labels[places],
                n=batch_size,
                seed=seeds[places],
                **settings,
            )
            yield np.asarray(tokens), rows

    def _check_labels(self, labels, n):
        """Returns (labels [n] int32 or None, n)."""
        checks.at_least_one(n=n)
        if labels is None:
            return None, n or 1
        given = _list_labels(labels, n)
        if n not in (None, len(given)):
            raise UserError(f"there are {len(given)} labels and n is {n}; give as many as n")
        # Once for each label: 50,000 names of 1,000 classes would take seconds. 1 is not True.
        look_up = functools.lru_cache(None, typed=True)(self.label_number)
        try:
            numbers = [look_up(label) for label in given]
        except TypeError:  # a dict, a set or another object that cannot be a key
            numbers = [self.label_number(label) for label in given]
        return np.array(numbers, "int32"), len(given)


def _list_labels(labels: Labels, n: int | None) -> list[Any]:
    """Returns labels as a list that is not empty; one label alone is repeated `n` times."""
    if not isinstance(labels, str) and hasattr(labels, "shape"):  # an array or a tensor
        labels = np.asarray(labels).tolist()
    if isinstance(labels, str | bytes) or not isinstance(labels, Sequence):
        return [labels] * (n or 1)
    if len(labels) == 0:
        raise UserError("labels is empty; give one or more, or None")
    for label in labels:
        if isinstance(label, Sequence) and not isinstance(label, str):
            raise UserError(
                f"labels hold {shorten(repr(label))}; give one label, or a list of one for each "
                "image"
            )
    return list(labels)


def generate_images(
    run: "StrPath | ImageGenerator",
    labels: Labels | None = None,
    *,
    decoder: StrPath | None = None,
    n: int = 16,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance_scale: float = 1.0,
    litert: StrPath | None = None,
    classifier: Classifier | None = None,
    acceptance: float | None = None,
    batch_size: int = 64,
    callback: Callable[[int, int], object] | None = None,
) -> np.ndarray:
    """Generates images with a trained VIM.

    Args:
        run: folder of a run or preset of experiment vim; or an `ImageGenerator`.
        labels: classes by number or name, in turn, see `generation.labels`; None generates without
            labels.
        decoder: folder of a run of experiment decoder for the same tokens; None decodes with the
            run's own, or with the generator's.
        n: number of images.
        seed: from -2^31 to 2^32 - 1; image i is a function of (seed, i), its label and the
            settings.
        temperature: as in `VIM.generate`, and so are top_k, top_p and guidance_scale.
        top_k: as there.
        top_p: as there.
        guidance_scale: as there.
        litert: path of a generator_*.tflite of an export of this run, which samples faster on a
            CPU; None samples with Keras.
        classifier: what `open_classifier` returned: generates more images and keeps the best of
            each class, see `generation.rejection`; None keeps all.
        acceptance: share that the classifier keeps, above 0 and at most 1.
        batch_size: images at once; does not change them.
        callback: called as `callback(done, total)` with numbers of images.

    Returns:
        uint8 [n,H,W,3].

    Raises:
        UserError: a value out of range, an unknown label, or a mistake in the run.
    """
    checks.at_least_one(n=n, batch_size=batch_size)
    checks.rejection(classifier, acceptance)
    generator = run if isinstance(run, ImageGenerator) else ImageGenerator.load(run)
    generator = generator.with_decoder(decoder)
    if litert is not None:
        generator = generator.with_litert(litert)
    if labels is not None:
        given = _list_labels(labels, None)
        labels = [given[i % len(given)] for i in range(n)]
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    settings |= {"guidance_scale": guidance_scale, "seed": seed, "batch_size": batch_size}
    if classifier is None:
        return generator.generate(labels, n, callback=callback, **settings)
    if labels is None or acceptance is None:
        raise UserError("classifier judges samples by their class; give labels")
    accepted = accept(generator, classifier, labels, acceptance, **settings)
    sys.stderr.write(f"{accepted}\n")
    return generator.decode(accepted.tokens)
