"""Cutting images into patches and putting them together again, exact inverses of each other."""

from keras import ops

from vim_tf.annotations import Tensor


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cuts images into a raster of flattened patches.

    Args:
        images: [B,H,W,C]; H and W are multiples of `patch_size`.
        patch_size: side P of a patch in pixels.

    Returns:
        [B, (H/P)(W/P), P*P*C], patches in raster order, each flattened row by row. A 32 x 48
        RGB image in patches of 8 gives [B, 24, 192].

    Raises:
        ValueError: a side is no multiple of `patch_size`.
    """
    height, width, channels = images.shape[1:]
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"images are {height} x {width} and patch_size is {patch_size}; both sides must be "
            "multiples of it"
        )
    rows, columns = height // patch_size, width // patch_size
    x = ops.reshape(images, (-1, rows, patch_size, columns, patch_size, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # [B,rows,columns,P,P,C]
    return ops.reshape(x, (-1, rows * columns, patch_size * patch_size * channels))


def unpatchify(patches: Tensor, patch_size: int, grid: tuple[int, int]) -> Tensor:
    """Puts patches back together; `unpatchify(patchify(x, P), P, grid)` is x.

    Args:
        patches: [B,N,P*P*C] in raster order.
        patch_size: side P of a patch in pixels.
        grid: rows and columns; N = rows * columns.

    Returns:
        [B, rows*P, columns*P, C].
    """
    rows, columns = grid
    channels = patches.shape[-1] // patch_size**2
    x = ops.reshape(patches, (-1, rows, columns, patch_size, patch_size, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # [B,rows,P,columns,P,C]
    return ops.reshape(x, (-1, rows * patch_size, columns * patch_size, channels))
