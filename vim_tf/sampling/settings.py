"""What an image is sampled with, checked: labels, seeds, temperature, filters, guidance."""

from typing import Any, NamedTuple

import numpy as np

from vim_tf.errors import UserError
from vim_tf.sampling import sample as sampling


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

    labels: Any
    seeds: Any
    temperature: Any
    top_k: Any
    top_p: Any
    guidance_scale: Any


def check_settings(
    codes,
    classes,
    labels=None,
    seed=0,
    *,
    n=None,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    guidance_scale=1.0,
):
    """Returns the `Settings` of what `VIM.generate` is given, for a model of K codes.

    Raises:
        UserError: a value out of range, or lengths that disagree.
    """
    rows = _count_rows(
        n,
        labels=labels,
        seed=seed,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        guidance_scale=guidance_scale,
    )
    temperature = _per_row("temperature", temperature, rows, "float32", 0)
    top_k = _per_row("top_k", top_k, rows, "int32", 0, codes)
    top_p = _per_row("top_p", top_p, rows, "float32", 0, 1)
    if np.any(top_p == 0):
        raise UserError("top_p is 0; it must be above 0 and at most 1, which is off")
    guidance_scale = _per_row("guidance_scale", guidance_scale, rows, "float32", 0)
    guides = bool(np.any(guidance_scale != 1))
    filters = bool(np.any(top_k > 0) or np.any(top_p < 1))
    if guides and (labels is None or classes == 0):
        raise UserError(
            f"guidance_scale is {guidance_scale.max():g} without labels; "
            "guidance needs labels and a model that was trained with them"
        )
    return Settings(
        _check_labels(labels, rows, classes),
        _check_seeds(seed, rows),
        temperature,
        top_k if filters else None,
        top_p if filters else None,
        guidance_scale if guides else None,
    )


def _count_rows(n, **settings):
    """Returns B, on which `n` and every array among the settings must agree."""
    lengths = {"n": n} if n is not None else {}
    for name, value in settings.items():
        shape = np.shape(value)
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


def _per_row(name, value, rows, dtype, low, high=np.inf):
    """Returns `value` as [rows] of `dtype`; UserError outside [low, high]."""
    values = np.asarray(value)
    kind = "integers" if dtype == "int32" else "numbers"
    if values.dtype.kind not in ("iu" if dtype == "int32" else "iuf"):
        raise UserError(f"{name} is {value!r}; it takes {kind}")
    wrong = ~((values >= low) & (values <= high) & np.isfinite(values))
    if np.any(wrong):
        allowed = f"from {low} to {high}" if np.isfinite(high) else f"at least {low}"
        raise UserError(f"{name} contains {values[wrong].flat[0]}; it must be {allowed}")
    return np.ascontiguousarray(np.broadcast_to(values.astype(dtype), (rows,)))


def _check_labels(labels, rows, classes):
    if labels is None:
        return np.full(rows, classes, "int32")
    if classes == 0:
        raise UserError("labels are given, but this model was trained without labels")
    return _per_row("labels", labels, rows, "int32", 0, classes - 1)


def _check_seeds(seed, rows):
    """Returns [rows] int32 seeds from one seed, or from an array of them."""
    seeds = _per_row("seed", seed, rows, "int32", -(2**31), 2**32 - 1)
    return np.asarray(sampling.row_seeds(seeds[0], rows)) if np.ndim(seed) == 0 else seeds
