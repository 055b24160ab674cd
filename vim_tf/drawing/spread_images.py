"""A few images from all over a split, for views: the first ones may all be of one class."""

import numpy as np

from vim_tf.data.transforms import to_uint8


def spread_images(data, split, count):
    """Returns images at even distances in a split's stored order.

    Args:
        data: the `vim_tf.data.images.ImageData`.
        split: "validation" or "train".
        count: how many; all, if the split has no more.

    Returns:
        (uint8 [n,H,W,3], int32 labels [n]), n <= count.
    """
    size = data.splits[split].size
    count = min(count, size)
    chosen = np.arange(size) * count // size  # the number of its part, for each image
    chosen = np.flatnonzero(np.diff(chosen, prepend=-1))  # the first of each part
    images, labels, start = [], [], 0
    for batch in data.evaluation(split):
        stop = start + len(batch["label"])
        places = chosen[(chosen >= start) & (chosen < stop)] - start
        images.append(to_uint8(batch["image"].numpy()[places]))
        labels.append(batch["label"].numpy()[places])
        start = stop
    return np.concatenate(images), np.concatenate(labels)
