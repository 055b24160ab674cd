"""Saving a model as a folder and loading it again, after KerasHub's manner.

A preset is `config.json` (class and config), `model.weights.h5` and `metadata.json` (the weights'
hash and whatever else the maker wants to say, such as class names).
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from vim_tf.errors import UserError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.weights.h5"
METADATA_FILE = "metadata.json"


def read_json(path):
    """Returns a preset file's content, a dict; UserError if it is missing or something else."""
    try:
        content = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; give a preset folder, or a run that has saved one"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is no valid JSON ({error}); the preset is damaged") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object; the preset is damaged")
    return content


class Preset:
    """Mixin of the models that can be saved as presets; needs `get_config`/`from_config`."""

    metadata = None

    def weights_hash(self):
        """Returns the SHA-256 of all weights, in order, as a hexadecimal string."""
        digest = hashlib.sha256()
        for weight in self.weights:
            digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
        return digest.hexdigest()

    def save_to_preset(self, preset_dir, metadata=None):
        """Writes this model as a preset into a new or existing folder.

        Args:
            preset_dir: the folder; made if need be.
            metadata: a dict that JSON can hold, saved beside the weights' hash.
        """
        folder = Path(preset_dir)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"class": type(self).__name__, "config": self.get_config()}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n")
        self.save_weights(folder / WEIGHTS_FILE)
        metadata = {**(metadata or {}), "weights_hash": self.weights_hash()}
        (folder / METADATA_FILE).write_text(json.dumps(metadata, indent=1) + "\n")

    @classmethod
    def from_preset(cls, preset_dir):
        """Loads a model that `save_to_preset` wrote; its `metadata` comes along.

        Raises:
            UserError: no preset there, another class's preset, or weights that do not fit.
        """
        folder = Path(preset_dir)
        config = read_json(folder / CONFIG_FILE)
        if config.get("class") != cls.__name__:
            raise UserError(
                f"{folder} is a preset of {config.get('class')}, not of {cls.__name__}; "
                "vim_tf.load(folder) takes either"
            )
        try:
            model = cls.from_config(config["config"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{folder / CONFIG_FILE} does not describe a {cls.__name__} of this version of "
                f"vim_tf ({error}); it is damaged, or another version's"
            ) from None
        model.metadata = read_json(folder / METADATA_FILE)
        try:
            model.load_weights(folder / WEIGHTS_FILE)
        except (OSError, RuntimeError, ValueError, KeyError) as error:  # h5py raises them all
            reason = str(error).splitlines()[0]
            raise UserError(f"{folder / WEIGHTS_FILE} cannot be loaded: {reason}") from None
        if model.weights_hash() != model.metadata.get("weights_hash"):
            raise UserError(
                f"{folder / WEIGHTS_FILE} does not have the hash in {METADATA_FILE}; "
                "one of the two was replaced or damaged"
            )
        return model
