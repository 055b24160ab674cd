"""LPIPS' linear heads: `read_heads.py WEIGHTS IMAGES.npy OUT.npz`; the images are not used.

It runs in the reference environment. OUT gets the weights by their names.
"""

import sys

import numpy as np
import torch

weights, _, out = sys.argv[1:]
state = torch.load(weights, map_location="cpu", weights_only=True)
np.savez(out, **{f"weights/{name}": tensor.numpy() for name, tensor in state.items()})
