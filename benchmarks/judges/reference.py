"""Photographs, and the client of the scripts that run in the reference environment."""

import os
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from vim_tf.errors import UserError
from vim_tf.messages import shorten

ENVIRONMENT = "VIM_TF_REFERENCE_PYTHON"
HERE = Path(__file__).parent


def load_photographs(size=224):
    """Returns {file name: uint8 [size,size,3]} of scikit-learn's two photographs.

    They are cropped as EfficientNet's evaluation on ImageNet does: the central square without 1/16
    at each side, resized.
    """
    found = load_sample_images()
    box = (size, size)
    photographs = {}
    for path, pixels in zip(found.filenames, found.images, strict=True):
        image = ImageOps.fit(Image.fromarray(pixels), box, Image.Resampling.BICUBIC, bleed=1 / 16)
        photographs[Path(path).name] = np.asarray(image)
    return photographs


def python():
    """Returns the Python of the reference environment.

    Raises:
        UserError: there is none.
    """
    path = Path(
        os.environ.get(ENVIRONMENT) or HERE.parents[1] / ".venv-reference" / "bin" / "python"
    )
    if not path.is_file():
        raise UserError(
            f"{path} is not there; `make judges` installs it, or name another by {ENVIRONMENT}"
        )
    return path


def ask(script, files, images, folder):
    """Runs a script of this folder.

    Args:
        script: its name.
        files: paths that it reads.
        images: uint8 [B,H,W,3].
        folder: an existing folder for its answer.

    Returns:
        {name: array}: the weights, under "weights/<name>", and what the script's docstring says.

    Raises:
        UserError: the script failed.
    """
    given, out = Path(folder) / "images.npy", Path(folder) / "answer.npz"
    np.save(given, images)
    done = subprocess.run(
        [python(), HERE / script, *files, given, out],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UserError(
            f"{script} failed in {python()}: {shorten(last)}; `make judges` installs what it needs"
        )
    with np.load(out) as answer:
        return dict(answer)
