"""VIM sampled by LiteRT: one position at a time by an exported file, drawn as `VIM.generate` draws.

LiteRT reads weights as fast as the memory gives them, and a quarter as many bytes if they are int8;
of one image that is nearly all the work there is.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vim_tf import formats
from vim_tf.annotations import StrPath
from vim_tf.config.checks import tokens
from vim_tf.errors import UserError
from vim_tf.files import hash_file
from vim_tf.generation.litert import open_interpreter
from vim_tf.models.attention import HIDDEN
from vim_tf.sampling.sample import ModifyLogits
from vim_tf.sampling.sample_numpy import draw
from vim_tf.sampling.settings import check_settings

ABOUT_FILE = "generator.json"  # beside the files
ADVICE = "export the run again"
_COUNT = {"type": "integer", "minimum": 1, "maximum": 2**24}
ABOUT_SCHEMA = formats.json_object(
    grid={"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2},
    codes=_COUNT,
    classes={**_COUNT, "minimum": 0},
    label_drop={"type": "number", "minimum": 0, "maximum": 1},
    class_names={"type": "array", "items": {"type": "string"}},
    weights={"type": "string"},
    files={"type": "object", "additionalProperties": {"type": "string"}},
)
NEXT_LOGITS = "next_logits"  # their signature
# The cache grows in so many parts, since all that is there is read at each position. LiteRT packs
# weights again each time; more parts are not faster.
PARTS = 4


class LiteVIM:
    """Samples images as tokens, with the numbers of `VIM` and the speed of LiteRT on a CPU.

        model = LiteVIM("out/tflite/1/generator_dynamic_int8.tflite")
        tokens = model.generate(labels, seed=0)  # [B] -> [B,N]

    Args:
        path: a generator_*.tflite of an export, with its generator.json beside it.

    Attributes:
        path: the file.
        grid: rows and columns of tokens; N is their product.
        codes: number of codes K.
        classes: number of labels; 0 where there are none.
        label_drop: `model.label_drop` of its training.
        weights: hash of the weights that it was exported from, `VIM.model_hash`.

    Raises:
        UserError: LiteRT is not installed, or this is no such file.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = path = Path(path)
        about = path.with_name(ABOUT_FILE)
        for file in (path, about):
            if not file.is_file():
                raise UserError(
                    f"{file} is not there; give a generator_*.tflite in the folder that an export "
                    "of a VIM made, with its generator.json"
                )
        facts = formats.read_json(about, "export", ADVICE, ABOUT_SCHEMA)
        # Hashed before it is parsed: LiteRT would draw other images from a damaged file.
        if hash_file(path) != facts["files"].get(path.name):
            raise UserError(f"{path} does not have the hash in {ABOUT_FILE}; {ADVICE}")
        rows, columns = facts["grid"]
        tokens(rows, columns, f"{about}: grid")
        self.grid = (rows, columns)
        self.codes, self.classes = facts["codes"], facts["classes"]
        self.label_drop, self.weights = facts["label_drop"], facts["weights"]
        try:
            self._interpreter = open_interpreter(path)
        except ValueError as error:
            raise UserError(f"{path} is no LiteRT file ({error}); export it again") from None
        if NEXT_LOGITS not in self._interpreter.get_signature_list():
            raise UserError(f"{path} generates nothing; give a generator_*.tflite")
        runner = self._interpreter.get_signature_runner(NEXT_LOGITS)
        inputs = runner.get_input_details()
        missing = {"previous", "labels", "position", "hidden"} - set(inputs)
        if missing:
            raise UserError(f"{path} takes no {', '.join(sorted(missing))}; export the run again")
        self._inputs = {name: detail["index"] for name, detail in inputs.items()}
        self._shapes = {name: detail["shape"] for name, detail in inputs.items()}
        outputs = runner.get_output_details()
        codes = outputs["logits"]["shape"][-1] if "logits" in outputs else None
        if codes != self.codes:
            raise UserError(f"{path} answers with {codes} codes, not {self.codes:,}; {ADVICE}")
        self._outputs = {name: detail["index"] for name, detail in outputs.items()}
        self._cache = [name for name in inputs if name.startswith(("keys_", "values_"))]
        self._stretch = math.ceil(self.tokens_per_image / PARTS)
        self._size = (0, 0)  # rows and length of the cache

    @property
    def tokens_per_image(self) -> int:
        """Number of tokens N of an image."""
        return self.grid[0] * self.grid[1]

    def generate(
        self,
        labels: ArrayLike | None = None,
        seed: ArrayLike = 0,
        *,
        callback: Callable[[int, int], object] | None = None,
        modify_logits: ModifyLogits | None = None,
        **settings: Any,
    ) -> np.ndarray:
        """Samples images as tokens; arguments, answer and errors are those of `VIM.generate`.

        `modify_logits` gets NumPy arrays.
        """
        checked = check_settings(
            self.codes, self.classes, labels, seed, label_drop=self.label_drop, **settings
        )
        rows = checked.labels
        tokens = np.zeros((self.tokens_per_image, len(rows)), "int32")
        if checked.guidance_scale is not None:
            rows = np.concatenate([rows, np.full_like(rows, self.classes)])  # [2B]
        self._start(rows)
        previous = np.zeros_like(rows)
        for position in range(self.tokens_per_image):
            logits = self._next_logits(previous, position)
            tokens[position] = draw(logits, position, *checked[1:], modify_logits=modify_logits)
            previous = np.resize(tokens[position], len(rows))
            if callback is not None and (position + 1) % self.grid[1] == 0:
                callback(position + 1, self.tokens_per_image)
        return tokens.T.copy()

    def logits(self, tokens: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """Predicts every token, as `VIM` does: [B,N] int32 and [B] int32 -> [B,N,K] float32."""
        if labels is None:
            labels = np.full(len(tokens), self.classes, "int32")
        self._start(labels)
        previous = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))  # [B,N]
        predicted = [self._next_logits(x, i) for i, x in enumerate(previous.T)]
        return np.stack(predicted, axis=1)

    def _start(self, labels):
        """Begins with an empty cache for the rows of labels [B]."""
        self._make_room(labels, self._stretch)

    def _make_room(self, labels, length):
        """Gives the cache room for `length` positions, empty."""
        size = len(labels), length
        if self._size != size:  # which packs the weights again
            self._size = size
            for name, place in self._inputs.items():
                self._interpreter.resize_tensor_input(place, self._shape(name))
            self._interpreter.allocate_tensors()
        self._interpreter.set_tensor(self._inputs["labels"], labels)
        for name in self._cache:
            self._entries(name)[:] = 0

    def _shape(self, name):
        """The shape that an input has now."""
        rows, length = self._size
        if name in self._cache:
            _, heads, _, head_dim = self._shapes[name]
            return rows, heads, length, head_dim
        return {"position": (), "hidden": (length,)}.get(name, (rows,))

    def _entries(self, name):
        """What lies in the cache, as a view [B,heads,M,head_dim]; not to be kept."""
        return self._interpreter.tensor(self._inputs[name])()

    def _grow(self):
        """Makes the cache longer by a stretch."""
        (_, length), labels = self._size, self._interpreter.get_tensor(self._inputs["labels"])
        kept = {name: self._entries(name).copy() for name in self._cache}
        self._make_room(labels, min(length + self._stretch, self.tokens_per_image))
        for name, entries in kept.items():
            self._entries(name)[:, :, :length] = entries

    def _next_logits(self, previous, position):
        """As `VIM.next_logits`, at each position in turn: previous [B] int32 -> [B,K] float32."""
        if position == self._size[1]:
            self._grow()
        hidden = np.where(np.arange(self._size[1]) < position, 0, HIDDEN).astype("float32")
        self._interpreter.set_tensor(self._inputs["hidden"], hidden)
        self._interpreter.set_tensor(self._inputs["previous"], np.ascontiguousarray(previous))
        self._interpreter.set_tensor(self._inputs["position"], np.array(position, "int32"))
        try:
            self._interpreter.invoke()
        except RuntimeError as error:  # of a file whose generator.json says other sizes
            reason = str(error).splitlines()[0]
            raise UserError(f"{self.path} cannot be run ({reason}); {ADVICE}") from None
        # LiteRT leaves its inputs as they are, so that the cache stays there and grows in place.
        for name in self._cache:
            entry = self._interpreter.get_tensor(self._outputs[name])  # [B,heads,1,head_dim]
            self._entries(name)[:, :, position] = entry[:, :, 0]
        return self._interpreter.get_tensor(self._outputs["logits"])
