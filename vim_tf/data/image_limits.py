"""How many pixels of one image are decoded, so that memory is bounded by what the model needs.

A file of a few kilobytes can state any number of pixels. An image above the limit is refused by
its header, before anything is allocated for its pixels.
"""

# 8K frames (33.2 million pixels) and the files of cameras of 24 to 33 megapixels are below it.
LEAST = 2**25
SIDES = 8  # the limit of a large model: as many times its image's height and width
MOST = 100_000_000
# At most, for each image that is decoded at a time. A PNG with alpha takes 7; a progressive JPEG
# 12, for all its coefficients are held; an animated WebP 17, by Pillow. TensorFlow keeps memory
# that it has freed for later, beside what others take then.
BYTES_PER_PIXEL = 26


def pixel_limit(image_size=None):
    """Returns the most pixels of one image that are decoded for a model.

    It holds for what is decoded: PNG, GIF, BMP and WebP are decoded whole; a JPEG above it is
    decoded at 1/2, 1/4 or 1/8 of its height and width. Decoding takes at most `BYTES_PER_PIXEL`
    bytes for each of them.

    Args:
        image_size: (H, W) of the model's images; None where images are taken as they are.

    Returns:
        64 * H * W, at least `LEAST` and at most `MOST`.
    """
    height, width = image_size or (0, 0)
    return min(max(LEAST, SIDES**2 * height * width), MOST)
