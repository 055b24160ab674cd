"""Resizes images to the input size of a feature network. FID depends on how this is done.

Three modes are in use, and figures of different modes cannot be compared (arXiv 2104.11222):

- `adm`: 8-bit images go into the frozen Inception graph, and the graph resizes them. The evaluator
  of ADM (openai/guided-diffusion, evaluations/evaluator.py) and the first FID code
  (bioinf-jku/TTUR) do the same. Nothing is resized here.
- `legacy`: the same resize, done here: bilinear without antialiasing, corners not aligned, source
  position = target position x scale, in float32, not rounded. It equals `adm` on the Inception
  graph, and works for any network.
- `clean`: Pillow's bicubic filter, which antialiases, on each channel as float32. Values are
  neither rounded nor clipped, so some are a little below 0 or above 255. clean-fid
  (GaParmar/clean-fid, cleanfid/resize.py) calls this mode `clean`.

In every mode the input is the 8-bit image: a generator's floats are rounded first.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from PIL import Image

MODES = ("adm", "clean", "legacy")


def resize_clean(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes with Pillow's antialiased bicubic filter, in float.

    Args:
        images: uint8 [B,h,w,3].
        size: (H, W) in pixels.

    Returns:
        float32 [B,H,W,3] in grey levels, 0 to 255 and a little beyond.
    """
    height, width = size
    resized = np.empty((len(images), height, width, 3), "float32")
    for i, image in enumerate(images):
        for channel in range(3):
            plane = Image.fromarray(image[..., channel].astype("float32"))  # mode F, [h,w]
            resized[i, ..., channel] = plane.resize((width, height), Image.Resampling.BICUBIC)
    return resized


def resize_legacy(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes like TensorFlow 1's bilinear operation: no antialiasing, no half-pixel centres.

    Args:
        images: uint8 [B,h,w,3].
        size: (H, W) in pixels.

    Returns:
        float32 [B,H,W,3] in grey levels from 0 to 255.
    """
    resized = tf.raw_ops.ResizeBilinear(
        images=images, size=size, align_corners=False, half_pixel_centers=False
    )
    return resized.numpy()


RESIZERS: dict[str, Callable[[np.ndarray, tuple[int, int]], np.ndarray]] = {
    "clean": resize_clean,
    "legacy": resize_legacy,
}
