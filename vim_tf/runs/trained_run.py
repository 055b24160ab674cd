"""Opening a trained run: its models in float32, and the images that it was trained on."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vim_tf import fingerprints, formats
from vim_tf.annotations import StrPath
from vim_tf.config.experiments import PixelExperiment, VIMExperiment
from vim_tf.data.images import ImageData, make_image_dataset
from vim_tf.data.transforms import normalize, to_uint8
from vim_tf.errors import UserError
from vim_tf.files import is_in_bucket
from vim_tf.models.precision import computing_in
from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.runs.load import load, load_tokenizer_of
from vim_tf.runs.run import find_run

PROBE_FILE = "probe.json"
# {weights: the folder in a run for their probe, by default}
PROBE_FOLDERS = {"preset": "probe", "preset_best": "probe_best"}
# The keys of the file of `vim_tf.probe` that are read here.
PROBE_SCHEMA = {
    "type": "object",
    "properties": {"block": {"type": "integer"}, "models": {"type": "object"}},
    "required": ["block", "models"],
}
MOVED = "give the images of its training, or set data.path=... if they have moved"
COMPARED = 16  # held-out images on which each format is compared with Keras


class HeldOut(NamedTuple):
    """Held-out images, their tokens and their reconstructions, all NumPy.

    Attributes:
        pixels: uint8 [n,H,W,3].
        images: the same, float32 in [-1,1].
        tokens: int32 [n,N].
        decoded: float32 [n,H,W,3] in [-1,1], decoded from the tokens by Keras.
    """

    pixels: np.ndarray
    images: np.ndarray
    tokens: np.ndarray
    decoded: np.ndarray


@dataclass(frozen=True)
class TrainedRun:
    """A run's averaged weights and the images that they were trained on.

    Attributes:
        path: the run's folder.
        experiment: its config, a `ViTVQGANExperiment`, `DecoderExperiment` or `VIMExperiment`.
        tokenizer: the tokenizer, with the decoder in use.
        vim: the VIM; None for a run of stage 1.
        class_names: name of class i at index i; () without labels.
        other_images: whether `data` may be images that the run was not trained on.
        weights: "preset", the last ones, or "preset_best", those of the best evaluation.
    """

    path: Path
    experiment: Any
    tokenizer: ViTVQGAN
    vim: VIM | None
    class_names: tuple[str, ...]
    other_images: bool = False
    weights: str = "preset"

    @property
    def steps(self) -> tuple[int, int]:
        """(Steps that the saved weights were trained for, steps in the config)."""
        metadata = (self.vim or self.tokenizer).metadata
        return metadata.get("steps", 0), self.experiment.training.steps

    def hashes(self) -> dict[str, str]:
        """Returns {"tokens", "decoder", and "vim" if there is one: SHA-256}, for records."""
        return {**self.feature_hashes(), "decoder": self.tokenizer.decoder_hash()}

    def feature_hashes(self) -> dict[str, str]:
        """Returns `hashes` without the decoder's, on which no feature depends."""
        vim = {"vim": self.vim.model_hash()} if self.vim else {}
        return {"tokens": self.tokenizer.token_hash(), **vim}

    @property
    def probed_block(self) -> int | None:
        """The block that `vim_tf.probe` chose for these weights, from 0; None if there is none."""
        path = self.path / PROBE_FOLDERS[self.weights] / PROBE_FILE
        if self.vim is None or not path.exists():
            return None
        result = formats.read_json(path, "probe", "delete it and probe again", PROBE_SCHEMA)
        return result["block"] if result["models"] == self.feature_hashes() else None

    @functools.cached_property
    def data(self) -> ImageData:
        """The `ImageData` that the run was trained on, opened on first use.

        Raises:
            UserError: the images have changed, and `other_images` is false.
        """
        data = make_image_dataset(self.experiment.data, self.experiment.seed)
        made_from = ((self.vim or self.tokenizer).metadata or {}).get("made_from")
        if made_from is not None and not self.other_images:
            formats.check_schema(made_from, fingerprints.MADE_FROM_SCHEMA, self.path, MOVED)
            found = data.difference(made_from["images"], fingerprints.load(self.path))
            if found is not None:
                raise fingerprints.made_from_other_images(self.path, found, MOVED)
        return data

    @functools.cached_property
    def held_out(self) -> HeldOut:
        """The `HeldOut` of the first `COMPARED` images, computed on first use."""
        pixels = self.images(COMPARED)
        images = normalize(pixels)
        tokens = self.tokenizer.tokenize(images)
        decoded = self.tokenizer.decode_tokens(tokens)
        return HeldOut(pixels, *map(np.asarray, (images, tokens, decoded)))

    def images(self, count: int, split: str = "validation") -> np.ndarray:
        """Returns the first `count` images of a split: uint8 [n,H,W,3], n <= count."""
        batch = next(iter(self.data.evaluation(split, batch_size=count)))
        return to_uint8(batch["image"])


def open_run(
    path: StrPath,
    overrides: Sequence[str] = (),
    other_images: bool = False,
    decoder: StrPath | None = None,
) -> TrainedRun:
    """Opens a run of stage 1 or 2, in float32 for every precision of the training.

    Args:
        path: the folder of a run, or its `preset_best` for the weights of the best evaluation.
        overrides: "data.key=value" strings, for images that have moved since the training.
        other_images: whether to allow images that the run was not trained on.
        decoder: another decoder for a VIM's tokens, see `load.load_decoder`; None for its own.

    Raises:
        UserError: there is no run, its weights are missing, damaged or those of another experiment,
            or an override is not of the data.
    """
    for override in overrides:
        if not override.startswith("data."):
            raise UserError(
                f"override {override} would change the trained model; only keys of the data can be "
                "set here, such as data.path=..."
            )
    if is_in_bucket(path):
        raise UserError(f"{path} is in a bucket; copy the run to a disk and give its folder there")
    run, weights = find_run(path)
    experiment = run.load_experiment(overrides)
    folder = run.path if weights == "preset" else run.path / weights
    with computing_in("float32"):
        model = load(folder)
        if not isinstance(model, ViTVQGAN | VIM):
            raise UserError(
                f"{run.path} is a run of experiment {experiment.experiment}; give one of "
                "experiment vit_vqgan, decoder or vim"
            )
        kinds = {ViTVQGAN: PixelExperiment, VIM: VIMExperiment}
        if not any(isinstance(model, m) and isinstance(experiment, e) for m, e in kinds.items()):
            raise UserError(
                f"{run.config_path} is of experiment {experiment.experiment}, and {weights} holds "
                f"a {type(model).__name__}: one of them is of another run; take a whole copy of "
                "the run"
            )
        if isinstance(model, ViTVQGAN):
            if decoder is not None:
                raise UserError(
                    f"decoder is {decoder}, and {run.path} has no VIM whose tokens it could "
                    f"decode; give {decoder} itself as the run"
                )
            tokenizer, vim, names = model, None, ()
        else:
            vim = model
            tokenizer, names = load_tokenizer_of(model, folder, decoder)
    return TrainedRun(run.path, experiment, tokenizer, vim, tuple(names), other_images, weights)
