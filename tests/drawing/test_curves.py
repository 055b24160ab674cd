import numpy as np
from PIL import Image

from vim_tf.drawing import curves


def test_curves_are_drawn(tmp_path):
    records = [{"step": step, "kind": "train", "total": 1 / step} for step in (1, 2, 3)]
    records.append({"step": 3, "kind": "evaluation", "psnr": 20.0})
    panels = [("loss", True, [("train", "total")]), ("PSNR", False, [("evaluation", "psnr")])]
    absent = ("discriminator", False, [("train", "r1")])
    curves.draw_curves(records, panels, tmp_path / "full.png")
    curves.draw_curves([], panels, tmp_path / "empty.png")
    curves.draw_curves(records, [*panels, absent], tmp_path / "without.png")
    assert (tmp_path / "without.png").read_bytes() == (tmp_path / "full.png").read_bytes()
    full, empty = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("full", "empty"))
    assert full.shape == empty.shape
    half = full.shape[1] // 2
    coloured = np.ptp(full[..., :3].astype(int), axis=-1) > 50
    assert coloured[:, :half].any()
    assert coloured[:, half:].any()
    assert not np.any(np.ptp(empty[..., :3].astype(int), axis=-1) > 50)


def test_the_probe_is_drawn_by_block(tmp_path):
    features = {
        "tokenizer": {"validation": 0.5},
        "pixels": {"validation": 0.4},
        "block_0": {"validation": 0.3},
        "block_7": {"validation": 0.9},
    }
    baselines = {"tokenizer": "tokenizer's encoder", "pixels": "raw pixels"}
    tested = {"block_7": 0.8, "tokenizer": 0.5, "pixels": 0.4}
    curves.draw_probe(features, tested, baselines, tmp_path / "x.png")
    pixels = np.asarray(Image.open(tmp_path / "x.png"))[..., :3].astype(int)
    first, second = (np.abs(pixels - c).max(-1) < 30 for c in ((31, 119, 180), (255, 127, 14)))
    (rows, columns), (star, _) = first.nonzero(), second.nonzero()
    # The line of the blocks rises from left to right. The star of the test is a little lower.
    left = rows[columns < pixels.shape[1] / 4].max()
    assert rows.min() < star.min() < left
    assert left - rows.min() > 0.5 * len(pixels)
