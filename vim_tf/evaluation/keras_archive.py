"""Checks of an untrusted Keras model file (.keras), before and while Keras loads it.

The file is a zip archive of weights and of a config from which Keras builds layers. Keras' safe
mode blocks code. The caller must check the rest: a config may name layers that read other files or
call other libraries, and it may need any amount of memory.
"""

import io
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from vim_tf.annotations import Tensor
from vim_tf.errors import UserError
from vim_tf.messages import reason_of, shorten, show
from vim_tf.models.weights_files import count_elements

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
MEMBERS = {"metadata.json", CONFIG, WEIGHTS}
MOST_BYTES = 2**29  # of all members, unpacked
MOST_RATIO = 100  # unpacked size of a member divided by its packed size
MOST_CONFIG = 2**22  # bytes
MOST_DEPTH = 100
MOST_NUMBER = 2**20  # in the config
MOST_CALLS = 5_000  # of layers

# The layers of image classifiers. Lambda and layers of other libraries (TFSMLayer,
# TorchModuleWrapper, JaxLayer, FlaxLayer) run code; StringLookup and similar layers read files.
LAYERS = set(
    """
InputLayer Dense EinsumDense Activation ReLU LeakyReLU PReLU ELU Softmax Identity
Conv1D Conv2D DepthwiseConv2D SeparableConv2D Conv2DTranspose
MaxPooling2D AveragePooling2D GlobalAveragePooling2D GlobalMaxPooling2D
AdaptiveAveragePooling2D AdaptiveMaxPooling2D GlobalAveragePooling1D GlobalMaxPooling1D
BatchNormalization LayerNormalization GroupNormalization RMSNormalization UnitNormalization
Dropout SpatialDropout2D GaussianDropout GaussianNoise AlphaDropout ActivityRegularization
Add Subtract Multiply Average Maximum Minimum Concatenate Dot
Flatten Reshape Permute RepeatVector Cropping2D ZeroPadding2D UpSampling2D
MultiHeadAttention GroupQueryAttention Attention AdditiveAttention
Rescaling Normalization Resizing CenterCrop
RandomBrightness RandomContrast RandomCrop RandomFlip RandomRotation RandomTranslation RandomZoom
""".split()
)
OPERATIONS = {"Add", "Subtract", "Multiply", "TrueDivide"}  # of keras.ops; x + y becomes Add
MODELS = {"Functional", "Sequential"}
# Modules whose classes of one kind may be named in a layer's config.
KINDS = {
    "keras.initializers": keras.initializers.Initializer,
    "keras.regularizers": keras.regularizers.Regularizer,
    "keras.constraints": keras.constraints.Constraint,
}
# Config keys whose numbers are not sizes.
_FREE = {"seed", "shared_object_id"}


def load_archive(data: bytes, name: str) -> keras.Model:
    """Loads a model from the bytes of a .keras file.

    Args:
        data: the bytes.
        name: the file's name in errors.

    Returns:
        The functional or sequential model, not compiled.

    Raises:
        UserError: the bytes are no such file or are damaged, a layer is not among `LAYERS`, or the
            layers have more weights than the file holds.
    """
    try:
        most = _check_archive(data, name)
        # Keras gets the checked bytes, even if the original file has changed.
        with tempfile.TemporaryDirectory(prefix="vim_tf_") as folder:
            path = os.path.join(folder, "model.keras")
            with open(path, "wb") as file:
                file.write(data)
            with tf.variable_creator_scope(_limit_weights(most, name)):
                return keras.saving.load_model(path, compile=False, safe_mode=True)
    except UserError:
        raise
    except Exception as error:  # zipfile and Keras raise many types for a damaged file
        raise UserError(f"{name} cannot be loaded as a Keras model: {reason_of(error)}") from None


def _check_archive(data: bytes, name: str) -> int:
    """Checks members, config and weights; returns the number of weights."""
    if data.count(b"PK\1\2") > 100:  # each starts a member's entry in the directory
        raise UserError(f"{name} is an archive of more than {len(MEMBERS)} files")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        for member in members:
            if member.filename not in MEMBERS or names.count(member.filename) > 1:
                allowed = ", ".join(sorted(MEMBERS))
                raise UserError(
                    f"{name} holds {show(member.filename)}; allowed are {allowed}, once each"
                )
            if member.file_size > MOST_RATIO * max(member.compress_size, 1):
                raise UserError(
                    f"{name}: {member.filename} unpacks to {member.file_size:,} bytes, more than "
                    f"{MOST_RATIO} times its stored size"
                )
        if sum(member.file_size for member in members) > MOST_BYTES:
            raise UserError(f"{name} holds more than 512 MiB")
        for wanted in (CONFIG, WEIGHTS):
            if wanted not in names:
                raise UserError(f"{name} is no Keras model file: it holds no {wanted}")
        if archive.getinfo(CONFIG).file_size > MOST_CONFIG:
            raise UserError(f"{name} has a {CONFIG} of more than 4 MiB")
        config = json.loads(archive.read(CONFIG))
        _check_config(config, name)
        return count_elements(io.BytesIO(archive.read(WEIGHTS)), f"{WEIGHTS} of {name}")


