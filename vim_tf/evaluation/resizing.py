"""How an image comes to the size that a feature network takes; FID hangs on it.

Three modes are in use, and figures of different modes cannot be compared (arXiv 2104.11222):

- `adm`: 8-bit images go into the frozen Inception graph, which resizes them itself. What the
  evaluator of ADM (openai/guided-diffusion, evaluations/evaluator.py) and the first FID code
  (bioinf-jku/TTUR) do. Nothing is resized here.
- `legacy`: that same resize, done here: bilinear without antialiasing, corners not aligned, source
  position = target position x scale, in float32, not rounded. Equals `adm` on the Inception graph,
  and can be had for any network.
- `clean`: Pillow's bicubic filter, which antialiases, on each channel as float32, neither rounded
  nor clipped, so that values a little below 0 and above 255 occur. What clean-fid
  (GaParmar/clean-fid, cleanfid/resize.py) calls `clean`.

In every mode the input is the 8-bit image: a generator's floats are rounded first.
"""

import numpy as np
import tensorflow as tf
from PIL import Image

MODES = ("adm", "clean", "legacy")


def resize_clean(images, size):
    """Resizes by Pillow's antialiased bicubic filter, in float.

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


def resize_legacy(images, size):
    """Resizes as TensorFlow 1's bilinear operation did: no antialiasing, no half-pixel centres.

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


RESIZERS = {"clean": resize_clean, "legacy": resize_legacy}
