"""Samples as single PNG files in a folder, with their settings beside them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vim_tf.drawing import grids
from vim_tf.files import write_atomically

SETTINGS_FILE = "samples.json"
_LONGEST = 40  # characters of a class name in a file name


def file_name(index: int, count: int, seed: int, label: int | None, name: str = "") -> str:
    """Returns the name of a sample's file: its index, the seed, and its label if it has one.

    Args:
        index: of the sample, from 0.
        count: number of samples; so all indices have the same number of digits.
        seed: as in `ImageGenerator.generate`; the sample is a function of (seed, index).
        label: number of its class, or None.
        name: name of its class; what may be no part of a file name becomes "-".

    Returns:
        For example "0012_seed7_label3_red-cats.png".
    """
    place = f"{index:0{len(str(max(count - 1, 0)))}}_seed{seed}"
    if label is None:
        return f"{place}.png"
    safe = "".join(character if character.isalnum() else "-" for character in name[:_LONGEST])
    return f"{place}_label{label}_{safe}.png"


def write_samples(
    folder: Path,
    batches: Iterable[np.ndarray],
    labels: Sequence[int] | None,
    class_names: Sequence[str],
    count: int,
    settings: Mapping[str, Any],
    zoom: int = 1,
) -> None:
    """Writes one PNG for each sample, and last `samples.json` with all settings.

    Each PNG has its own settings in its text chunks, see `grids.write_png`.

    Args:
        folder: an existing folder.
        batches: yields uint8 [B,H,W,3].
        labels: number of the class of each sample; None without labels.
        class_names: name of class i at place i.
        count: number of samples.
        settings: what the samples were made with, with the key `seed`; for JSON.
        zoom: every pixel becomes zoom x zoom pixels.
    """
    made = []
    for image in (image for batch in batches for image in batch):
        index = len(made)
        label = None if labels is None else int(labels[index])
        one: dict[str, Any] = {"index": index, "label": label}
        if label is not None:
            one["class"] = class_names[label]
        name = file_name(index, count, settings["seed"], label, one.get("class", ""))
        grids.write_png(folder / name, grids.enlarge(image, zoom), {**settings, **one})
        made.append({"file": name, **one})
    text = json.dumps({**settings, "images": made}, indent=1, ensure_ascii=False)
    write_atomically(folder / SETTINGS_FILE, f"{text}\n")
