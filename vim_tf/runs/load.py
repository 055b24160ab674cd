"""Opening a trained model by its folder, whatever it is."""

from vim_tf.errors import UserError
from vim_tf.messages import shorten
from vim_tf.models.classifier import Classifier
from vim_tf.models.preset import read_config
from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.runs.run import find_preset

MODELS = {cls.__name__: cls for cls in (ViTVQGAN, VIM, Classifier)}


def load(run_or_preset_dir):
    """Loads the model of a run folder or of a preset folder.

    Args:
        run_or_preset_dir: what `--workdir` was, or a folder that `save_to_preset` wrote.

    Returns:
        A `ViTVQGAN`, a `VIM` or a `Classifier` with the averaged weights; its `metadata` says what
        it was trained on.

    Raises:
        UserError: there is none, or it is damaged.
    """
    folder = find_preset(run_or_preset_dir)
    name = read_config(folder)["class"]
    if name not in MODELS:
        known = ", ".join(MODELS)
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
