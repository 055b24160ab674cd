"""The most pixels of one image that are decoded: memory is bounded by the model's needs.

A file of a few kilobytes can state any number of pixels. An image above the limit is refused by
its header, before memory for its pixels is allocated.
"""

# 8K frames (33.2 million pixels) and photos of cameras of 24 to 33 megapixels are below it.
LEAST = 2**25
SIDES = 8  # the limit of a large model: this many times its image's height and width
MOST = 100_000_000
# The most for each image that is decoded at the same time. A PNG with alpha takes 7; a progressive
# JPEG 12, because all its coefficients are held; an animated WebP 17 and AVIF and HEIC 12 to 19, by
# Pillow. TensorFlow keeps freed memory for later use, in addition to the memory that other images
# take then: 33 were measured.
BYTES_PER_PIXEL = 36
# No file of a JPEG in one pass has more: a block of 64 pixels takes two bits at least.
JPEG_PIXELS_PER_BYTE = 256


def pixel_limit(image_size: tuple[int, int] | None = None) -> int:
    """Returns the most pixels of one image that are decoded for a model.

    The limit is for the decoded pixels: PNG, GIF, BMP and WebP are decoded whole; a JPEG above it
    is decoded at 1/2, 1/4 or 1/8 of its height and width. Its full size has no limit, unless a
    decoder holds all its coefficients (a progressive file). Decoding takes at most
    `BYTES_PER_PIXEL` bytes per decoded pixel.

    Args:
        image_size: (H, W) of the model's images; None if images keep their size.

    Returns:
        64 * H * W, at least `LEAST` and at most `MOST`.
    """
    height, width = image_size or (0, 0)
    return min(max(LEAST, SIDES**2 * height * width), MOST)
