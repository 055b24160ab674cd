"""Opening a trained model by its folder, whatever it is."""

from vim_tf.errors import UserError
from vim_tf.messages import shorten
from vim_tf.models.preset import MODELS, read_config
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.runs.run import find_preset

TOKENIZER_FOLDER = "tokenizer"  # in a VIM's preset


def load(run_or_preset_dir):
    """Loads the model of a run folder or of a preset folder.

    Args:
        run_or_preset_dir: what `--workdir` was, or a folder that `save_to_preset` wrote.

    Returns:
        A `ViTVQGAN`, a `VIM`, a `Classifier` or a model of a subclass of `Preset`, with the
        averaged weights; its `metadata` says what it was trained on.

    Raises:
        UserError: there is none, or it is damaged.
    """
    folder = find_preset(run_or_preset_dir)
    name = read_config(folder)["class"]
    if name not in MODELS:
        known = ", ".join(sorted(MODELS))
        raise UserError(f"{folder} is a preset of {shorten(name)}; vim_tf knows {known}")
    return MODELS[name].from_preset(folder)


def load_tokenizer(run_or_preset_dir):
    """Loads the tokenizer of a stage-1 run or preset; UserError if it is another model's."""
    model = load(run_or_preset_dir)
    if not isinstance(model, ViTVQGAN):
        raise UserError(
            f"{run_or_preset_dir} holds a {type(model).__name__}; "
            "tokenizer.run needs a run of experiment vit_vqgan"
        )
    return model


def load_tokenizer_of(vim, run_or_preset_dir):
    """Loads the tokenizer beside a `VIM` that was loaded from there, and the classes' names.

    Returns:
        (`ViTVQGAN`, tuple of names: that of class i at place i; () where there are no labels).

    Raises:
        UserError: it is not the tokenizer whose tokens the VIM was trained on.
    """
    folder = find_preset(run_or_preset_dir)
    tokenizer = load_tokenizer(folder / TOKENIZER_FOLDER)
    trained_on = vim.metadata.get("tokenizer_hash", tokenizer.model_hash())
    if trained_on != tokenizer.model_hash():
        raise UserError(
            f"{folder / TOKENIZER_FOLDER} is the tokenizer {tokenizer.model_hash()[:16]}, and "
            f"this VIM was trained on tokens of {trained_on[:16]}: their tokens mean different "
            "things; take a whole copy of the preset"
        )
    # A preset of VIM.save_to_preset may come without names.
    names = tuple(vim.metadata.get("class_names") or map(str, range(vim.classes)))
    if len(names) != vim.classes:
        raise UserError(
            f"{folder} names {len(names):,} classes, and its VIM has {vim.classes:,}; take a "
            "whole copy of the preset, or train again"
        )
    if (vim.codes, vim.grid) != (tokenizer.config.quantizer.codes, tokenizer.grid):
        raise UserError(f"{folder}: VIM and tokenizer have other codes, or another grid")
    return tokenizer, names
