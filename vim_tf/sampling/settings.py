"""The settings of sampling and their checks: labels, seeds, temperature, filters, guidance."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from vim_tf.annotations import Tensor
from vim_tf.config import checks
from vim_tf.errors import UserError
from vim_tf.messages import shorten
from vim_tf.sampling import sample as sampling


class Allowed(NamedTuple):
    """The numbers that a setting may be: finite ones from `low` to `high`.

    Attributes:
        low: the smallest one; with `above` the largest one that is refused.
        high: the largest one; infinity for any finite number.
        above: whether `low` itself is refused.
        why: why no other number is allowed, for the message; "" if the numbers say it.
    """

    low: int
    high: float = math.inf
    above: bool = False
    why: str = ""

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"at least {self.low}"
        if self.above:
            return f"above {self.low} and at most {self.high}"
        if self.low == self.high:
            return f"{self.low}{self.why}"
        return f"from {self.low} to {self.high}{self.why}"

    def contains(self, values: Tensor) -> Tensor:
        """Compares NumPy arrays or TensorFlow tensors of any shape: bool, False for NaN."""
        good = values > self.low if self.above else values >= self.low
        return good & (values < self.high if self.high == math.inf else values <= self.high)


def allowed_settings(
    codes: int, classes: int, label_drop: float | None = None
) -> dict[str, Allowed]:
    """Returns the values that each setting of a sample may have.

    Args:
        codes: number of codes K.
        classes: number of classes; 0 without labels.
        label_drop: share of the labels that the training replaced by the null label. With 0 the
            null label's embedding is not trained, and guidance reads it. None: not known.
    """
    guidance = Allowed(0)
    if classes and label_drop == 0:
        guidance = Allowed(1, 1, why=f", because guidance {_NEVER_NULL}")
    return {
        "labels": Allowed(0, classes - 1),
        "seed": SEEDS,
        "temperature": Allowed(0),
        "top_k": Allowed(0, codes),
        "top_p": Allowed(0, 1, above=True),
        "guidance_scale": guidance,
    }


_NEVER_NULL = (
    "needs images without label, and this model was trained with model.label_drop 0: it never saw "
    "one"
)


def message(name: str, value: object, allowed: Allowed) -> str:
    """Returns the line that refuses `value`; the SavedModel answers with the same."""
    return f"{name} is {value}; it must be {allowed}"


DTYPES = {
    "labels": "int32",
    "seed": "int32",  # those of uint32 wrap around
    "temperature": "float32",
    "top_k": "int32",
    "top_p": "float32",
    "guidance_scale": "float32",
}
SEEDS = Allowed(-(2**31), 2**32 - 1)  # int32 and uint32


class Settings(NamedTuple):
    """Of B rows, as `VIM.sample_tokens` takes them; None is off for all rows.

    Attributes:
        labels: [B] int32 from 0 to `classes`, which is the null label.
        seeds: [B] int32.
        temperature: [B] float32.
        top_k: [B] int32, or None, and then `top_p` is None, too.
        top_p: [B] float32, or None.
        guidance_scale: [B] float32, or None.
    """

    labels: np.ndarray
    seeds: np.ndarray
    temperature: np.ndarray
    top_k: np.ndarray | None
    top_p: np.ndarray | None
    guidance_scale: np.ndarray | None


def check_settings(
    codes: int,
    classes: int,
    labels: ArrayLike | None = None,
    seed: ArrayLike = 0,
    *,
    n: int | None = None,
    temperature: ArrayLike = 1.0,
    top_k: ArrayLike = 0,
    top_p: ArrayLike = 1.0,
    guidance_scale: ArrayLike = 1.0,
    label_drop: float | None = None,
) -> Settings:
    """Returns the `Settings` of the arguments of `VIM.generate`, for a model of K codes.

    Raises:
        UserError: a value out of range, lengths that disagree, or labels, or none, that the model
            was not trained with; see `allowed_settings` for `label_drop`.
    """
    if labels is not None and classes == 0:
        raise UserError("labels are given, but this model was trained without labels")
    if labels is not None and label_drop == 1:
        raise UserError(
            "labels are given, but this model was trained with model.label_drop 1: it never saw a "
            "label; leave them out"
        )
    if labels is None and classes and label_drop == 0:
        raise UserError(f"labels are missing; sampling without labels {_NEVER_NULL}; give labels")
    given = {
        "labels": classes if labels is None else labels,
        "seed": seed,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "guidance_scale": guidance_scale,
    }
    rows = _count_rows(n, given)
    allowed = allowed_settings(codes, classes, label_drop)
    if labels is None:
        allowed["labels"] = Allowed(classes, classes)  # the null label
    checked = {
        name: _per_row(name, value, allowed[name], DTYPES[name], rows)
        for name, value in given.items()
    }
    if np.ndim(seed) == 0:
        checked["seed"] = np.asarray(sampling.row_seeds(checked["seed"][0], rows))
    guidance = checked["guidance_scale"]
    guides = bool(np.any(guidance != 1))
    filters = bool(np.any(checked["top_k"] > 0) or np.any(checked["top_p"] < 1))
    if guides and labels is None:
        raise UserError(
            f"guidance_scale is {guidance.max():g} without labels; "
            "guidance needs labels and a model that was trained with them"
        )
    return Settings(
        checked["labels"],
        checked["seed"],
        checked["temperature"],
        checked["top_k"] if filters else None,
        checked["top_p"] if filters else None,
        guidance if guides else None,
    )


def _count_rows(n: int | None, given: dict[str, ArrayLike]) -> int:
    """Returns B, on which `n` and every array among the settings must agree."""
    checks.at_least_one(n=n)
    lengths = {"n": int(n)} if n is not None else {}
    for name, value in given.items():
        try:
            shape = np.shape(value)
        except ValueError:
            raise UserError(
                f"{name} has rows of different lengths; give one number, or one for each row"
            ) from None
        if len(shape) > 1:
            raise UserError(f"{name} has the shape {shape}; give one number, or one for each row")
        if shape:
            lengths[name] = shape[0]
    if not lengths:
        return 1
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UserError(f"the numbers of rows disagree: {listed}; give the same for all")
    rows = next(iter(lengths.values()))
    if rows < 1:
        raise UserError(f"{next(iter(lengths))} asks for {rows} rows; ask for at least 1")
    return rows


def _per_row(name: str, value: ArrayLike, allowed: Allowed, dtype: str, rows: int) -> np.ndarray:
    """Returns `value` as [rows] of `dtype`; UserError if it is not allowed."""
    values = np.asarray(value)
    kinds, words = ("iu", "integers") if dtype == "int32" else ("iuf", "numbers")
    if values.dtype.kind == "O" and all(isinstance(one, int) for one in values.flat):
        values = values.astype("float64")  # integers beyond 64 bits, which no setting allows
        kinds += "f"
    if values.dtype.kind not in kinds:
        raise UserError(f"{name} is {shorten(repr(value))}; it takes {words}")
    wrong = ~allowed.contains(values)
    if np.any(wrong):
        one = "label" if name == "labels" else name
        raise UserError(message(one, values[wrong].flat[0], allowed))
    return np.ascontiguousarray(np.broadcast_to(values.astype(dtype), (rows,)))
