"""Loading any trained model from its folder."""

from vim_tf.annotations import StrPath
from vim_tf.errors import UserError
from vim_tf.messages import shorten
from vim_tf.models.preset import MODELS, Preset, read_config
from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.runs.run import find_preset

TOKENIZER_FOLDER = "tokenizer"  # in a VIM's preset


def load(run_or_preset_dir: StrPath) -> Preset:
    """Loads the model of a run folder or of a preset folder.

    Args:
        run_or_preset_dir: the `--workdir` of a training, or a folder that `save_to_preset` wrote.

    Returns:
        A `ViTVQGAN`, a `VIM`, a `Classifier` or a model of another subclass of `Preset`, with the
        averaged weights; its `metadata` describes its training.

    Raises:
        UserError: there is no model, or it is damaged.
    """
    folder = find_preset(run_or_preset_dir)
    name = read_config(folder)["class"]
    if name not in MODELS:
        known = ", ".join(sorted(MODELS))
        raise UserError(f"{folder} is a preset of {shorten(name)}; vim_tf knows {known}")
    return MODELS[name].from_preset(folder)


def load_tokenizer(run_or_preset_dir: StrPath, argument: str = "tokenizer.run") -> ViTVQGAN:
    """Loads the tokenizer of a stage-1 run or preset; UserError if it is another model."""
    model = load(run_or_preset_dir)
    if not isinstance(model, ViTVQGAN):
        raise UserError(
            f"{run_or_preset_dir} holds a {type(model).__name__}; "
            f"{argument} needs a run of experiment vit_vqgan or decoder"
        )
    return model


def load_tokenizer_of(
    vim: VIM, run_or_preset_dir: StrPath, decoder: StrPath | None = None
) -> tuple[ViTVQGAN, tuple[str, ...]]:
    """Loads the tokenizer and the class names of a `VIM` from the VIM's run or preset.

    Args:
        vim: the VIM.
        run_or_preset_dir: its run or preset.
        decoder: as in `load_decoder`; None for the tokenizer's own.

    Returns:
        (`ViTVQGAN`, names: name of class i at index i; () without labels).

    Raises:
        UserError: the VIM was trained on tokens of another tokenizer, or the decoder is for those
            of another one.
    """
    folder = find_preset(run_or_preset_dir)
    tokenizer = load_tokenizer(folder / TOKENIZER_FOLDER)
    assert vim.metadata is not None  # it was loaded from a preset
    ours = tokenizer.token_hash()
    trained_on = vim.metadata.get("token_hash", ours)
    if trained_on != ours:
        raise UserError(
            f"{folder / TOKENIZER_FOLDER} makes the tokens {ours[:16]}, and "
            f"this VIM was trained on {shorten(trained_on[:16])}: their tokens mean "
            "different things; take a whole copy of the preset"
        )
    # A preset that VIM.save_to_preset wrote may have no names.
    names = tuple(vim.metadata.get("class_names") or map(str, range(vim.classes)))
    if len(names) != vim.classes:
        raise UserError(
            f"{folder} names {len(names):,} classes, and its VIM has {vim.classes:,}; take a "
            "whole copy of the preset, or train again"
        )
    if (vim.codes, vim.grid) != (tokenizer.config.quantizer.codes, tokenizer.grid):
        raise UserError(f"{folder}: VIM and tokenizer differ in codes or grid")
    return load_decoder(tokenizer, decoder), names


def load_decoder(tokenizer: ViTVQGAN, decoder: StrPath | None) -> ViTVQGAN:
    """Loads a tokenizer with the same tokens and another decoder.

    Args:
        tokenizer: the tokenizer.
        decoder: a run or preset of experiment decoder; None returns the tokenizer.

    Raises:
        UserError: it is for the tokens of another tokenizer.
    """
    if decoder is None:
        return tokenizer
    other = load_tokenizer(decoder, "decoder")
    ours, theirs = tokenizer.token_hash(), other.token_hash()
    if ours != theirs:
        raise UserError(
            f"decoder {decoder} is for the tokens {theirs[:16]}, and the tokens here are "
            f"{ours[:16]}: they mean different things; give a run of experiment decoder whose "
            "tokenizer.run is the tokenizer of this run"
        )
    return other