# The config ---------------------------------------------------------------------------------------


def _check_config(config: Any, name: str) -> None:
    if not isinstance(config, dict) or config.get("class_name") not in MODELS:
        raise UserError(f"{name} holds no functional or sequential model")
    ours = keras.saving.get_custom_objects()
    # Keras does not read the outer `compile_config`, but it would read that of an inner model.
    waiting: list[tuple[str, Any, int]] = [("", {**config, "compile_config": None}, 0)]
    while waiting:
        key, value, depth = waiting.pop()
        if depth > MOST_DEPTH:
            raise UserError(f"{name} has a config that is nested more than {MOST_DEPTH} deep")
        if isinstance(value, dict):
            if "class_name" in value:
                _check_class(value, name)
                if value["class_name"] in MODELS and key not in ("", "layers"):
                    raise UserError(f"{name} has a model as {shorten(key)}; no layer can be there")
            waiting += [(key, inner, depth + 1) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(key, inner, depth + 1) for inner in value]
        elif isinstance(value, str):
            if value in ours:
                raise UserError(f"{name} names {shorten(value)}, which is not part of Keras")
        elif value is not None and key not in _FREE and not abs(value) <= MOST_NUMBER:
            raise UserError(
                f"{name} has {shorten(key)} of {shorten(str(value))}; at most {MOST_NUMBER:,} is "
                "allowed"
            )
    calls = _count_calls(config, name)
    if calls > MOST_CALLS:
        raise UserError(f"{name} calls {calls:,} layers; at most {MOST_CALLS:,} are allowed")


def _check_class(entry: dict[str, Any], name: str) -> None:
    kind, module, config = (entry.get(key) for key in ("class_name", "module", "config"))
    if kind == "__keras_tensor__":
        return
    registered = entry.get("registered_name")
    allowed = False
    if isinstance(kind, str) and isinstance(module, str) and registered in (None, kind, config):
        if module in KINDS:
            found = getattr(keras, module.removeprefix("keras."))
            found = getattr(found, kind, None)
            allowed = isinstance(found, type) and issubclass(found, KINDS[module])
        elif kind == "function":
            allowed = module in ("keras.activations", "builtins") and _is_activation(config)
        elif kind in MODELS:
            allowed = module in ("keras", "keras.models", f"keras.src.models.{kind.lower()}")
        else:
            allowed = (
                (module == "keras.layers" and kind in LAYERS)
                or (module == "keras.src.ops.numpy" and kind in OPERATIONS)
                or (module, kind) == ("keras", "DTypePolicy")
            )
    if not allowed:
        more = "" if registered is None else f", registered as {show(registered)}"
        raise UserError(
            f"{name} has {show(kind)} of {show(module)}{more}, which is not among the layers that "
            "a classifier may have; nothing of the file was loaded"
        )


def _is_activation(config: Any) -> bool:
    return isinstance(config, str) and callable(getattr(keras.activations, config, None))


def _count_calls(model: dict[str, Any], name: str) -> int:
    """Counts the calls of layers while a model is built; nested models multiply."""
    calls = 0
    try:
        for layer in model["config"]["layers"]:
            times = len(layer["inbound_nodes"]) if model["class_name"] == "Functional" else 1
            within = _count_calls(layer, name) if layer["class_name"] in MODELS else 1
            calls += (times + 1) * within
    except (TypeError, KeyError):
        raise UserError(f"{name} has a config that describes no model") from None
    return calls


# Weights ------------------------------------------------------------------------------------------


def _limit_weights(most: int, name: str) -> Callable[..., tf.Variable]:
    """Returns a variable creator that refuses to create more weights than `most`.

    It initializes all weights with zeros, because those of the file are loaded afterwards.
    """
    made = 0

    def create(next_creator: Callable[..., tf.Variable], **options: Any) -> tf.Variable:
        nonlocal made
        value = options["initial_value"]
        with tf.Graph().as_default():  # nothing is computed in a graph
            first: Tensor = tf.convert_to_tensor(value() if callable(value) else value)
        shape, dtype = first.shape.as_list(), first.dtype
        # States of random number generators have two values each; no file contains them.
        made += 0 if dtype.is_integer and math.prod(shape) <= 2 else math.prod(shape)
        if made > most:
            raise UserError(
                f"{name} describes layers of {made:,} weights or more, but holds {most:,}"
            )
        return next_creator(**options | {"initial_value": lambda: tf.zeros(shape, dtype)})

    return create
