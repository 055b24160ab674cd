"""The pseudo-LPIPS of `benchmarks/build_pseudo_lpips.py`."""

import sys
from pathlib import Path

import numpy as np
import pytest

from vim_tf.errors import UserError
from vim_tf.evaluation.lpips import BLOCKS, open_lpips

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import build_pseudo_lpips as module


@pytest.mark.large
def test_the_real_one_ranks_a_blur_and_another_image(tmp_path):
    """It is built from the packages; building compares it with the definition."""
    out = tmp_path / "x.safetensors"
    module.main(["--out", str(out)])
    lpips = open_lpips(out)
    assert lpips.name == "pseudo-LPIPS[hed]"
    first, second = (
        photograph[None] / np.float32(127.5) - 1
        for photograph in module.reference.load_photographs(64).values()
    )
    blurred = (first + np.roll(first, 1, 1) + np.roll(first, 1, 2) + np.roll(first, 2, 1)) / 4
    near, far = lpips(first, blurred)[0], lpips(first, second)[0]
    assert lpips(first, first)[0] == 0 < near < far


def test_other_distances_than_the_definitions_are_refused(monkeypatch, tmp_path, lpips_tensors):
    """Uses random convolutions: the trunk that the definition reads is another one."""
    rng = np.random.default_rng(0)
    convolutions, inputs = [], 3
    for places, channels in BLOCKS:
        for _ in places:
            shape = (3, 3, inputs, channels)
            convolutions.append((rng.normal(0, 0.05, shape), rng.normal(0, 0.05, channels)))
            inputs = channels
    features = [rng.normal(size=(2, 4, 4, channels)) for _, channels in BLOCKS]
    monkeypatch.setattr(module, "PerceptualFeatures", lambda network: lambda images: features)
    heads = {f"lin{i}.model.1.weight": lpips_tensors[f"lin{i}.model.1.weight"] for i in range(5)}
    tensors = module.make_tensors(convolutions, heads)
    path = tmp_path / "x.safetensors"
    path.write_bytes(module.save(tensors, metadata={"name": module.NAME}))
    photographs = rng.integers(0, 256, (2, 64, 64, 3)).astype("uint8")
    with pytest.raises(UserError, match="the distance is .*, and the definition's .*; nothing wr"):
        module.check(path, path, tensors, photographs)
