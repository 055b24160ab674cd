"""Saving a model as a folder and loading it again, after KerasHub's manner.

A preset is three files. `config.json` has the model's class and config, and the hashes of all that
the preset is. `model.weights.h5` has the weights. `metadata.json` has what the maker says of the
model, such as class names and what it was made from.

A preset may come from a stranger. So the weights file is hashed before it is opened, the config is
checked type by type, and the weights that it asks for are counted in the file before they are made.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

if TYPE_CHECKING:
    import keras

from vim_tf import formats
from vim_tf.annotations import StrPath
from vim_tf.config import values as config_values
from vim_tf.errors import UserError
from vim_tf.files import hash_file
from vim_tf.messages import shorten
from vim_tf.models.precision import check_policy
from vim_tf.models.weights_files import count_elements

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.weights.h5"
METADATA_FILE = "metadata.json"
ADVICE = "take a whole copy of the preset, or train again"
_TEXT = {"type": "string"}
_WHOLE = {"type": "integer", "minimum": 0}
CONFIG_SCHEMA = formats.json_object(
    **{"class": _TEXT, "config": {"type": "object"}, "hash": _TEXT},
    weights=formats.json_object(bytes=_WHOLE, sha256=_TEXT),
)
# The maker may say more than this.
METADATA_SCHEMA = {
    "type": "object",
    "properties": {
        "hash": _TEXT,
        "steps": _WHOLE,
        "class_names": {"type": "array", "items": _TEXT},
        "token_hash": _TEXT,
        "decoder_hash": _TEXT,
        "made_from": {"type": "object"},
    },
    "required": ["hash"],
}


def read_config(folder: StrPath) -> dict[str, Any]:
    """Returns a preset's `config.json`, a dict; UserError if it is missing or damaged."""
    return _read(Path(folder) / CONFIG_FILE, CONFIG_SCHEMA)


def _read(path, schema):
    try:
        return formats.read_json(path, "preset", ADVICE, schema)
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; give a preset folder, or a run that has saved one"
        ) from None


MODELS = {}  # name of a class -> the class; each subclass of `Preset` is entered when it is made


# A mixin of Keras models; a type checker reads it as one of them.
_Base = keras.Model if TYPE_CHECKING else object


class Preset(_Base):
    """Mixin of the models that can be saved as presets; `vim_tf.load` knows every subclass.

    Needs `get_config`; `Arguments`, a dataclass of the constructor's arguments with their limits,
    which takes its answer; and `count_parameters(arguments)`.
    """

    Arguments: ClassVar[Any] = None
    metadata: dict[str, Any] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_policy(self.dtype_policy.name)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        known = MODELS.setdefault(cls.__name__, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(
                f"a model called {cls.__name__} is known already, {known.__module__}."
                f"{known.__qualname__}; give it another name"
            )
        MODELS[cls.__name__] = cls

    def model_hash(self) -> str:
        """Returns the SHA-256 of class, config and all weights, in order, as hexadecimal text.

        Two models with the same hash give the same answers.
        """
        return hash_weights([type(self).__name__, self.get_config()], self.weights)

    def save_to_preset(self, preset_dir: StrPath, metadata: dict[str, Any] | None = None) -> None:
        """Writes this model as a preset into a new or existing folder.

        Args:
            preset_dir: the folder; made if need be.
            metadata: a dict that JSON can hold. `class_names` and `steps` are for vim_tf's own use.
        """
        folder = Path(preset_dir)
        folder.mkdir(parents=True, exist_ok=True)
        weights, model_hash = folder / WEIGHTS_FILE, self.model_hash()
        self.save_weights(weights)
        config = {
            "class": type(self).__name__,
            "config": self.get_config(),
            "weights": {"bytes": weights.stat().st_size, "sha256": hash_file(weights)},
            "hash": model_hash,
        }
        metadata = {**(metadata or {}), "hash": model_hash}
        (folder / METADATA_FILE).write_text(formats.to_json("preset", metadata))
        (folder / CONFIG_FILE).write_text(formats.to_json("preset", config))

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        """Builds a model from `get_config`'s answer; UserError if it is something else."""
        return cls(**vars(config_values.build(cls.Arguments, config)))

    @classmethod
    def from_preset(cls, preset_dir: StrPath) -> Self:
        """Loads a model that `save_to_preset` wrote; its `metadata` comes along.

        Raises:
            UserError: no preset there, another class's preset, or weights that do not fit.
        """
        folder = Path(preset_dir)
        config = read_config(folder)
        if config["class"] != cls.__name__:
            raise UserError(
                f"{folder} is a preset of {shorten(config['class'])}, not of {cls.__name__}; "
                "vim_tf.load(folder) takes either"
            )
        metadata = _read(folder / METADATA_FILE, METADATA_SCHEMA)
        weights = folder / WEIGHTS_FILE
        _check_weights(weights, config["weights"])
        try:
            arguments = config_values.build(cls.Arguments, config["config"])
            needed = cls.count_parameters(arguments)
            found = count_elements(weights)
            if needed > found:
                raise UserError(
                    f"the config asks for {needed:,} weights and {WEIGHTS_FILE} holds {found:,}"
                )
        except UserError as error:
            raise UserError(
                f"{folder / CONFIG_FILE} describes no {cls.__name__} of this version of vim_tf "
                f"({error}); {ADVICE}"
            ) from None
        model = cls(**vars(arguments))
        model.metadata = metadata
        try:
            model.load_weights(weights)
        except (OSError, RuntimeError, ValueError, KeyError) as error:  # h5py raises them all
            reason = str(error).splitlines()[0]
            raise UserError(f"{weights} cannot be loaded: {reason}; {ADVICE}") from None
        if not model.model_hash() == config["hash"] == metadata["hash"]:
            raise UserError(
                f"{folder} does not have the hash that {CONFIG_FILE} and {METADATA_FILE} say; a "
                f"file was replaced or damaged; {ADVICE}"
            )
        return model


def hash_weights(about: Any, weights: "Sequence[keras.Variable]") -> str:
    """Returns the SHA-256 of a description for JSON and of weights, in order."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for weight in weights:
        digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return digest.hexdigest()


def _check_weights(path, expected):
    """Raises UserError unless the weights file is the one that was written, before it is opened."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; {ADVICE}")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise UserError(f"{path} has {size:,} of its {expected['bytes']:,} bytes; {ADVICE}")
    if hash_file(path) != expected["sha256"]:
        raise UserError(f"{path} does not have the hash in {CONFIG_FILE}: it is damaged; {ADVICE}")
