"""An EfficientNet-Lite0 in PyTorch: `read_torch.py WEIGHTS CODE.whl IMAGES.npy OUT.npz`.

It runs in the reference environment. OUT gets the weights by their names, and what the network's
own code computes from the images: features and logits.
"""

import sys

import numpy as np
import torch

weights, code, images, out = sys.argv[1:]
sys.path.insert(0, code)  # Python imports from a wheel without installing it
from efficientnet_lite_pytorch import EfficientNet  # noqa: E402

torch.set_num_threads(1)
state = torch.load(weights, map_location="cpu", weights_only=True)
network = EfficientNet.from_name("efficientnet-lite0").eval()
network.load_state_dict(state)  # raises if a name is missing or unknown
inputs = (torch.from_numpy(np.load(images)).float() - 127) / 128
pooled = []
network._fc.register_forward_pre_hook(lambda _, given: pooled.append(given[0]))
with torch.no_grad():
    logits = network(inputs.permute(0, 3, 1, 2))
arrays = {f"weights/{name}": tensor.numpy() for name, tensor in state.items()}
np.savez(out, features=pooled[0].numpy(), logits=logits.numpy(), **arrays)
