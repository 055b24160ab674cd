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


def load_tokenizer(run_or_preset_dir: StrPath) -> ViTVQGAN:
    """Loads the tokenizer of a stage-1 run or preset; UserError if it is another model."""
    model = load(run_or_preset_dir)
    if not isinstance(model, ViTVQGAN):
        raise UserError(
            f"{run_or_preset_dir} holds a {type(model).__name__}; "
            "tokenizer.run needs a run of experiment vit_vqgan"
        )
    return model


def load_tokenizer_of(vim: VIM, run_or_preset_dir: StrPath) -> tuple[ViTVQGAN, tuple[str, ...]]:
    """Loads the tokenizer and the class names of a `VIM` from the VIM's run or preset.

    Returns:
        (`ViTVQGAN`, names: name of class i at index i; () without labels).

    Raises:
        UserError: the VIM was trained on tokens of another tokenizer.
    """
    folder = find_preset(run_or_preset_dir)
    tokenizer = load_tokenizer(folder / TOKENIZER_FOLDER)
    assert vim.metadata is not None  # it was loaded from a preset
    trained_on = vim.metadata.get("tokenizer_hash", tokenizer.model_hash())
    if trained_on != tokenizer.model_hash():
        raise UserError(
            f"{folder / TOKENIZER_FOLDER} is the tokenizer {tokenizer.model_hash()[:16]}, and "
            f"this VIM was trained on tokens of {shorten(trained_on[:16])}: their tokens mean "
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
    return tokenizer, names
